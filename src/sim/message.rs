//! Accepted messages, stored as compact records: a run of a million takes some 150 MB.

use std::num::NonZeroU32;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::domain::{LineId, Phone, State, UnixMs};

/// An accepted message. Times are milliseconds since the start of the simulator.
pub(super) struct SimMessage {
    pub(super) to: Phone,
    /// `biz_opaque_callback_data`; empty if there was none.
    pub(super) callback: Box<str>,
    pub(super) accepted_ms: u32,
    /// When a webhook POST with `sent`, `delivered`, `read` and `failed` was first answered 200, in that order.
    pub(super) acknowledged_ms: [Option<NonZeroU32>; 4],
    /// The code of the planned failure; 0 if there is none.
    pub(super) code: u32,
    pub(super) template: Option<TemplateIndex>,
    pub(super) planned: State,
    pub(super) acknowledged: State,
    /// See [`MessageRecord::named`].
    pub(super) named: bool,
    /// Type and text of a message without a template.
    pub(super) free: Option<Box<(&'static str, Box<str>)>>,
}

/// The index of a template in [`super::world::World::templates`], stored plus 1 so that an `Option` takes no more
/// space.
#[derive(Clone, Copy)]
pub(super) struct TemplateIndex(std::num::NonZeroU16);

impl TemplateIndex {
    /// Returns `None` for an index of 65,535 or more, which the validation of scenarios excludes.
    pub(super) fn new(index: usize) -> Option<Self> {
        u16::try_from(index + 1).ok().and_then(std::num::NonZeroU16::new).map(Self)
    }

    pub(super) fn get(self) -> usize {
        usize::from(self.0.get()) - 1
    }
}

/// The index of a status in [`SimMessage::acknowledged_ms`].
pub(super) fn status_index(status: State) -> usize {
    match status {
        State::Sent => 0,
        State::Delivered => 1,
        State::Read => 2,
        _ => 3,
    }
}

/// The messages of one line, stored in chunks because one long vector would be copied each time it grows.
#[derive(Default)]
pub(super) struct Messages {
    chunks: Vec<Vec<SimMessage>>,
    len: u32,
}

const CHUNK_LEN: usize = 512;

impl Messages {
    /// Returns the index of the message on the line, from 0.
    pub(super) fn push(&mut self, message: SimMessage) -> u32 {
        match self.chunks.last_mut().filter(|chunk| chunk.len() < CHUNK_LEN) {
            Some(chunk) => chunk.push(message),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK_LEN);
                chunk.push(message);
                self.chunks.push(chunk);
            }
        }
        self.len += 1;
        self.len - 1
    }

    pub(super) fn get(&self, number: u32) -> Option<&SimMessage> {
        let number = usize::try_from(number).ok()?;
        self.chunks.get(number / CHUNK_LEN)?.get(number % CHUNK_LEN)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut SimMessage> {
        let number = usize::try_from(number).ok()?;
        self.chunks.get_mut(number / CHUNK_LEN)?.get_mut(number % CHUNK_LEN)
    }
}

/// One accepted message: a row of `GET /sim/messages`.
#[derive(Clone, Debug, Serialize)]
pub struct MessageRecord {
    /// Meta's id of the message.
    pub wamid: String,
    /// The line it was sent on.
    pub line: LineId,
    /// The recipient's phone number.
    pub to: Phone,
    /// Meta's type of the message, such as `template` or `text`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The name of its template; `None` for a message without a template.
    pub template: Option<String>,
    /// What a person reads of a message without a template: the text or caption, the body of an interactive message,
    /// the emoji of a reaction. May be empty. `None` for a template.
    pub text: Option<String>,
    /// `biz_opaque_callback_data`; empty if there was none.
    pub callback_data: String,
    /// The highest status in a webhook POST that was answered 200.
    pub state: State,
    /// The final state, as drawn when the message was accepted.
    pub planned: State,
    /// The sender can match the message's id: it received the response, or answered 200 to a status that carried the
    /// callback data. Otherwise a status that has only the id cannot be matched.
    pub named: bool,
    /// The code of its `failed` status, if it has one, even if the message is delivered after that.
    pub code: Option<u32>,
    /// When it was accepted.
    pub accepted_at: UnixMs,
    /// When a webhook POST with `sent` was first answered 200.
    pub sent_at: Option<UnixMs>,
    /// When a webhook POST with `delivered` was first answered 200.
    pub delivered_at: Option<UnixMs>,
    /// When a webhook POST with `read` was first answered 200.
    pub read_at: Option<UnixMs>,
    /// When a webhook POST with `failed` was first answered 200.
    pub failed_at: Option<UnixMs>,
}

/// Meta's id of a message to `number`, unique across restarts.
///
/// `run`: the Unix time in ms at which the run began. `index`: the index of the message on its line.
pub(super) fn wamid(run: u64, line: u16, index: u32, number: Phone) -> String {
    message_id(number, 0x11, &hex_digits(run, line, index))
}

/// Meta's id of an inbound message from `number`.
pub(super) fn inbound_wamid(run: u64, line: u16, index: u32, number: Phone) -> String {
    message_id(number, 0x12, &format!("3A{}", hex_digits(run, line, index)))
}

/// The index on its line that an id names, whatever else the id says.
pub(super) fn index_in(wamid: &str) -> Option<u32> {
    let fields = STANDARD.decode(wamid.strip_prefix("wamid.")?).ok()?;
    let digits = fields.len().checked_sub(1 + INDEX_DIGITS)?;
    u32::from_str_radix(std::str::from_utf8(&fields[digits..fields.len() - 1]).ok()?, 16).ok()
}

/// 18 hexadecimal digits that identify a message. The part for the run repeats after three days.
fn hex_digits(run: u64, line: u16, index: u32) -> String {
    format!("{:07X}{line:04X}{index:0INDEX_DIGITS$X}", run % (1 << 28))
}

/// The digits of an id that are the index, at its end.
const INDEX_DIGITS: usize = 7;

/// An id with the fields that Meta's ids have today.
fn message_id(number: Phone, direction: u8, hex_digits: &str) -> String {
    let number = number.digits().to_string();
    let mut fields = vec![0x1c, 0x18, number.len() as u8];
    fields.extend(number.as_bytes());
    fields.extend([0x15, 0x02, 0x00, direction, 0x18, hex_digits.len() as u8]);
    fields.extend(hex_digits.as_bytes());
    fields.push(0);
    format!("wamid.{}", STANDARD.encode(fields))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_id_names_the_index_of_its_message() {
        let ana = "+5491155550001".parse().expect("a number");
        for index in [0, 1, 0xff_ffff] {
            assert_eq!(super::index_in(&super::wamid(1_790_000_000_000, 3, index, ana)), Some(index));
            assert_eq!(super::index_in(&super::inbound_wamid(1_790_000_000_000, 3, index, ana)), Some(index));
        }
        for other in ["", "wamid.", "wamid.x", "wamid.IN", "wamid.AAAA"] {
            assert_eq!(super::index_in(other), None, "{other}");
        }
    }

    #[test]
    fn a_message_record_takes_at_most_64_bytes() {
        // With 80 bytes for the callback data and 40 for the recipient's entry, a message takes below 200 bytes.
        assert!(size_of::<super::SimMessage>() <= 64, "{}", size_of::<super::SimMessage>());
    }
}
