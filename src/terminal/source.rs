//! The file of an upload: its format, its digest, and its bytes as a stream in constant memory.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::Stream;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, BufReader},
    task::spawn_blocking,
};
use tokio_util::io::ReaderStream;

use super::CommandError;
use crate::{coding::Coding, intake::Format};

/// Size of one read, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// A file of recipients or suppressions.
#[derive(Debug)]
pub struct Source {
    /// The format of the rows.
    pub format: Format,
    /// The compression of the file.
    pub coding: Option<Coding>,
    /// SHA-256 of the uncompressed content, in hex.
    pub digest: String,
    /// The size of the file as it is uploaded, without decompression.
    pub bytes: u64,
    file: SourceFile,
}

/// The file that is streamed.
#[derive(Debug)]
enum SourceFile {
    /// The caller's file.
    Given(PathBuf),
    /// A temporary copy of standard input, deleted on drop.
    Copy(NamedTempFile),
}

impl SourceFile {
    fn path(&self) -> &Path {
        match self {
            SourceFile::Given(path) => path,
            SourceFile::Copy(file) => file.path(),
        }
    }
}

impl Source {
    /// Opens the file at `path`, or standard input for `-`. Call it before the first request to the server.
    ///
    /// The content is read once for its digest. Standard input is copied to a temporary file, so that it can be hashed
    /// and then streamed, more than once if the upload is retried.
    ///
    /// Errors: the file cannot be read; its extension is not that of a CSV or NDJSON file.
    pub async fn open(path: &Path) -> Result<Self, CommandError> {
        if path.as_os_str() == "-" {
            return Self::copy_of_stdin().await;
        }
        // Before its extension: a path that is wrong as a whole is not to be renamed.
        let opened = fs::metadata(path).map(drop);
        opened.map_err(|error| unreadable(path, &error))?;
        let (plain, coding) = uncompressed(path);
        let format = Self::format_of(&plain)?;
        let (bytes, digest) = digest(path, coding).await.map_err(|error| unreadable(path, &error))?;
        Ok(Self { format, coding, digest, bytes, file: SourceFile::Given(path.to_owned()) })
    }

    /// The format, from the extension of `path`. `path` has no compression extension such as `.gz`.
    fn format_of(path: &Path) -> Result<Format, CommandError> {
        Ok(match extension(path).as_str() {
            "csv" | "tsv" | "txt" => Format::Csv,
            "ndjson" | "jsonl" => Format::Ndjson,
            "xlsx" | "xls" | "ods" | "numbers" => {
                return Err(CommandError::Usage(format!(
                    "{} is a spreadsheet: save it as \"CSV UTF-8\" and submit that file",
                    path.display()
                )));
            }
            _ => {
                return Err(CommandError::Usage(format!(
                    "{}: a list ends in .csv, .tsv, .txt, .ndjson or .jsonl, and may be compressed, such as .csv.gz; \
                     rename it to match its content",
                    path.display()
                )));
            }
        })
    }

    async fn copy_of_stdin() -> Result<Self, CommandError> {
        let failed = |error: io::Error| CommandError::Failed(format!("standard input: {error}"));
        let copy = || {
            let mut copy = NamedTempFile::with_prefix("pregon-")?;
            io::copy(&mut io::stdin().lock(), &mut copy)?;
            let format = sniff(fs::File::open(copy.path())?)?;
            Ok((copy, format))
        };
        let copied = spawn_blocking(copy).await.map_err(|error| CommandError::Failed(error.to_string()))?;
        let (copy, format) = copied.map_err(failed)?;
        let (bytes, digest) = digest(copy.path(), None).await.map_err(failed)?;
        Ok(Self { format, coding: None, digest, bytes, file: SourceFile::Copy(copy) })
    }

    /// Streams the file from the beginning.
    pub async fn stream(&self) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, CommandError> {
        let file = File::open(self.file.path()).await.map_err(|error| unreadable(self.file.path(), &error))?;
        Ok(ReaderStream::with_capacity(file, CHUNK_BYTES))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> CommandError {
    CommandError::Failed(format!("{}: {error}", path.display()))
}

/// The path without a compression extension such as `.gz`, and the compression that the extension stands for.
pub fn uncompressed(path: &Path) -> (PathBuf, Option<Coding>) {
    let coding = Coding::ALL.into_iter().find(|coding| extension(path) == coding.extension());
    (if coding.is_some() { path.with_extension("") } else { path.to_owned() }, coding)
}

/// The extension of `path`, in lower case.
fn extension(path: &Path) -> String {
    path.extension().map_or(String::new(), |extension| extension.to_string_lossy().to_ascii_lowercase())
}

/// The size of a file, and the digest of its uncompressed content.
async fn digest(path: &Path, coding: Option<Coding>) -> io::Result<(u64, String)> {
    let file = BufReader::with_capacity(CHUNK_BYTES, File::open(path).await?);
    let bytes = file.get_ref().metadata().await?.len();
    let mut content = match coding {
        Some(coding) => coding.decoder(file),
        None => Box::pin(file),
    };
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        match content.read(&mut buffer).await? {
            0 => return Ok((bytes, hex::encode(digest.finalize()))),
            n => digest.update(&buffer[..n]),
        }
    }
}

/// Detects the format from the first byte that is neither white space nor part of a byte order mark: NDJSON if it
/// begins a JSON object or array, otherwise CSV.
fn sniff(input: impl io::Read) -> io::Result<Format> {
    for byte in io::BufReader::with_capacity(CHUNK_BYTES, input).bytes() {
        match byte? {
            b'{' | b'[' => return Ok(Format::Ndjson),
            byte if byte.is_ascii_whitespace() || [0xef, 0xbb, 0xbf].contains(&byte) => {}
            _ => break,
        }
    }
    Ok(Format::Csv)
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::bufread::GzipEncoder;
    use futures_util::TryStreamExt as _;

    use super::*;

    async fn bytes(source: &Source) -> Vec<u8> {
        let stream = source.stream().await.expect("readable");
        stream.map_ok(|chunk| chunk.to_vec()).try_concat().await.expect("readable")
    }

    #[tokio::test]
    async fn a_file_can_be_streamed_more_than_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, content) = (dir.path().join("a.csv"), b"to,1\n+5491155550001,Maria\n".repeat(10_000));
        std::fs::write(&path, &content).expect("written");
        let source = Source::open(&path).await.expect("a source");
        assert_eq!((source.format, source.bytes), (Format::Csv, content.len() as u64));
        assert_eq!(bytes(&source).await, content);
        assert_eq!(bytes(&source).await, content);
    }

    #[tokio::test]
    async fn the_digest_depends_only_on_the_uncompressed_content() {
        let dir = tempfile::tempdir().expect("a directory");
        let id = async |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).expect("written");
            Source::open(&path).await.expect("a source").digest
        };
        let first = id("a.csv", "to\n+5491155550001\n").await;
        assert_eq!(id("b.csv", "to\n+5491155550001\n").await, first);
        assert_ne!(id("a.csv", "to\n+5491155550001\n+5491155550002\n").await, first);
        let mut gzipped = Vec::new();
        let mut encoder = GzipEncoder::new(&b"to\n+5491155550001\n"[..]);
        encoder.read_to_end(&mut gzipped).await.expect("compressed");
        let path = dir.path().join("a.CSV.GZ");
        std::fs::write(&path, &gzipped).expect("written");
        let compressed = Source::open(&path).await.expect("a source");
        assert_eq!((&compressed.digest, compressed.coding), (&first, Some(Coding::Gzip)));
        assert_eq!((compressed.bytes, bytes(&compressed).await), (gzipped.len() as u64, gzipped.clone()));
        std::fs::write(&path, &gzipped[..gzipped.len() - 3]).expect("written");
        assert!(Source::open(&path).await.is_err(), "the compressed file is truncated");
    }

    #[tokio::test]
    async fn a_file_with_an_unknown_extension_is_rejected() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = async |path: &str| Source::open(Path::new(path)).await.expect_err("no source").to_string();
        let error_of_file = async |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "to\n").expect("written");
            error(path.to_str().expect("text")).await
        };
        let spreadsheet = error_of_file("people.xlsx").await;
        assert!(
            spreadsheet.ends_with("is a spreadsheet: save it as \"CSV UTF-8\" and submit that file"),
            "{spreadsheet}"
        );
        assert!(error_of_file("people.pdf").await.contains("people.pdf: a list ends in .csv, .tsv, .txt"));
        for missing in ["/nowhere/people.CSV", "/nowhere/people", "/nowhere/people.pdf"] {
            assert!(error(missing).await.starts_with(&format!("{missing}: No such file")), "{missing}");
        }
    }

    #[test]
    fn the_format_of_standard_input_is_detected() {
        let sniffed = |text: &str| sniff(text.as_bytes()).expect("readable");
        assert_eq!(sniffed("to,1\n"), Format::Csv);
        assert_eq!(sniffed(" \n\n{\"to\":\"+5491155550001\"}\n"), Format::Ndjson);
        assert_eq!(sniffed("\u{feff}[{\"to\":\"+5491155550001\"}]\n"), Format::Ndjson);
        assert_eq!(sniffed(""), Format::Csv);
    }
}
