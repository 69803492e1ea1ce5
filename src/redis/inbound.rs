//! The inbound streams: the messages that people sent to each line, in the order in which they were stored.
//!
//! An entry has the field `message`, an [`Inbound`](crate::domain::Inbound) as JSON. If the message answers one of a
//! campaign, it also has the field `recipient`: `CAMPAIGN.PART.ROW.SEND`. Readers are consumer groups of the stream.
//!
//! If a writer dies: the webhook is delivered again, and a message that is already stored is not stored again.
//! If Redis loses its last writes: the journal stores the messages again, under new ids.
//! Never: drops an entry that a consumer group has not acknowledged.

use std::time::Duration;

use super::{Call, Result, Store, StoreError, lines::ms, message_ids::RowRef, script, untold::Untold};
use crate::domain::{Fingerprint, LineId};

/// Maximum number of messages in one call of the script, so that no call keeps Redis busy for long.
const MESSAGES_MAX: usize = 256;

/// How much of the inbound stream of a line is kept.
#[derive(Clone, Copy, Debug)]
pub struct InboundLimits {
    /// How long messages are kept that every reader has acknowledged, or that nobody reads.
    pub retention: Duration,
    /// The maximum length of the stream.
    pub length_max: u64,
}

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct NewInbound {
    /// Identifies the message among those of its line.
    pub fingerprint: Fingerprint,
    /// The message as JSON.
    pub message: String,
    /// The recipient whose message it answers.
    pub answers: Option<RowRef>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is on the stream.
    Stored,
    /// It was stored before.
    Repeated,
    /// It is not stored, because a reader has left the stream full.
    Full,
}

impl Store {
    /// Removes the messages of lines that are due: see [`InboundLimits`].
    pub async fn trim_inbound(&self, lines: &[LineId], limits: InboundLimits) -> Result<()> {
        let calls: Vec<Call> = lines.iter().map(|line| self.inbound_call(line, limits)).collect();
        let trimmed: Vec<Result<Vec<u64>>> = self.call_all(&calls).await?;
        trimmed.into_iter().try_for_each(|trimmed| trimmed.map(drop))
    }

    fn inbound_call(&self, line: &LineId, limits: InboundLimits) -> Call {
        let keys = [self.keys.inbound(line), self.keys.seen_inbound(line), self.keys.seen_inbound_before(line)];
        Call::new(&script::KEEP_INBOUND, &keys).arg(limits.length_max).arg(ms(limits.retention))
    }

    /// Stores messages of lines, in one round trip. Returns the results by line, in the order of the messages.
    pub async fn keep_inbound(
        &self,
        lines: &[(LineId, Vec<NewInbound>)],
        limits: InboundLimits,
    ) -> Result<Vec<Result<Vec<Kept>>>> {
        let mut calls = Vec::new();
        for (line, messages) in lines {
            for messages in messages.chunks(MESSAGES_MAX) {
                let call = self.inbound_call(line, limits);
                calls.push(messages.iter().fold(call, |call, NewInbound { fingerprint, message, answers }| {
                    let recipient = answers.map(|(part, claimed)| format!("{part}.{}.{}", claimed.row, claimed.send));
                    call.arg(&fingerprint.0).arg(message).arg(recipient.unwrap_or_default())
                }));
            }
        }
        let changed = lines.iter().map(|(line, _)| Untold::Inbound(line.clone()));
        let mut results = self.call_journaled_noting::<Vec<u64>>(calls, changed).await?.into_iter();
        let mut of_line = |messages: &[NewInbound]| {
            let mut kept = Vec::with_capacity(messages.len());
            for _ in messages.chunks(MESSAGES_MAX) {
                let missing = || Err(StoreError::OutcomeUnknown("no answer to keep_inbound".into()));
                kept.extend(results.next().unwrap_or_else(missing)?.into_iter().map(|code| match code {
                    0 => Kept::Repeated,
                    1 => Kept::Stored,
                    _ => Kept::Full,
                }));
            }
            Ok(kept)
        };
        Ok(lines.iter().map(|(_, messages)| of_line(messages)).collect())
    }
}
