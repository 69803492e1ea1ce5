//! What Meta refuses in any text of a template, whichever slot it fills.

use crate::domain::{
    Reject,
    reject::{RejectedField, shown},
};

/// The longest address, of a button or a medium, rendered.
pub(super) const URL_CHARS_MAX: usize = 2000;

/// Whether a reader sees nothing in `value`. Meta refuses such a parameter as missing (131008).
pub(super) fn is_blank(value: &str) -> bool {
    value.chars().all(|c| c.is_whitespace() || c.is_control() || is_invisible(c))
}

/// Characters that are neither white space nor control characters by Unicode and yet show nothing: soft hyphen, zero
/// widths, direction marks, joiners, fillers, variation selectors, tags and the blank braille pattern.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// What Meta refuses in any text: blank text, line breaks, tabs, more than four spaces in a row.
pub(super) fn check_text(value: &str, place: impl Fn() -> RejectedField) -> Result<(), Reject> {
    if is_blank(value) {
        return Err(Reject::Empty(place()));
    }
    let mut spaces = 0;
    for byte in value.bytes() {
        spaces = if byte == b' ' { spaces + 1 } else { 0 };
        if spaces > 4 || matches!(byte, b'\n' | b'\r' | b'\t') {
            return Err(Reject::Whitespace { place: place(), value: shown(value) });
        }
    }
    Ok(())
}

/// `around` characters of the template and those of `value` are at most `limit`.
pub(super) fn check_length(
    value: &str,
    around: usize,
    limit: usize,
    place: impl Fn() -> RejectedField,
) -> Result<(), Reject> {
    let length = around + value.chars().count();
    if length > limit { Err(too_long(place(), value, length, limit)) } else { Ok(()) }
}

pub(super) fn too_long(place: RejectedField, value: &str, length: usize, limit: usize) -> Reject {
    Reject::TooLong { place, value: shown(value), length, limit }
}
