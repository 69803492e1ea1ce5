//! Files of chats: what Meta takes, how they are served, and what is known about each.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/business-phone-numbers/media>,
//! read 2026-12-01.

use std::time::Duration;

use super::inbound::MediaKind;

/// How long Meta keeps a file that a person sent.
pub const KEPT_BY_META: Duration = Duration::from_hours(7 * 24);

/// How long the id of a file that was uploaded to Meta is used. Meta keeps the file a day longer.
pub const UPLOAD_USED: Duration = Duration::from_hours(29 * 24);

/// How long a file that was uploaded here is kept without a message that names it.
pub const UNSENT_KEPT: Duration = Duration::from_hours(24);

const MIB: u64 = 1024 * 1024;

/// The largest sticker that does not move, in bytes.
const STILL_STICKER_BYTES_MAX: u64 = 100 * 1024;

/// How many bytes at the beginning of a file say whether a sticker moves.
pub const HEAD_BYTES: usize = 21;

/// The types that Meta takes, by kind.
const TYPES: [(MediaKind, &[&str]); 5] = [
    (MediaKind::Image, &["image/jpeg", "image/png"]),
    (MediaKind::Sticker, &["image/webp"]),
    (MediaKind::Audio, &["audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg"]),
    (MediaKind::Video, &["video/mp4", "video/3gpp"]),
    (
        MediaKind::Document,
        &[
            "text/plain",
            "application/pdf",
            "application/msword",
            "application/vnd.ms-excel",
            "application/vnd.ms-powerpoint",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        ],
    ),
];

/// Every type that Meta takes.
pub fn types() -> impl Iterator<Item = &'static str> {
    TYPES.iter().flat_map(|(_, types)| types.iter().copied())
}

/// The kind of a file that Meta takes, and its type without parameters. `None`: Meta takes no such file.
pub fn sendable(mime_type: &str) -> Option<(MediaKind, &'static str)> {
    let plain = plain(mime_type);
    let of_kind = |(kind, types): &(MediaKind, &[&'static str])| {
        types.iter().find(|known| plain.eq_ignore_ascii_case(known)).map(|known| (*kind, *known))
    };
    TYPES.iter().find_map(of_kind)
}

/// The largest file of a kind that Meta takes, in bytes. `is_animated`: it is a sticker that moves.
pub fn bytes_max(kind: MediaKind, is_animated: bool) -> u64 {
    match kind {
        MediaKind::Image => 5 * MIB,
        MediaKind::Audio | MediaKind::Video => 16 * MIB,
        MediaKind::Document => 100 * MIB,
        MediaKind::Sticker if is_animated => 500 * 1024,
        MediaKind::Sticker => STILL_STICKER_BYTES_MAX,
    }
}

/// Whether a WebP moves: the flag of its extended header. `head`: the first [`HEAD_BYTES`] of the file.
///
/// Source: <https://developers.google.com/speed/webp/docs/riff_container>, read 2026-12-01.
pub fn is_animated(head: &[u8]) -> bool {
    head.get(12..16) == Some(b"VP8X") && head.get(20).is_some_and(|flags| flags & 0b10 != 0)
}

/// How a file is served to browsers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedAs {
    /// The type: one that no browser runs.
    pub content_type: &'static str,
    /// Whether a browser may show the file by itself.
    pub inline: bool,
}

/// How a file of this type is served.
pub fn served_as(mime_type: &str) -> ServedAs {
    let gif = || plain(mime_type).eq_ignore_ascii_case("image/gif").then_some("image/gif");
    let known = sendable(mime_type).map(|(_, known)| known).or_else(gif);
    let content_type = known.unwrap_or("application/octet-stream");
    let inline = content_type == "application/pdf"
        || ["image/", "audio/", "video/"].iter().any(|kind| content_type.starts_with(kind));
    ServedAs { content_type, inline }
}

/// A type without its parameters.
fn plain(mime_type: &str) -> &str {
    mime_type.split(';').next().unwrap_or_default().trim()
}

/// Where a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    /// At Meta: it is not fetched yet.
    Pending,
    /// In the store.
    Stored,
    /// Nowhere: it could not be fetched.
    Gone,
    /// To be removed from the store.
    Removed,
}

impl FileState {
    const ALL: [Self; 4] = [Self::Pending, Self::Stored, Self::Gone, Self::Removed];

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Stored => "stored",
            Self::Gone | Self::Removed => "gone",
        }
    }

    /// The number that is stored.
    pub const fn code(self) -> i16 {
        match self {
            Self::Pending => 0,
            Self::Stored => 1,
            Self::Gone => 2,
            Self::Removed => 3,
        }
    }

    /// The inverse of [`FileState::code`].
    pub fn of(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }
}

/// Why a file is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// Meta does not keep it any more.
    Expired,
    /// Meta has no such file, or not for this line.
    Missing,
    /// It is larger than `media.max_size`.
    TooLarge,
    /// What Meta returned is not the file that the person sent: another hash.
    Corrupt,
}

impl GoneReason {
    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Missing => "missing",
            Self::TooLarge => "too_large",
            Self::Corrupt => "corrupt",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_that_no_browser_runs_are_served_as_themselves() {
        for (mime_type, content_type, inline) in [
            ("image/jpeg", "image/jpeg", true),
            ("IMAGE/PNG", "image/png", true),
            ("audio/ogg; codecs=opus", "audio/ogg", true),
            ("application/pdf", "application/pdf", true),
            ("text/plain", "text/plain", false),
            ("application/msword", "application/msword", false),
            ("text/html", "application/octet-stream", false),
            ("image/svg+xml", "application/octet-stream", false),
            ("", "application/octet-stream", false),
        ] {
            assert_eq!(served_as(mime_type), ServedAs { content_type, inline }, "{mime_type}");
        }
    }

    #[test]
    fn a_moving_sticker_may_be_larger() {
        let mut head = *b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02";
        assert!(is_animated(&head));
        head[20] = 0x10;
        assert!(!is_animated(&head) && !is_animated(b"RIFF"));
        let sizes = [true, false].map(|is_animated| bytes_max(MediaKind::Sticker, is_animated));
        assert_eq!(sizes, [500 * 1024, 100 * 1024]);
    }

    #[test]
    fn a_state_is_read_as_it_was_stored() {
        for state in FileState::ALL {
            assert_eq!(FileState::of(state.code()), Some(state));
        }
        assert_eq!(FileState::of(9), None);
    }
}
