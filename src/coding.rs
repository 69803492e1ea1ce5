//! Content codings of recipient files: gzip, zstd and brotli, decoded as a stream.

use std::pin::Pin;

use async_compression::{
    tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use tokio::io::{AsyncBufRead, AsyncRead};

/// The largest zstd window that is decoded, as a power of two: 8 MiB, the window of level 19 and the limit of RFC 9659
/// for HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A content coding.
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
    /// Every coding.
    pub const ALL: [Self; 3] = [Self::Gzip, Self::Zstd, Self::Brotli];

    /// The name in the `Content-Encoding` header.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
            Coding::Brotli => "br",
        }
    }

    /// The file name extension, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Coding::Gzip => "gz",
            Coding::Zstd => "zst",
            Coding::Brotli => "br",
        }
    }

    /// Decodes `encoded`, which may consist of several concatenated streams.
    ///
    /// Memory: the window of the stream: 32 kB for gzip, at most 8 MiB for zstd and at most 16 MiB for brotli.
    /// Errors: the errors of `encoded`, and an error if the data is malformed or truncated.
    pub fn decoder(self, encoded: impl AsyncBufRead + Send + 'static) -> Pin<Box<dyn AsyncRead + Send>> {
        macro_rules! multi_member {
            ($decoder:expr) => {{
                let mut decoder = $decoder;
                decoder.multiple_members(true);
                Box::pin(decoder)
            }};
        }
        match self {
            Coding::Gzip => multi_member!(GzipDecoder::new(encoded)),
            Coding::Zstd => {
                multi_member!(ZstdDecoder::with_params(encoded, &[DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX)]))
            }
            Coding::Brotli => multi_member!(BrotliDecoder::new(encoded)),
        }
    }
}
