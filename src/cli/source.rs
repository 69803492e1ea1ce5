//! The file of an upload: what is in it, and its bytes as a stream of constant memory.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt as _, Stdin},
};
use tokio_util::io::ReaderStream;
use ulid::Ulid;

use super::Failure;
use crate::intake::Format;

/// How much is read at once, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Where recipients come from.
pub struct Source {
    /// How they are written.
    pub format: Format,
    /// Names this content to the server, so that a repeated upload goes on where it was cut.
    pub upload_id: String,
    /// How long it is; unknown of standard input.
    pub bytes: Option<u64>,
    origin: Origin,
}

enum Origin {
    File(PathBuf),
    /// With what was read to see what it is. Gone once it was streamed.
    Stdin(Option<(Bytes, Stdin)>),
}

impl Source {
    /// Looks at the file at `path`, or at standard input for `-`, before anything is asked of the server.
    ///
    /// A file is read through once for its digest, which becomes the upload's id: the same file again is the same upload, and
    /// a changed one is another. Standard input can't be read twice: there `external_id` names the upload.
    ///
    /// Errors: it can't be read; its name tells neither CSV nor NDJSON.
    pub async fn open(path: &Path, external_id: Option<&str>) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Self::of_stdin(external_id).await;
        }
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => Format::Csv,
            Some("ndjson" | "jsonl") => Format::Ndjson,
            _ => {
                return Err(Failure::Usage(format!(
                    "{}: a file of recipients ends in .csv, .ndjson or .jsonl",
                    path.display()
                )));
            }
        };
        let read = path.to_owned();
        let (bytes, upload_id) = tokio::task::spawn_blocking(move || digest(&read))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| unreadable(path, &error))?;
        Ok(Self { format, upload_id, bytes: Some(bytes), origin: Origin::File(path.to_owned()) })
    }

    async fn of_stdin(external_id: Option<&str>) -> Result<Self, Failure> {
        let mut stdin = tokio::io::stdin();
        let (start, format) =
            sniff(&mut stdin).await.map_err(|error| Failure::Failed(format!("standard input: {error}")))?;
        let upload_id = match external_id {
            Some(external_id) => hex::encode(Sha256::digest(external_id)),
            None => Ulid::generate().to_string(),
        };
        Ok(Self { format, upload_id, bytes: None, origin: Origin::Stdin(Some((start, stdin))) })
    }

    /// Its bytes from the beginning; `None` if they can't be had a second time.
    pub async fn stream(&mut self) -> Result<Option<impl Stream<Item = io::Result<Bytes>> + Send + use<>>, Failure> {
        Ok(match &mut self.origin {
            Origin::File(path) => {
                let file = File::open(&*path).await.map_err(|error| unreadable(path, &error))?;
                Some(ReaderStream::with_capacity(file, CHUNK_BYTES).left_stream())
            }
            Origin::Stdin(input) => input.take().map(|(start, stdin)| {
                let rest = ReaderStream::with_capacity(stdin, CHUNK_BYTES);
                stream::once(async move { Ok(start) }).chain(rest).right_stream()
            }),
        })
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("{}: {error}", path.display()))
}

/// The length of a file and the digest of its content.
fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = std::fs::File::open(path)?;
    let (mut digest, mut buffer, mut bytes) = (Sha256::new(), vec![0; CHUNK_BYTES], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, hex::encode(digest.finalize()))),
            n => {
                digest.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

/// The beginning of `input`, up to its first byte that is not blank, and what that says: an object is NDJSON, a header CSV.
async fn sniff(input: &mut (impl AsyncRead + Unpin)) -> io::Result<(Bytes, Format)> {
    let mut start = Vec::new();
    loop {
        let end = start.len();
        if input.take(CHUNK_BYTES as u64).read_buf(&mut start).await? == 0 {
            return Ok((start.into(), Format::Csv));
        }
        if let Some(first) = start[end..].iter().find(|byte| !byte.is_ascii_whitespace()) {
            let format = if *first == b'{' { Format::Ndjson } else { Format::Csv };
            return Ok((start.into(), format));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    async fn bytes(source: &mut Source) -> Vec<u8> {
        let stream = source.stream().await.expect("readable").expect("bytes");
        stream.map_ok(|chunk| chunk.to_vec()).try_concat().await.expect("readable")
    }

    #[tokio::test]
    async fn a_file_is_streamed_as_often_as_it_is_needed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, content) = (dir.path().join("a.csv"), b"to,1\n+5491155550001,Maria\n".repeat(10_000));
        std::fs::write(&path, &content).expect("written");
        let mut source = Source::open(&path, None).await.expect("a source");
        assert_eq!((source.format, source.bytes), (Format::Csv, Some(content.len() as u64)));
        assert_eq!(bytes(&mut source).await, content);
        assert_eq!(bytes(&mut source).await, content);
    }

    #[tokio::test]
    async fn the_same_content_is_the_same_upload_and_another_content_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let id = async |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).expect("written");
            Source::open(&path, Some("crm-77")).await.expect("a source").upload_id
        };
        let first = id("a.csv", "to\n+5491155550001\n").await;
        assert_eq!(id("b.csv", "to\n+5491155550001\n").await, first);
        assert_ne!(id("a.csv", "to\n+5491155550001\n+5491155550002\n").await, first);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_is_told_by_its_name() {
        let told =
            async |path: &str| Source::open(Path::new(path), None).await.map(drop).expect_err("no source").to_string();
        assert_eq!(told("people.xlsx").await, "people.xlsx: a file of recipients ends in .csv, .ndjson or .jsonl");
        assert!(told("/nowhere/people.csv").await.starts_with("/nowhere/people.csv: No such file"));
    }

    #[tokio::test]
    async fn standard_input_is_told_by_its_first_byte() {
        let sniffed = async |text: &'static str| sniff(&mut text.as_bytes()).await.expect("readable");
        assert_eq!(sniffed("to,1\n").await, ("to,1\n".into(), Format::Csv));
        assert_eq!(sniffed(" \n\n{\"to\":\"+5491155550001\"}\n").await.1, Format::Ndjson);
        assert_eq!(sniffed("").await, (Bytes::new(), Format::Csv));
    }
}
