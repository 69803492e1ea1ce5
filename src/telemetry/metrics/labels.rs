//! The label values of the series: enums, so that their number is bounded.

use crate::domain::Outcome;

/// Declares an enum whose variants are the values of a label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The label value.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

label! {
    /// The content of a webhook.
    WebhookKind {
        /// Meta's verification handshake.
        Handshake = "handshake",
        /// Statuses of messages.
        Statuses = "statuses",
        /// Messages that people sent.
        Messages = "messages",
        /// Anything else: templates, accounts, phone numbers, and fields that this version does not know.
        Other = "other",
        /// A body that was not parsed: refused, too large, or not JSON.
        Unread = "unread",
    }
}

label! {
    /// The result of a webhook.
    WebhookResult {
        /// The effect of the webhook is in Redis.
        Taken = "taken",
        /// Valid, but with nothing that Pregón uses.
        Ignored = "ignored",
        /// A wrong signature or a wrong verify token.
        Refused = "refused",
        /// Correctly signed, but not of the form that Meta documents.
        Malformed = "malformed",
        /// Redis did not answer; the response asks Meta to deliver again.
        Unavailable = "unavailable",
    }
}

label! {
    /// Why a webhook was refused with 401.
    RefusalReason {
        /// The signature was not made with our app secret.
        WrongSignature = "wrong_signature",
        /// There is no signature, or it does not have the form of Meta's.
        NoSignature = "no_signature",
    }
}

label! {
    /// The result of forwarding a webhook.
    ForwardResult {
        /// The target has it.
        Forwarded = "forwarded",
        /// Every attempt failed.
        Failed = "failed",
        /// It was dropped, because too many wait.
        Full = "full",
        /// The process stopped before the next attempt.
        Stopped = "stopped",
    }
}

label! {
    /// The value of a status.
    StatusName {
        /// Sent by Meta.
        Sent = "sent",
        /// Delivered to the phone.
        Delivered = "delivered",
        /// Read by the recipient.
        Read = "read",
        /// Failed after it was accepted.
        Failed = "failed",
        /// Not one of Meta's documented statuses.
        Other = "other",
    }
}

label! {
    /// The effect of a status.
    StatusResult {
        /// The status raised the state of its recipient.
        Applied = "applied",
        /// The recipient already had that rank or a higher one, or the status belongs to an earlier send of the row.
        Repeated = "repeated",
        /// The status has no token, and its message id is not stored yet. The id is looked up again later, and that
        /// result is counted too.
        Parked = "parked",
        /// The status belongs to no recipient of this installation.
        Unknown = "unknown",
        /// The line is not configured here, or the WABA is not that of the line.
        Foreign = "foreign",
        /// The value of the status is not one that Pregón uses.
        Ignored = "ignored",
    }
}

label! {
    /// The result of storing a message from a person.
    InboundResult {
        /// The message is now on the inbound stream of its line.
        Stored = "stored",
        /// The message was stored before.
        Repeated = "repeated",
        /// The stream is full; the response asks Meta to deliver again.
        Full = "full",
    }
}

label! {
    /// The result of storing a message from a person in a chat.
    ChatResult {
        /// The message is now in its chat.
        Stored = "stored",
        /// The message was in its chat before.
        Repeated = "repeated",
    }
}

label! {
    /// Why an operation on PostgreSQL failed.
    DatabaseErrorKind {
        /// PostgreSQL did not answer, or a retry may succeed.
        Unavailable = "unavailable",
        /// A retry does not help.
        Refused = "refused",
    }
}

label! {
    /// What a webhook reports about an account.
    AccountEvent {
        /// The account, or a part of the account, may not send.
        Restricted = "restricted",
        /// The account violated a policy.
        Violation = "violation",
        /// The account was disabled or deleted.
        Disabled = "disabled",
        /// The account was reinstated.
        Reinstated = "reinstated",
        /// The throughput or the messaging limit of a phone number changed.
        Quality = "quality",
        /// A limit of the business portfolio changed.
        Capability = "capability",
        /// A security setting of a phone number changed, such as its PIN.
        Security = "security",
        /// Meta shows a warning on the account's page.
        Alert = "alert",
        /// The webhook has errors that belong to no message.
        Errors = "errors",
        /// Any other change of the account.
        Other = "other",
    }
}

label! {
    /// The result of the authorization of a call.
    ApiResult {
        /// The key allows the call.
        Admitted = "admitted",
        /// The call has no key.
        NoKey = "no_key",
        /// The key is not configured.
        UnknownKey = "unknown_key",
        /// The key was not checked: too many calls from the same address had unknown keys.
        TooOften = "too_often",
        /// The key lacks the scope.
        NoScope = "no_scope",
    }
}

label! {
    /// The result of an entry of the job stream.
    JobResult {
        /// The entry took effect.
        Taken = "taken",
        /// The entry had taken effect before.
        Repeated = "repeated",
        /// The entry was moved to the dead letters.
        Dead = "dead",
    }
}

label! {
    /// The result of a submitted recipient.
    RecipientResult {
        /// The recipient is valid, and was stored for sending.
        Accepted = "accepted",
        /// The recipient is invalid; the response has the reason.
        Rejected = "rejected",
    }
}

label! {
    /// The result of an attempt to deliver events to a subscriber.
    DeliveryResult {
        /// The subscriber has them.
        Delivered = "delivered",
        /// The response has a status other than 2xx.
        Refused = "refused",
        /// The response is a redirect, which is not followed.
        Redirect = "redirect",
        /// The subscriber wants no more events.
        Gone = "gone",
        /// No response came in time.
        Timeout = "timeout",
        /// There was no connection, or it broke.
        Unreachable = "unreachable",
        /// The name of the subscriber has only private addresses.
        NotPublic = "not_public",
    }
}

label! {
    /// How an attempt ended.
    AttemptOutcome {
        /// Meta accepted the message.
        Accepted = "accepted",
        /// Meta accepted the message, and holds it back.
        Held = "held",
        /// Meta asked for a lower rate.
        Throttled = "throttled",
        /// Certainly not sent, and sent again later.
        Retry = "retry",
        /// The request was written, and no usable answer came.
        InDoubt = "in_doubt",
        /// The message failed for good.
        Failed = "failed",
        /// The answer leads to a hold.
        Blocked = "blocked",
    }
}

impl AttemptOutcome {
    /// The label of `outcome`.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Accepted { held: false, .. } => Self::Accepted,
            Outcome::Accepted { held: true, .. } => Self::Held,
            Outcome::Throttled { .. } => Self::Throttled,
            Outcome::Rerouted(_) | Outcome::Retry { .. } => Self::Retry,
            Outcome::InDoubt(_) => Self::InDoubt,
            // Counted as a failure, because only a campaign that asks for it sends the message again.
            Outcome::Failed { .. } | Outcome::Withheld(_) => Self::Failed,
            Outcome::Blocked { .. } => Self::Blocked,
        }
    }
}

label! {
    /// Why a line is stopped.
    LineStop {
        /// An operator's pause: of the line, of its business, or of everything.
        Paused = "paused",
        /// A hold on the line, or on what the line needs to send.
        Held = "held",
        /// The answers do not come from Meta.
        PathBroken = "path_broken",
        /// Meta cannot be reached.
        Unreachable = "unreachable",
        /// The day's share of the line's warm-up is spent.
        WarmUp = "warm_up",
    }
}

label! {
    /// The result of the export of a span.
    SpanResult {
        /// The collector has it.
        Exported = "exported",
        /// The collector did not answer, or refused it.
        Failed = "failed",
        /// It was dropped, because too many wait.
        Dropped = "dropped",
    }
}

label! {
    /// The result of a doubt whose deadline has passed.
    DoubtEnd {
        /// The recipient is unknown from now on.
        Unknown = "unknown",
        /// The message is sent again, as its campaign asks.
        Retried = "retried",
    }
}

label! {
    /// What the comparison of a part's counters with a recount found.
    RecountResult {
        /// They are equal.
        Equal = "equal",
        /// They differ.
        Different = "different",
        /// A state changed meanwhile, so they could not be compared.
        Changed = "changed",
    }
}

label! {
    /// What happened to the lease on a line.
    LeaseEvent {
        /// This worker took the line.
        Acquired = "acquired",
        /// This worker gave the line back.
        Released = "released",
        /// The lease ended or went to another worker before it was given back.
        Lost = "lost",
    }
}

label! {
    /// A group of commands to Redis.
    RedisOperation {
        /// Claims of rows.
        Claim = "claim",
        /// Reads of the recipients to send to.
        Recipients = "recipients",
        /// Outcomes of attempts.
        Settle = "settle",
        /// Statuses from webhooks, and the search for their recipients.
        Status = "status",
        /// Messages from people.
        Inbound = "inbound",
        /// Uploads of recipients.
        Upload = "upload",
        /// Leases, heartbeats, reports, and the signals that workers watch.
        Lease = "lease",
        /// Suppressions, frequency caps and messaging limits.
        People = "people",
        /// The event feed and its subscribers.
        Feed = "feed",
        /// The lanes of the chats.
        Chats = "chats",
        /// Waits until writes are durable.
        Durability = "durability",
        /// Every other read.
        Read = "read",
        /// Every other write or script.
        Write = "write",
    }
}
