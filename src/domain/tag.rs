//! Tags of chats: those that a business defines, and those that follow from the chat itself.

use std::time::Duration;

use super::{TagId, UnixMs, chat::window_until, ids::is_plain};

/// How long before its end a window counts as closing.
const CLOSING: Duration = Duration::from_hours(2);

/// Maximum number of tags that a business defines for its chats.
pub const TAGS_MAX: usize = 200;

/// A tag that follows from the chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DerivedTag {
    /// The contact waits for an answer.
    Unanswered,
    /// Somebody has answered what the contact wrote last.
    Attended,
    /// The chat is open, and free text is possible for less than two hours.
    WindowClosing,
}

impl DerivedTag {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Unanswered, Self::Attended, Self::WindowClosing];

    /// The id in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unanswered => "unanswered",
            Self::Attended => "attended",
            Self::WindowClosing => "window_closing",
        }
    }

    /// The inverse of [`DerivedTag::name`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tag| tag.name() == name)
    }
}

/// The derived tags at `now` of a chat that is open or not, whose contact waits for an answer or has one, and last wrote
/// then.
pub fn derived(
    is_open: bool,
    waits: bool,
    is_attended: bool,
    last_inbound_at: Option<UnixMs>,
    now: UnixMs,
) -> impl Iterator<Item = DerivedTag> {
    DerivedTag::ALL.into_iter().filter(move |tag| match tag {
        DerivedTag::Unanswered => waits,
        DerivedTag::Attended => is_attended,
        DerivedTag::WindowClosing => {
            let [from, to] = closing(now);
            is_open && last_inbound_at.is_some_and(|at| (from..to).contains(&at))
        }
    })
}

/// Between which times the contact has written last if the window is closing at `now`: from the first, before the second.
pub fn closing(now: UnixMs) -> [UnixMs; 2] {
    let window = window_until(UnixMs(0)).0;
    let before = |ms: u64| UnixMs(now.0.saturating_sub(ms));
    [before(window - 1), before(window - CLOSING.as_millis() as u64)]
}

/// The id of a tag that a business may define; `None` if it is not 1 to 32 of `a-z`, `0-9`, `-` and `_`, or is derived.
pub fn tag_id(text: &str) -> Option<TagId> {
    (is_plain(text) && DerivedTag::named(text).is_none()).then(|| text.into())
}

/// A colour in the form `#rrggbb`, in lower case; `None` if it is none.
pub fn colour(text: &str) -> Option<String> {
    let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn the_window_is_closing_in_its_last_two_hours() {
        let now = UnixMs(100 * HOUR);
        let is_closing = |written: u64| {
            derived(true, false, false, Some(UnixMs(written)), now).any(|tag| tag == DerivedTag::WindowClosing)
        };
        assert!(!is_closing(100 * HOUR) && !is_closing(78 * HOUR), "more than two hours are left");
        assert!(is_closing(78 * HOUR - 1) && is_closing(76 * HOUR + 1));
        assert!(!is_closing(76 * HOUR) && !is_closing(1), "it is closed");
        assert_eq!(derived(false, false, false, Some(UnixMs(77 * HOUR)), now).count(), 0, "the chat is closed");
        assert_eq!(derived(true, true, false, None, now).collect::<Vec<_>>(), [DerivedTag::Unanswered]);
        assert_eq!(derived(true, false, true, None, now).collect::<Vec<_>>(), [DerivedTag::Attended]);
    }

    #[test]
    fn a_tag_has_a_plain_id_and_a_colour() {
        assert_eq!(tag_id("renewal-2"), Some("renewal-2".into()));
        for text in ["", "Renewal", "unanswered", "window_closing", "a b"] {
            assert_eq!(tag_id(text), None, "{text}");
        }
        assert_eq!(colour("#1A2b3c").as_deref(), Some("#1a2b3c"));
        for text in ["", "red", "#12345", "#12345g", "123456"] {
            assert_eq!(colour(text), None, "{text}");
        }
    }
}
