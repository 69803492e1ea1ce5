//! Commands for several things: a call for each, one by one.

use std::{fmt::Display, io};

use super::{CommandError, remedy::with_remedy};
use crate::client::ClientError;

/// Runs `call` for each of `things`, and prints what it returned. A failure is reported under the thing and its `kind`,
/// which ends with a space or is empty. It does not affect the others.
pub(super) async fn each<T: Display, R>(
    kind: &str,
    things: &[T],
    call: impl AsyncFn(&T) -> Result<R, ClientError>,
    print: impl Fn(&T, R) -> io::Result<()>,
) -> Result<(), CommandError> {
    let mut failed = false;
    for thing in things {
        match call(thing).await {
            Ok(answer) => print(thing, answer)?,
            Err(error) => {
                failed = true;
                eprintln!("pregon: {kind}{thing}: {}", with_remedy(&error));
            }
        }
    }
    if failed { Err(CommandError::Reported) } else { Ok(()) }
}
