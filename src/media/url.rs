//! The value of `media.url`.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where files are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaUrl {
    /// In this directory.
    Directory(PathBuf),
    /// In a bucket of S3.
    Bucket {
        /// Its name.
        bucket: String,
        /// What the name of every object begins with; may be empty.
        prefix: String,
    },
}

/// The text is not the address of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a directory such as ./media or file:///var/media, nor a bucket such as s3://BUCKET/PREFIX")]
pub struct BadMediaUrl;

impl FromStr for MediaUrl {
    type Err = BadMediaUrl;

    fn from_str(text: &str) -> Result<Self, BadMediaUrl> {
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let is_name = |c: char| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c);
            let is_bucket = !bucket.is_empty() && bucket.chars().all(is_name);
            let prefix = prefix.trim_matches('/').to_owned();
            return if is_bucket { Ok(Self::Bucket { bucket: bucket.to_owned(), prefix }) } else { Err(BadMediaUrl) };
        }
        let path = match text.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => path,
            Some(_) => return Err(BadMediaUrl),
            None => text,
        };
        if path.is_empty() || path.contains("://") { Err(BadMediaUrl) } else { Ok(Self::Directory(path.into())) }
    }
}

impl fmt::Display for MediaUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_directory_or_a_bucket() {
        let bucket = |bucket: &str, prefix: &str| MediaUrl::Bucket { bucket: bucket.into(), prefix: prefix.into() };
        for (text, expected) in [
            ("./media", MediaUrl::Directory("./media".into())),
            ("file:///var/media", MediaUrl::Directory("/var/media".into())),
            ("s3://files", bucket("files", "")),
            ("s3://files/chats/2026/", bucket("files", "chats/2026")),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for bad in ["", "s3://", "s3:///chats", "s3://key:secret@files", "file://host/media", "gs://files", "file://"] {
            assert_eq!(bad.parse::<MediaUrl>(), Err(BadMediaUrl), "{bad}");
        }
    }
}
