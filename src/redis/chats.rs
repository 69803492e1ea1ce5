//! The lane of the chats of a line: messages on their way from PostgreSQL to Meta, and what became of them on the way
//! back.
//!
//! A reader of the line (`engage`) puts each message into the lane, and removes it once PostgreSQL has its result. In
//! between, the owner of the line claims and settles it as it does with recipients of campaigns. A message in the lane
//! is put once, however often the reader repeats it.
//!
//! If the owner dies: its claims stay until their deadlines, and are unknown then unless Meta reports a status.
//! If Redis loses its last writes: the owner repeats its claims and outcomes, and the reader puts its messages again.

use std::{collections::HashMap, str::FromStr};

use deadpool_redis::redis::{Value, cmd, from_redis_value};

use super::{Call, Result, Store, StoreError, jobs::entry_id, script};
use crate::domain::{
    ChatMessageId, Due, EntryId, FailureReason, LineId, MetaCode, Settled, State, UnixMs, Wamid,
    chat::{ChatStatus, Outgoing},
};

/// Maximum number of results on a line with which another status is stored that has no token of ours. Another app on the
/// line may cause any number of them.
const UNNAMED_MAX: u64 = 1_000;

/// A claimed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedChat {
    /// The message.
    pub id: ChatMessageId,
    /// The number of this send, from 1.
    pub send: u32,
    /// The number of this attempt, from 1, without the attempts that did not count.
    pub attempt: u8,
    /// It must leave before that.
    pub until: Option<UnixMs>,
    /// What is to be sent, JSON.
    pub request: String,
}

/// A message as it is stored: the time in ms before which it must leave, if there is one, a space and the request.
/// [`read_claim`] reads it.
fn stored(message: &Outgoing) -> String {
    let until = message.until.map_or_else(String::new, |UnixMs(until)| until.to_string());
    format!("{until} {}", message.request)
}

/// The arguments of a claim.
#[derive(Clone, Copy, Debug)]
pub struct ChatClaimRequest {
    /// The epoch of the caller's lease on the line.
    pub epoch: u64,
    /// Rises with each claim of an epoch.
    pub number: u64,
    /// The caller's time.
    pub now: UnixMs,
    /// Maximum number of messages.
    pub limit: usize,
    /// When the messages are unknown if the caller dies.
    pub doubt_until: UnixMs,
    /// The number of an earlier claim of the epoch that got no response.
    pub unanswered: Option<u64>,
}

/// The result of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatClaim {
    /// Messages to send, and what is left.
    Claimed {
        /// The messages, oldest first.
        messages: Vec<ClaimedChat>,
        /// When something has to be claimed or ended next.
        next: Option<UnixMs>,
    },
    /// A later claim came first.
    Late,
    /// A newer owner has claimed.
    Fenced {
        /// Its epoch.
        epoch: u64,
    },
}

/// What became of a claimed message.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOutcome {
    /// The message.
    pub id: ChatMessageId,
    /// The number of the send.
    pub send: u32,
    /// What is stored.
    pub settled: Settled,
    /// Meta's error text; may be empty.
    pub details: String,
}

/// A result that the reader of the line has not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatResult {
    /// Its id among the results.
    pub entry: EntryId,
    /// What became of the message.
    pub status: ChatStatus,
}

impl Store {
    fn chat_keys(&self, line: &LineId) -> [String; 5] {
        let keys = &self.keys;
        [
            keys.chat_states(line),
            keys.chat_requests(line),
            keys.chat_queue(line),
            keys.chat_sends(line),
            keys.chat_results(line),
        ]
    }

    /// Puts messages of a line into its lane. `epoch`: that of the caller's duty to read the line. Returns the worker
    /// that has the line, or `None` if a newer reader has put messages.
    pub async fn put_chats(
        &self,
        line: &LineId,
        epoch: u64,
        now: UnixMs,
        messages: &[Outgoing],
    ) -> Result<Option<String>> {
        let [states, requests, queue, ..] = self.chat_keys(line);
        let keys = [self.keys.chat_fences(line), states, requests, queue, self.keys.lease(line)];
        let call = Call::new(&script::CHAT_PUT, &keys).arg(epoch).arg(now.0);
        let call = messages.iter().fold(call, |call, new| call.arg(new.id.to_string()).arg(stored(new)));
        let (is_put, owner): (u8, String) = self.call(call).await?;
        Ok((is_put == 1).then_some(owner))
    }

    /// Claims messages of a line.
    ///
    /// Errors: after `OutcomeUnknown` messages may be in flight that the caller does not know of. Its next claim asks for
    /// them by `unanswered`.
    pub async fn claim_chats(&self, line: &LineId, request: ChatClaimRequest) -> Result<ChatClaim> {
        let incarnation = self.incarnations.newest();
        let ChatClaimRequest { epoch, number, now, limit, doubt_until, unanswered } = request;
        let mut keys = vec![self.keys.chat_fences(line)];
        keys.extend(self.chat_keys(line));
        let call = Call::new(&script::CHAT_CLAIM, &keys).arg(epoch).arg(number).arg(now.0).arg(limit);
        let answer: Vec<Value> = self.call(call.arg(doubt_until.0).arg(unanswered.unwrap_or(0))).await?;
        let claim = read_claim(&answer)
            .ok_or_else(|| StoreError::Refused { operation: "chat_claim", message: "unexpected answer".into() })?;
        if let ChatClaim::Claimed { messages, .. } = &claim
            && !messages.is_empty()
        {
            let call = messages.iter().fold(self.settle_chats_call(line, now), |call, claimed| {
                let owner = format!("{}.{epoch}.{number}", claimed.attempt);
                outcome(call, "C", claimed.id, claimed.send).arg(doubt_until.0).arg("").arg(owner)
            });
            self.incarnations.record(incarnation, [call.into_journal_entry()])?;
        }
        Ok(claim)
    }

    fn settle_chats_call(&self, line: &LineId, now: UnixMs) -> Call {
        Call::new(&script::CHAT_SETTLE, &self.chat_keys(line)).arg(now.0)
    }

    /// Stores the outcomes of claimed messages of a line.
    pub async fn settle_chats(&self, line: &LineId, now: UnixMs, outcomes: &[ChatOutcome]) -> Result<()> {
        let call = outcomes.iter().fold(
            self.settle_chats_call(line, now),
            |call, ChatOutcome { id, send, settled, details }| {
                let code = |reason: &FailureReason| reason.code().map_or_else(String::new, |code| code.0.to_string());
                match settled {
                    Settled::Accepted(wamid) | Settled::Held(wamid) => {
                        outcome(call, "A", *id, *send).arg(0).arg("").arg(wamid.as_str())
                    }
                    Settled::Retry { at, reason } | Settled::Withheld { at, reason } => {
                        outcome(call, "R", *id, *send).arg(at.0).arg(code(reason)).arg(details)
                    }
                    Settled::Back { at } => {
                        let at = match at {
                            // Ahead of later messages of its chat, which may wait already.
                            Due::AtOnce => 0,
                            Due::At(at) => at.0,
                        };
                        outcome(call, "B", *id, *send).arg(at).arg("").arg("")
                    }
                    Settled::InDoubt { until } => outcome(call, "D", *id, *send).arg(until.0).arg("").arg(details),
                    Settled::Refused { reason } => outcome(call, "F", *id, *send).arg(0).arg(code(reason)).arg(details),
                    // No message of a chat is skipped.
                    Settled::Skipped { .. } => outcome(call, "F", *id, *send).arg(0).arg("").arg(details),
                }
            },
        );
        for result in self.call_journaled::<u8>(vec![call]).await? {
            result?;
        }
        Ok(())
    }

    /// Stores what Meta reported about messages of a line. Returns whether it is stored: not if the reader has not read
    /// `length_max` results.
    pub async fn note_chat_statuses(&self, line: &LineId, statuses: &[ChatStatus], length_max: u64) -> Result<bool> {
        let call = Call::new(&script::CHAT_STATUS, &self.chat_keys(line)).arg(length_max);
        let call = statuses.iter().fold(call, |call, status| {
            let ChatStatus { id, send, state, at, wamid, code, details } = status;
            let id = id.map_or_else(String::new, |id| id.to_string());
            let call = call.arg(id).arg(send).arg(state.code()).arg(at.0);
            let code = code.map_or_else(String::new, |code| code.0.to_string());
            call.arg(wamid.as_ref().map(Wamid::as_str).unwrap_or_default()).arg(code).arg(details)
        });
        let mut stored = true;
        for result in self.call_journaled::<u8>(vec![call]).await? {
            stored &= result? == 1;
        }
        Ok(stored)
    }

    /// Stores statuses that name their messages only by Meta's ids and that belong to no campaign, unless no message of a
    /// chat has ever left by the line, or 1,000 results wait.
    pub async fn note_unnamed_statuses(&self, line: &LineId, statuses: &[ChatStatus]) -> Result<()> {
        let mut has_reader = cmd("HEXISTS");
        has_reader.arg(self.keys.chat_fences(line)).arg("reader");
        if self.query("HEXISTS chat_fences", &has_reader).await? {
            self.note_chat_statuses(line, statuses, UNNAMED_MAX).await?;
        }
        Ok(())
    }

    /// The oldest results of a line, at most `limit`.
    pub async fn chat_results(&self, line: &LineId, limit: usize) -> Result<Vec<ChatResult>> {
        let mut range = cmd("XRANGE");
        range.arg(self.keys.chat_results(line)).arg("-").arg("+").arg("COUNT").arg(limit);
        let entries: Vec<(String, HashMap<String, String>)> = self.query("XRANGE chat_results", &range).await?;
        let read = |(entry, fields): (String, HashMap<String, String>)| {
            let key = || self.keys.chat_results(line);
            let status = read_status(&fields)
                .ok_or_else(|| StoreError::Corrupt { key: key(), reason: format!("{fields:?} is not a result") })?;
            Ok(ChatResult { entry: entry_id(&entry)?, status })
        };
        entries.into_iter().map(read).collect()
    }

    /// Removes the results of a line up to `last`, and the messages that `ended` with them. Returns whether that is done:
    /// not if a newer reader has put messages.
    pub async fn ack_chats(&self, line: &LineId, epoch: u64, last: EntryId, ended: &[ChatMessageId]) -> Result<bool> {
        let keys = [self.keys.chat_fences(line), self.keys.chat_states(line), self.keys.chat_results(line)];
        let call = Call::new(&script::CHAT_ACK, &keys).arg(epoch).arg(last.to_string());
        let call = ended.iter().fold(call, |call, id| call.arg(id.to_string()));
        Ok(self.call::<u8>(call).await? == 1)
    }

    /// Ends messages of a line whose person is forgotten. They are not sent, and not put into the lane any more. A request
    /// that is on its way is not sent again.
    pub async fn drop_chats(&self, line: &LineId, now: UnixMs, messages: &[ChatMessageId]) -> Result<()> {
        let [states, requests, queue, _, results] = self.chat_keys(line);
        let call = Call::new(&script::CHAT_DROP, &[states, requests, queue, results]).arg(now.0);
        let call = messages.iter().fold(call, |call, id| call.arg(id.to_string()));
        self.call::<u8>(call).await.map(drop)
    }

    /// The number of the run of Redis in which this process works. It rises with each restart and failover.
    pub fn incarnation(&self) -> u64 {
        self.incarnations.newest()
    }
}

/// The first arguments of an outcome.
fn outcome(call: Call, what: &str, id: ChatMessageId, send: u32) -> Call {
    call.arg(what).arg(id.to_string()).arg(send)
}

fn read_claim(answer: &[Value]) -> Option<ChatClaim> {
    let text = |value: &Value| from_redis_value::<String>(value.clone()).ok();
    match text(answer.first()?)?.as_str() {
        "late" => Some(ChatClaim::Late),
        "fenced" => Some(ChatClaim::Fenced { epoch: from_redis_value(answer.get(1)?.clone()).ok()? }),
        _ => {
            let time = |value: &Value| text(value).map(|ms| ms.parse::<f64>().ok().map(|ms| UnixMs(ms as u64)));
            let next = [time(answer.get(1)?)?, time(answer.get(2)?)?].into_iter().flatten().min();
            let messages = answer.get(3..)?.chunks(4).map(|fields| {
                let [id, send, attempt, stored] = fields else { return None };
                let stored = text(stored)?;
                let (until, request) = stored.split_once(' ')?;
                Some(ClaimedChat {
                    id: text(id)?.parse().ok()?,
                    send: number(&text(send)?)?,
                    attempt: number::<u64>(&text(attempt)?)?.min(255) as u8,
                    until: number(until).map(UnixMs),
                    request: request.to_owned(),
                })
            });
            Some(ChatClaim::Claimed { messages: messages.collect::<Option<_>>()?, next })
        }
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn read_status(fields: &HashMap<String, String>) -> Option<ChatStatus> {
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let id = match field("id") {
        "" => None,
        id => Some(id.parse().ok()?),
    };
    Some(ChatStatus {
        id,
        send: number(field("send"))?,
        state: State::of(number(field("state"))?)?,
        at: UnixMs(number(field("at"))?),
        wamid: Some(field("wamid")).filter(|wamid| !wamid.is_empty()).map(Wamid::from),
        code: number(field("code")).map(MetaCode),
        details: field("details").to_owned(),
    })
}
