//! The faults that requests can meet, and their probabilities.

use std::{collections::BTreeMap, time::Duration};

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::{Deserialize, Deserializer, de};

use super::delay::Delay;

/// The probability of each fault of a send. A send meets at most one fault, so the probabilities add up to at most 1.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// See [`Fault::Unavailable`].
    pub unavailable: f64,
    /// See [`Fault::ServerError`].
    pub server_error: f64,
    /// See [`Fault::Html502`].
    pub html_502: f64,
    /// See [`Fault::Html502AfterAccept`].
    pub html_502_after_accept: f64,
    /// See [`Fault::ResetBefore`].
    pub reset_before: f64,
    /// See [`Fault::ResetAfterAccept`].
    pub reset_after_accept: f64,
    /// See [`Fault::NoAnswerLost`].
    pub no_answer_lost: f64,
    /// See [`Fault::NoAnswerAfterAccept`].
    pub no_answer_after_accept: f64,
    /// See [`Fault::Throttle`].
    pub throttle: f64,
    /// See [`Fault::Held`].
    pub held: f64,
    /// See [`Fault::Refuse`]. Maps code to probability.
    pub refuse: Odds,
    /// How long a request without a response hangs before its connection is closed. Should exceed every client timeout.
    #[serde(with = "friendly")]
    pub no_answer_for: Duration,
    /// Delay of the first status of a held message.
    pub held_for: Delay,
    /// The share of held messages that Meta drops (`failed`, 132015) instead of releasing.
    pub held_dropped: f64,
}

/// A fault that a request can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// 503 with Meta's code 2. Not processed.
    Unavailable,
    /// 500 with Meta's code 131000. Not processed.
    ServerError,
    /// 502 with an HTML body. Not processed.
    #[serde(rename = "html_502")]
    Html502,
    /// 502 with an HTML body, although the message was accepted and its statuses follow.
    #[serde(rename = "html_502_after_accept")]
    Html502AfterAccept,
    /// The connection is reset. Not processed.
    ResetBefore,
    /// The message is accepted and its statuses follow, but the connection is reset without a response.
    ResetAfterAccept,
    /// No response; the connection is closed after [`Faults::no_answer_for`]. Not processed.
    NoAnswerLost,
    /// The message is accepted and its statuses follow, but there is no response; the connection is closed after
    /// [`Faults::no_answer_for`].
    NoAnswerAfterAccept,
    /// Refused with 130429, although the line is within its rate.
    Throttle,
    /// Accepted with `held_for_quality_assessment`.
    Held,
    /// Refused with this code.
    Refuse(u32),
}

/// A window in which every request meets one fault, including requests that read templates and lines.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// When the outage begins, from the start of the simulator (or from the [`super::Change`] that set it).
    #[serde(with = "friendly")]
    pub at: Duration,
    /// The duration of the outage.
    #[serde(rename = "for", with = "friendly")]
    pub lasts: Duration,
    /// The fault of every request.
    pub fault: Fault,
}

/// Meta's error codes, each with its probability.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Odds(pub BTreeMap<u32, f64>);

impl Faults {
    /// Each fault with its probability.
    pub(super) fn odds(&self) -> impl Iterator<Item = (Fault, f64)> {
        [
            (Fault::Unavailable, self.unavailable),
            (Fault::ServerError, self.server_error),
            (Fault::Html502, self.html_502),
            (Fault::Html502AfterAccept, self.html_502_after_accept),
            (Fault::ResetBefore, self.reset_before),
            (Fault::ResetAfterAccept, self.reset_after_accept),
            (Fault::NoAnswerLost, self.no_answer_lost),
            (Fault::NoAnswerAfterAccept, self.no_answer_after_accept),
            (Fault::Throttle, self.throttle),
            (Fault::Held, self.held),
        ]
        .into_iter()
        .chain(self.refuse.0.iter().map(|(code, probability)| (Fault::Refuse(*code), *probability)))
    }
}

impl Fault {
    /// Meta's code, if the fault is a refusal.
    pub(super) fn code(self) -> Option<u32> {
        match self {
            Fault::Unavailable => Some(2),
            Fault::ServerError => Some(131_000),
            Fault::Throttle => Some(130_429),
            Fault::Refuse(code) => Some(code),
            _ => None,
        }
    }

    /// Whether a message that meets the fault is accepted nevertheless.
    pub(super) fn accepts(self) -> bool {
        matches!(self, Fault::Html502AfterAccept | Fault::ResetAfterAccept | Fault::NoAnswerAfterAccept | Fault::Held)
    }

    /// The name in scenarios and in the ledger.
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::Unavailable => "unavailable",
            Fault::ServerError => "server_error",
            Fault::Html502 => "html_502",
            Fault::Html502AfterAccept => "html_502_after_accept",
            Fault::ResetBefore => "reset_before",
            Fault::ResetAfterAccept => "reset_after_accept",
            Fault::NoAnswerLost => "no_answer_lost",
            Fault::NoAnswerAfterAccept => "no_answer_after_accept",
            Fault::Throttle => "throttle",
            Fault::Held => "held",
            Fault::Refuse(_) => "refuse",
        }
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            unavailable: 0.0,
            server_error: 0.0,
            html_502: 0.0,
            html_502_after_accept: 0.0,
            reset_before: 0.0,
            reset_after_accept: 0.0,
            no_answer_lost: 0.0,
            no_answer_after_accept: 0.0,
            throttle: 0.0,
            held: 0.0,
            refuse: Odds::default(),
            no_answer_for: Duration::from_secs(120),
            held_for: Delay::Fixed(Duration::from_secs(5)),
            held_dropped: 0.0,
        }
    }
}

impl<'de> Deserialize<'de> for Odds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Keys of TOML tables are always strings.
        BTreeMap::<String, f64>::deserialize(deserializer)?
            .into_iter()
            .map(|(code, probability)| match code.parse() {
                Ok(code) => Ok((code, probability)),
                Err(_) => Err(de::Error::custom(format!("`{code}` is not one of Meta's codes"))),
            })
            .collect::<Result<_, _>>()
            .map(Odds)
    }
}
