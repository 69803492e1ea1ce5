//! Content codings of files of recipients: gzip, zstd and brotli, decoded as their bytes arrive.

use std::pin::Pin;

use async_compression::{
    tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use tokio::io::{AsyncBufRead, AsyncRead};

/// The largest window of zstd that is decoded, 8 MiB: that of level 19, and what RFC 9659 allows in HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// RFC 7932.
    Brotli,
}

impl Coding {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gzip, Self::Zstd, Self::Brotli];

    /// Its name in the header `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
            Coding::Brotli => "br",
        }
    }

    /// What the names of such files end in, after a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Coding::Gzip => "gz",
            Coding::Zstd => "zst",
            Coding::Brotli => "br",
        }
    }

    /// What `encoded` holds: one such stream, or several one after the other.
    ///
    /// Memory: the window of the stream, which is 32 kB of gzip, at most 8 MiB of zstd, and at most 16 MiB of brotli.
    /// Errors: those of `encoded`, and those of data that is not of this coding or breaks off.
    pub fn decoder(self, encoded: impl AsyncBufRead + Send + 'static) -> Pin<Box<dyn AsyncRead + Send>> {
        macro_rules! of_several {
            ($decoder:expr) => {{
                let mut decoder = $decoder;
                decoder.multiple_members(true);
                Box::pin(decoder)
            }};
        }
        match self {
            Coding::Gzip => of_several!(GzipDecoder::new(encoded)),
            Coding::Zstd => {
                of_several!(ZstdDecoder::with_params(encoded, &[DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX)]))
            }
            Coding::Brotli => of_several!(BrotliDecoder::new(encoded)),
        }
    }
}
