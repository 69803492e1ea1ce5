//! Downloads of any size, to a file or to standard output.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use reqwest::Response;

use super::CommandError;
use crate::client::{self, Client};

/// Writes the body of a response to the file at `path`, or to standard output. The file appears once the body is
/// complete: until then it is written to `path` with `.part` appended. The request is sent once the file is open.
pub(super) async fn save(
    client: &Client,
    path: Option<&Path>,
    request: impl Future<Output = client::Result<Response>>,
) -> Result<(), CommandError> {
    let Some(path) = path else { return copy(client, request, io::stdout().lock()).await };
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let unwritable = |error| CommandError::Failed(format!("{}: {error}", part.display()));
    let written = copy(client, request, File::create(part).map_err(unwritable)?).await;
    let renamed = written.and_then(|()| fs::rename(part, path).map_err(unwritable));
    if renamed.is_err() {
        // A partial download could be mistaken for a complete one.
        let _ = fs::remove_file(part);
    }
    renamed
}

/// Writes the body to `to` with blocking I/O, because no other task runs on this thread.
async fn copy(
    client: &Client,
    request: impl Future<Output = client::Result<Response>>,
    mut to: impl Write,
) -> Result<(), CommandError> {
    let mut response = request.await?;
    while let Some(chunk) = client.chunk(&mut response).await? {
        to.write_all(&chunk)?;
    }
    Ok(to.flush()?)
}
