//! Accepted messages, one compact record each: a run of a million takes some 150 MB.

use std::num::NonZeroU32;

use serde::Serialize;

use crate::domain::{LineId, Phone, State, UnixMs};

/// An accepted message. Times are milliseconds since the start of the stand-in.
pub(super) struct SimMessage {
    pub(super) to: Phone,
    /// `biz_opaque_callback_data`; empty if there was none.
    pub(super) callback: Box<str>,
    pub(super) accepted_ms: u32,
    /// When a webhook with `sent`, `delivered`, `read` and `failed` was first answered 200.
    pub(super) told_ms: [Option<NonZeroU32>; 4],
    /// Of the failure that is planned; 0 without one.
    pub(super) code: u32,
    pub(super) template: Option<TemplateIndex>,
    pub(super) planned: State,
    pub(super) told: State,
    /// Its sender can know which message it is: it got the answer, or a status with its token.
    pub(super) named: bool,
}

/// The place of a template in the stand-in's list, plus 1.
#[derive(Clone, Copy)]
pub(super) struct TemplateIndex(std::num::NonZeroU16);

impl TemplateIndex {
    /// `index` is below 65,535, which the scenario's checks see to.
    pub(super) fn new(index: usize) -> Option<Self> {
        u16::try_from(index + 1).ok().and_then(std::num::NonZeroU16::new).map(Self)
    }

    pub(super) fn get(self) -> usize {
        usize::from(self.0.get()) - 1
    }
}

/// The place of a status in [`SimMessage::told_ms`].
pub(super) fn told_index(status: State) -> usize {
    match status {
        State::Sent => 0,
        State::Delivered => 1,
        State::Read => 2,
        _ => 3,
    }
}

/// The messages of one line. In chunks: one long vector would be copied each time it doubles.
#[derive(Default)]
pub(super) struct Messages {
    chunks: Vec<Vec<SimMessage>>,
    len: u32,
}

const CHUNK_LEN: usize = 512;

impl Messages {
    /// Returns its number on the line, from 0.
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

/// One accepted message, `GET /sim/messages`.
#[derive(Clone, Debug, Serialize)]
pub struct MessageRecord {
    /// Meta's id of it.
    pub wamid: String,
    /// The line it was sent on.
    pub line: LineId,
    /// Whom it was sent to.
    pub to: Phone,
    /// Its template's name; none for what is no template.
    pub template: Option<String>,
    /// `biz_opaque_callback_data`; empty if there was none.
    pub callback_data: String,
    /// The highest state that a webhook told and that was answered 200.
    pub state: State,
    /// Where it ends.
    pub planned: State,
    /// Its sender can know which message it is: it got the answer, or a status with its token that was answered 200. While
    /// it is not named, statuses by its id alone can be matched with nothing.
    pub named: bool,
    /// The code of its `failed` status, if it has one, even if it is delivered after that.
    pub code: Option<u32>,
    /// When it was accepted.
    pub accepted_at: UnixMs,
    /// When a webhook with `sent` was first answered 200.
    pub sent_at: Option<UnixMs>,
    /// When a webhook with `delivered` was first answered 200.
    pub delivered_at: Option<UnixMs>,
    /// When a webhook with `read` was first answered 200.
    pub read_at: Option<UnixMs>,
    /// When a webhook with `failed` was first answered 200.
    pub failed_at: Option<UnixMs>,
}

/// Meta's id of a message: opaque and unique over restarts, and with a `/`, as real ones may have.
///
/// `run`: the Unix time in ms at which the run began. `number`: of the message on its line.
pub(super) fn wamid(run: u64, line: u16, number: u32) -> String {
    format!("wamid.HBgN{run:011X}/{line:04X}{number:08X}A=")
}

/// Meta's id of an inbound message.
pub(super) fn inbound_wamid(run: u64, line: u16, number: u32) -> String {
    format!("wamid.HBgO{run:011X}/{line:04X}{number:08X}A=")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_million_messages_stay_small() {
        // With 80 bytes for a token and 40 for what tells recipients apart, below 200 bytes each.
        assert!(size_of::<super::SimMessage>() <= 64, "{}", size_of::<super::SimMessage>());
    }
}
