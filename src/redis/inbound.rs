//! The inbound streams: the messages that people sent to each line, in the order in which they were stored.
//!
//! An entry has the field `message`, an [`Inbound`](crate::domain::Inbound) as JSON. If the message answers one of a
//! campaign, it also has the field `recipient`: `CAMPAIGN.PART.ROW.SEND`. Readers are consumer groups of the stream.
//!
//! If a writer dies: the webhook is delivered again, and a message that is already stored is not stored again.
//! If Redis loses its last writes: the journal stores the messages again, under new ids.
//! Never: drops an entry that a consumer group has not acknowledged.

use std::{collections::HashMap, time::Duration};

use deadpool_redis::redis::{Pipeline, cmd};

use super::{Call, Result, Store, StoreError, jobs::entry_id, lines::ms, message_ids::RowRef, script, untold::Untold};
use crate::domain::{ClaimedRow, EntryId, Fingerprint, LineId};

/// Maximum number of messages in one call of the script, so that no call keeps Redis busy for long.
const MESSAGES_MAX: usize = 256;

/// A part of Pregón that reads the streams. Its consumer group stands at the last message that it has read, so messages
/// that it has not read are never removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboundReader {
    /// The event feed, which publishes the messages.
    Feed,
    /// The chats, which store them in PostgreSQL.
    Engage,
}

impl InboundReader {
    /// The name of its consumer group.
    const fn group(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Engage => "engage",
        }
    }
}

/// How much of the inbound stream of a line is kept.
#[derive(Clone, Copy, Debug)]
pub struct InboundLimits {
    /// How long messages are kept if every reader has acknowledged them, or if there is no reader.
    pub retention: Duration,
    /// The maximum length of the stream.
    pub length_max: u64,
}

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct NewInbound {
    /// Identifies the message within its line.
    pub fingerprint: Fingerprint,
    /// The message as JSON.
    pub message: String,
    /// The recipient whose message it answers.
    pub answers: Option<RowRef>,
}

/// A message on the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundEntry {
    /// Its id in the stream.
    pub id: EntryId,
    /// The message as JSON.
    pub message: String,
    /// The recipient whose message it answers.
    pub answers: Option<RowRef>,
}

/// The result of storing a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is on the stream.
    Stored,
    /// It was stored before.
    Repeated,
    /// It is not stored, because the stream is full of messages that a reader has not acknowledged.
    Full,
}

impl Store {
    /// Removes old messages of lines from their streams: see [`InboundLimits`].
    pub async fn trim_inbound(&self, lines: &[LineId], limits: InboundLimits) -> Result<()> {
        let calls: Vec<Call> = lines.iter().map(|line| self.inbound_call(line, limits)).collect();
        self.run_all(&calls).await
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
                    let recipient = answers.map(recipient_of);
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

    /// At most `limit` messages of a line that the reader has not read.
    pub async fn unread_inbound(
        &self,
        reader: InboundReader,
        line: &LineId,
        limit: usize,
    ) -> Result<Vec<InboundEntry>> {
        let call = Call::new(&script::READ_INBOUND, &[self.keys.inbound(line)]).arg(reader.group()).arg(limit);
        let entries: Vec<(String, HashMap<String, String>)> = self.call(call).await?;
        let read = |(id, mut fields): (String, HashMap<String, String>)| {
            let answers = fields.get("recipient").and_then(|text| answered_by(text));
            Ok(InboundEntry { id: entry_id(&id)?, message: fields.remove("message").unwrap_or_default(), answers })
        };
        entries.into_iter().map(read).collect()
    }

    /// Stores that the reader has read the messages of a line up to the entry `id`.
    pub async fn set_inbound_read(&self, reader: InboundReader, line: &LineId, id: EntryId) -> Result<()> {
        let mut set = cmd("XGROUP");
        set.arg("SETID").arg(self.keys.inbound(line)).arg(reader.group()).arg(id.to_string());
        self.query("XGROUP SETID", &set).await
    }

    /// Marks all messages of lines so far as published, without publishing them.
    pub(super) async fn skip_past_inbound(&self, lines: &[LineId]) -> Result<()> {
        let call = |line: &LineId| {
            Call::new(&script::SKIP_INBOUND, &[self.keys.inbound(line)]).arg(InboundReader::Feed.group())
        };
        self.run_all(&lines.iter().map(call).collect::<Vec<_>>()).await
    }

    /// Removes the consumer group of the feed, so that messages of lines no longer wait for it.
    pub(super) async fn release_inbound(&self, lines: &[LineId]) -> Result<()> {
        let streams: Vec<String> = lines.iter().map(|line| self.keys.inbound(line)).collect();
        let mut exist = Pipeline::new();
        for stream in &streams {
            exist.exists(stream);
        }
        let exist: Vec<bool> = self.query_all("EXISTS inbound", &exist).await?;
        let mut pipeline = Pipeline::new();
        for stream in streams.iter().zip(exist).filter_map(|(stream, exists)| exists.then_some(stream)) {
            pipeline.cmd("XGROUP").arg("DESTROY").arg(stream).arg(InboundReader::Feed.group());
        }
        self.query_all::<u8>("XGROUP DESTROY", &pipeline).await.map(drop)
    }
}

/// The value of the field `recipient`: `CAMPAIGN.PART.ROW.SEND`.
pub fn recipient_of((part, claimed): RowRef) -> String {
    format!("{part}.{}.{}", claimed.row, claimed.send)
}

/// The recipient in a field `recipient`; `None` if the text is malformed.
fn answered_by(recipient: &str) -> Option<RowRef> {
    let (rest, send) = recipient.rsplit_once('.')?;
    let (part, row) = rest.rsplit_once('.')?;
    Some((part.parse().ok()?, ClaimedRow { row: row.parse().ok()?, send: send.parse().ok()? }))
}
