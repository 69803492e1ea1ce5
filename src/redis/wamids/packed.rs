//! The binary form of a message id: about a quarter of its text.
//!
//! Meta's ids are opaque. In practice the id of a campaign message is `wamid.` and Base64. The decoded bytes are the
//! same in every id except for the recipient's number and 18 hexadecimal digits, so only these are stored, as half
//! bytes. Other Base64 is stored decoded, and any other text as it is. Each form decodes to the original text.

use base64::{Engine as _, engine::general_purpose::STANDARD};

const PREFIX: &str = "wamid.";

/// The bytes around the number and the hexadecimal digits. The number's length follows the head.
const HEAD: [u8; 2] = [0x1c, 0x18];
const MIDDLE: [u8; 6] = [0x15, 0x02, 0x00, 0x11, 0x18, HEX_DIGITS as u8];
const TAIL: u8 = 0;

/// Hexadecimal digits in a usual id.
const HEX_DIGITS: usize = 18;
/// Maximum number of digits of the recipient in a usual id.
const NUMBER_DIGITS_MAX: usize = 15;

/// The first byte of a form. The lower half byte of `USUAL` is the number of digits of the recipient.
const TEXT: u8 = 0x00;
const BYTES: u8 = 0x01;
const USUAL: u8 = 0x80;

/// The longest id that is stored, in bytes. Meta asks for room for 255.
const WAMID_BYTES_MAX: usize = 1_024;
/// Maximum number of bytes decoded from Base64. Meta's ids have about 40.
const DECODED_BYTES_MAX: usize = 192;

/// Appends the binary form of `wamid` to `out`: at most 1,027 bytes, or none if `wamid` is longer than any message id.
/// Returns whether it has appended some.
pub(in crate::redis) fn write(wamid: &str, out: &mut Vec<u8>) -> bool {
    if wamid.len() > WAMID_BYTES_MAX {
        return false;
    }
    let mut buffer = [0; DECODED_BYTES_MAX];
    // The decoder accepts only what the encoder writes.
    let decoded = wamid.strip_prefix(PREFIX).and_then(|base64| STANDARD.decode_slice(base64, &mut buffer).ok());
    match decoded.and_then(|len| buffer.get(..len)) {
        Some(bytes) => match usual(bytes) {
            Some((number, hex)) => {
                out.push(USUAL | number.len() as u8);
                write_half_bytes(number, out);
                write_half_bytes(hex, out);
            }
            None => write_whole(BYTES, bytes, out),
        },
        None => write_whole(TEXT, wamid.as_bytes(), out),
    }
    true
}

fn write_whole(form: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(form);
    out.extend((bytes.len() as u16).to_le_bytes());
    out.extend(bytes);
}

/// The number and the hexadecimal digits of a usual id.
fn usual(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&number_len, rest) = bytes.strip_prefix(&HEAD)?.split_first()?;
    let (number, rest) = rest.split_at_checked(usize::from(number_len))?;
    let (hex, tail) = rest.strip_prefix(&MIDDLE)?.split_at_checked(HEX_DIGITS)?;
    let is_usual = number.len() <= NUMBER_DIGITS_MAX
        && number.iter().all(u8::is_ascii_digit)
        && hex.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'))
        && tail == [TAIL];
    is_usual.then_some((number, hex))
}

/// Appends hexadecimal digits, two a byte. The last byte of an odd number of digits is filled up with a zero.
fn write_half_bytes(digits: &[u8], out: &mut Vec<u8>) {
    let value = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'A' + 10 };
    let byte = |pair: &[u8]| value(pair[0]) << 4 | pair.get(1).map_or(0, |digit| value(*digit));
    out.extend(digits.chunks(2).map(byte));
}

/// A message id in its binary form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packed<'a> {
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    Usual { number_len: usize, digits: &'a [u8] },
}

impl<'a> Packed<'a> {
    /// Splits the first id off `rest`; `None` if `rest` does not begin with one.
    pub(super) fn split_off(rest: &mut &'a [u8]) -> Option<Self> {
        let (&form, after) = rest.split_first()?;
        let (packed, after) = match form {
            TEXT | BYTES => {
                let (len, after) = after.split_first_chunk()?;
                let (bytes, after) = after.split_at_checked(u16::from_le_bytes(*len).into())?;
                (if form == TEXT { Self::Text(bytes) } else { Self::Bytes(bytes) }, after)
            }
            form if form & 0xf0 == USUAL => {
                let number_len = usize::from(form & 0x0f);
                let (digits, after) = after.split_at_checked(number_len.div_ceil(2) + HEX_DIGITS / 2)?;
                (Self::Usual { number_len, digits }, after)
            }
            _ => return None,
        };
        *rest = after;
        Some(packed)
    }

    /// The id as Meta writes it; `None` if the bytes are not from [`write`].
    pub(super) fn text(self) -> Option<String> {
        match self {
            Self::Text(bytes) => str::from_utf8(bytes).ok().map(str::to_owned),
            Self::Bytes(bytes) => Some(with_prefix(bytes)),
            Self::Usual { number_len, digits } => {
                let (number, hex) = digits.split_at_checked(number_len.div_ceil(2))?;
                let mut bytes = Vec::with_capacity(HEAD.len() + 1 + number_len + MIDDLE.len() + HEX_DIGITS + 1);
                bytes.extend(HEAD);
                bytes.push(number_len as u8);
                bytes.extend(digits_of(number).take(number_len));
                bytes.extend(MIDDLE);
                bytes.extend(digits_of(hex));
                bytes.push(TAIL);
                Some(with_prefix(&bytes))
            }
        }
    }
}

fn with_prefix(bytes: &[u8]) -> String {
    let mut text = PREFIX.to_owned();
    STANDARD.encode_string(bytes, &mut text);
    text
}

fn digits_of(half_bytes: &[u8]) -> impl Iterator<Item = u8> {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'A' + value - 10 };
    half_bytes.iter().flat_map(move |byte| [digit(byte >> 4), digit(byte & 0x0f)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(wamid: &str) -> Vec<u8> {
        let mut out = Vec::new();
        write(wamid, &mut out);
        out
    }

    fn unpacked(mut bytes: &[u8]) -> Option<String> {
        let text = Packed::split_off(&mut bytes)?.text();
        assert!(bytes.is_empty(), "the id ends where its form ends");
        text
    }

    #[test]
    fn each_form_has_its_length() {
        let usual = "wamid.HBgNNTQ5MTE1NTU1MDAwMRUCABEYEjlBM0NBNUIzRDREOTJGNjdFNwA=";
        let decoded_len = 41;
        for (wamid, len) in [
            (usual, 1 + 7 + 9),
            ("wamid.HBgMNDQ3NzAwOTAwMTIzFQIAERgSQ0U5RjA2QjE4RkM0RUUyRkI0AA==", 1 + 6 + 9),
            // The same id with a lower-case digit, and as a message from a person has it.
            ("wamid.HBgNNTQ5MTE1NTU1MDAwMRUCABEYEjlhM0NBNUIzRDREOTJGNjdFNwA=", 3 + decoded_len),
            ("wamid.HBgNNTQ5MTE1NTU1MDAwMRUCABIYEjlBM0NBNUIzRDREOTJGNjdFNwA=", 3 + decoded_len),
            // The encoder never writes Base64 without its padding.
            (usual.trim_end_matches('='), 3 + usual.len() - 1),
            ("wamid.", 3),
            ("", 3),
        ] {
            let bytes = packed(wamid);
            assert_eq!((bytes.len(), unpacked(&bytes).as_deref()), (len, Some(wamid)), "{wamid}");
        }
    }

    #[test]
    fn a_text_that_is_too_long_for_an_id_is_not_stored() {
        assert!(packed(&"x".repeat(WAMID_BYTES_MAX + 1)).is_empty());
        let long = "x".repeat(WAMID_BYTES_MAX);
        assert_eq!(unpacked(&packed(&long)), Some(long));
    }

    proptest! {
        #[test]
        fn every_id_is_given_back_unchanged(text in ".{0,240}", bytes in prop::collection::vec(any::<u8>(), 0..250), number in "[0-9]{0,20}", hex in "[0-9A-F]{17,19}") {
            let meta = [&HEAD[..], &[number.len() as u8], number.as_bytes(), &MIDDLE, hex.as_bytes(), &[TAIL]].concat();
            for wamid in [text.clone(), format!("{PREFIX}{text}"), with_prefix(&bytes), with_prefix(&meta)] {
                prop_assert_eq!(unpacked(&packed(&wamid)), Some(wamid));
            }
        }

        #[test]
        fn bytes_that_are_no_id_are_none(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut rest = bytes.as_slice();
            let _ = Packed::split_off(&mut rest).and_then(Packed::text);
            let whole = packed("wamid.HBgNNTQ5MTE1NTU1MDAwMRUCABEYEjlBM0NBNUIzRDREOTJGNjdFNwA=");
            prop_assert_eq!(Packed::split_off(&mut &whole[..whole.len() - 1]), None);
        }
    }
}
