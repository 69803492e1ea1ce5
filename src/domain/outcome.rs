//! What an attempt ended in: the type a line runner must match in full.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Wamid;

/// What an error is about. It stops only that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorScope {
    /// This message.
    Message,
    /// This recipient.
    Recipient,
    /// This line with this recipient.
    Pair,
    /// The template.
    Template,
    /// The campaign: its template and parameters may not fit together.
    Campaign,
    /// The line.
    Line,
    /// The WABA and all its lines.
    Waba,
    /// The access token, and so every line it sends for.
    Token,
    /// The app at Meta, and so every line it sends for.
    App,
    /// Meta as a whole.
    Platform,
    /// Nothing that sending depends on.
    None,
}

/// Why an attempt did not end in an acceptance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Meta's error code, and what Meta said of it.
    Meta {
        /// `error.code`.
        code: u32,
        /// `error.error_data.details`, else `error.message`; may be empty.
        details: String,
    },
    /// No connection: certainly nothing was written.
    Unreachable(String),
    /// Written, and no answer, or one that is not Meta's JSON.
    Unanswered(String),
}

impl Cause {
    /// Meta's code, or 0 where Meta gave none.
    pub fn code(&self) -> u32 {
        match self {
            Cause::Meta { code, .. } => *code,
            Cause::Unreachable(_) | Cause::Unanswered(_) => 0,
        }
    }

    /// What a person reads of it.
    pub fn details(&self) -> &str {
        match self {
            Cause::Meta { details, .. } => details,
            Cause::Unreachable(text) | Cause::Unanswered(text) => text,
        }
    }
}

/// What an attempt ended in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; what follows comes by webhook. `held`: Meta keeps it back for a quality check.
    Accepted {
        /// Meta's id of the message.
        wamid: Wamid,
        /// `message_status` was `held_for_quality_assessment`.
        held: bool,
    },
    /// Meta told us to slow down: slow `scope` and send this one again after `wait`. Uses up no attempt.
    Throttled {
        /// What is to slow down: the pair, the line, the WABA or the app.
        scope: ErrorScope,
        /// How long, at least.
        wait: Duration,
        /// Why.
        cause: Cause,
    },
    /// Certainly not sent: again by schedule, or after `wait` if it is given. Uses up an attempt.
    Retry {
        /// A floor for the wait, from Meta's table.
        wait: Option<Duration>,
        /// Why.
        cause: Cause,
    },
    /// Written and unanswered: never blindly again.
    InDoubt(Cause),
    /// This recipient can never work.
    Failed {
        /// How many recipients in a row who fail with this code pause the campaign; `None` where the recipient is at fault
        /// and not the message.
        pause_after: Option<u32>,
        /// Why.
        cause: Cause,
    },
    /// Hold the scope; the recipient stays as it was. Without `wait` a person or a probe has to clear it.
    Blocked {
        /// What is held: template, line, WABA or token.
        scope: ErrorScope,
        /// How long, if Meta's table says that it ends by itself.
        wait: Option<Duration>,
        /// Why.
        cause: Cause,
    },
}
