//! The result of an attempt. Callers match [`Outcome`] in full.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FailureReason, MetaCode, Wamid};

/// The scope of an error. An error stops only its own scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorScope {
    /// This message.
    Message,
    /// This recipient.
    Recipient,
    /// This recipient on this line.
    Pair,
    /// The template.
    Template,
    /// The campaign: its template and its parameters may not fit together.
    Campaign,
    /// The line.
    Line,
    /// The WABA and all its lines.
    Waba,
    /// Utility messages of the WABA.
    Utility,
    /// Messages of the WABA to the recipient's country.
    Country,
    /// The business and all its WABAs.
    Business,
    /// The access token, and so every line that uses it.
    Token,
    /// The app at Meta, and so every line that uses it.
    App,
    /// Meta as a whole.
    Platform,
    /// Nothing that sending depends on.
    None,
}

impl ErrorScope {
    /// Every scope.
    pub const ALL: [ErrorScope; 14] = [
        ErrorScope::Message,
        ErrorScope::Recipient,
        ErrorScope::Pair,
        ErrorScope::Template,
        ErrorScope::Campaign,
        ErrorScope::Line,
        ErrorScope::Waba,
        ErrorScope::Utility,
        ErrorScope::Country,
        ErrorScope::Business,
        ErrorScope::Token,
        ErrorScope::App,
        ErrorScope::Platform,
        ErrorScope::None,
    ];

    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            ErrorScope::Message => "message",
            ErrorScope::Recipient => "recipient",
            ErrorScope::Pair => "pair",
            ErrorScope::Template => "template",
            ErrorScope::Campaign => "campaign",
            ErrorScope::Line => "line",
            ErrorScope::Waba => "waba",
            ErrorScope::Utility => "utility",
            ErrorScope::Country => "country",
            ErrorScope::Business => "business",
            ErrorScope::Token => "token",
            ErrorScope::App => "app",
            ErrorScope::Platform => "platform",
            ErrorScope::None => "none",
        }
    }
}

/// Why an attempt was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Meta returned an error.
    Meta {
        /// `error.code`.
        code: MetaCode,
        /// `error.error_data.details`, else `error.message`; may be empty.
        details: String,
    },
    /// No connection: certainly nothing was written.
    Unreachable(String),
    /// The request was written, and no response came, or one that is not Meta's JSON.
    Unanswered(String),
}

impl Cause {
    /// Meta's code, if Meta returned an error.
    pub fn code(&self) -> Option<MetaCode> {
        self.reason().code()
    }

    /// The reason that is stored for the recipient.
    pub fn reason(&self) -> FailureReason {
        match self {
            Cause::Meta { code, .. } => FailureReason::Meta(*code),
            Cause::Unreachable(_) | Cause::Unanswered(_) => FailureReason::NoAnswer,
        }
    }

    /// A description for people.
    pub fn details(&self) -> &str {
        match self {
            Cause::Meta { details, .. } => details,
            Cause::Unreachable(text) | Cause::Unanswered(text) => text,
        }
    }
}

/// The result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Meta accepted the message. Later results come by webhook.
    Accepted {
        /// Meta's message id.
        wamid: Wamid,
        /// Meta keeps the message back for a quality check: `message_status` was `held_for_quality_assessment`.
        held: bool,
    },
    /// Meta asked for a lower rate: slow `scope` down, and send the message again after `wait`. Does not count as an
    /// attempt.
    Throttled {
        /// What to slow down: the pair of recipient and line, the line, the WABA or the app.
        scope: ErrorScope,
        /// The minimum wait.
        wait: Duration,
        /// Why the request was refused.
        cause: Cause,
    },
    /// Certainly not sent: send again after the wait of the retry schedule. Counts as an attempt.
    Retry {
        /// The minimum wait, from the table of Meta's codes.
        wait: Option<Duration>,
        /// Why the message was not sent.
        cause: Cause,
    },
    /// Certainly not sent: Meta withheld the message because its recipient gets much marketing. The campaign decides
    /// whether it is sent once more.
    Withheld(Cause),
    /// Certainly not sent: the WABA sends marketing only through the Marketing Messages API. Send it again through
    /// that. Does not count as an attempt.
    Rerouted(Cause),
    /// The request was written and has no usable response. Never send it again blindly.
    InDoubt(Cause),
    /// The message failed for good.
    Failed {
        /// Pause the campaign after this many recipients in a row that fail with this code. `None` if the recipient
        /// is at fault and not the message.
        pause_after: Option<u32>,
        /// Why the message failed.
        cause: Cause,
    },
    /// Hold `scope`; the recipient keeps its state.
    Blocked {
        /// What to hold: the template, the line, the WABA or the token.
        scope: ErrorScope,
        /// How long the hold lasts. `None`: a probe or a person has to end it.
        wait: Option<Duration>,
        /// Why the scope is held.
        cause: Cause,
    },
}

impl Outcome {
    /// Why the message was not accepted; `None` if it was.
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Outcome::Accepted { .. } => None,
            Outcome::Throttled { cause, .. }
            | Outcome::Retry { cause, .. }
            | Outcome::Withheld(cause)
            | Outcome::Rerouted(cause)
            | Outcome::InDoubt(cause)
            | Outcome::Failed { cause, .. }
            | Outcome::Blocked { cause, .. } => Some(cause),
        }
    }
}
