//! Checks of the texts that fill a template. Meta refuses these faults in every slot.

use crate::domain::{
    Reject,
    reject::{RejectedField, quoted},
};

/// The maximum length of a rendered URL (of a button or of media), in characters.
pub(super) const URL_CHARS_MAX: usize = 2000;

/// Whether `value` has no visible character. Meta refuses such a parameter as missing (131008).
pub(super) fn is_blank(value: &str) -> bool {
    value.chars().all(|c| c.is_whitespace() || c.is_control() || is_invisible(c))
}

/// Whether `c` is invisible although Unicode classifies it neither as white space nor as a control character: soft
/// hyphen, zero-width characters, direction marks, joiners, fillers, variation selectors, tags and the blank braille
/// pattern.
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

/// Rejects blank text, line breaks, tabs, and more than four spaces in a row.
pub(super) fn check_text(value: &str, place: impl Fn() -> RejectedField) -> Result<(), Reject> {
    if is_blank(value) {
        return Err(Reject::Empty(place()));
    }
    let mut spaces = 0;
    for byte in value.bytes() {
        spaces = if byte == b' ' { spaces + 1 } else { 0 };
        if spaces > 4 || matches!(byte, b'\n' | b'\r' | b'\t') {
            return Err(Reject::Whitespace { place: place(), value: quoted(value) });
        }
    }
    Ok(())
}

/// Checks that `value` and the `fixed_chars` characters around it have at most `limit` characters.
pub(super) fn check_length(
    value: &str,
    fixed_chars: usize,
    limit: usize,
    place: impl Fn() -> RejectedField,
) -> Result<(), Reject> {
    let length = fixed_chars + value.chars().count();
    if length > limit { Err(too_long(place(), value, length, limit)) } else { Ok(()) }
}

pub(super) fn too_long(place: RejectedField, value: &str, length: usize, limit: usize) -> Reject {
    Reject::TooLong { place, value: quoted(value), length, limit }
}
