//! Account changes from Meta: bans and restrictions hold the WABA, all other changes are logged and counted.
//!
//! If the process dies: Meta delivers unanswered webhooks again.
//! Never: lifts a hold that has another cause.

use std::borrow::Cow;

use tracing::{info, warn};

use crate::{
    domain::{Hold, HoldScope, MetaCode, UnixMs, WabaId},
    redis::{Result, Store},
    telemetry::metrics::{self, AccountEvent},
};

/// Meta's code for sends of a restricted or disabled WABA.
const RESTRICTED: MetaCode = MetaCode(368);
/// Meta's code for sends of a locked account.
const LOCKED: MetaCode = MetaCode(131_031);

/// A change of an account.
#[derive(Debug, PartialEq)]
pub struct AccountChange<'a> {
    /// The webhook field of the change.
    pub field: &'static str,
    /// What the change is.
    pub kind: AccountEvent,
    /// Meta's name of the event, or the code of an error; may be empty.
    pub event: Cow<'a, str>,
    /// The restriction, violation or error; may be empty.
    pub reason: Cow<'a, str>,
    /// Whether a restriction forbids sending messages.
    pub stops_messages: bool,
    /// When all such restrictions end, if Meta says so for each.
    pub until: Option<UnixMs>,
}

impl<'a> AccountChange<'a> {
    /// A change that restricts nothing.
    pub fn notice(field: &'static str, kind: AccountEvent, event: Cow<'a, str>) -> Self {
        Self { field, kind, event, reason: Cow::default(), stops_messages: false, until: None }
    }
}

/// Applies a change of the account `waba`, which is one of ours. `at` is the time of the change.
pub async fn apply(store: &Store, waba: &WabaId, change: &AccountChange<'_>, at: UnixMs, now: UnixMs) -> Result<()> {
    let (field, event) = (change.field, &*change.event);
    metrics::account_event(change.kind);
    match change.kind {
        AccountEvent::Disabled => hold(store, waba, change, None, at).await,
        AccountEvent::Restricted if change.stops_messages => hold(store, waba, change, change.until, at).await,
        AccountEvent::Reinstated => lift(store, waba, at, now).await,
        AccountEvent::Capability | AccountEvent::Quality => {
            info!(waba.id = %waba, field, event, "account change");
            Ok(())
        }
        AccountEvent::Restricted
        | AccountEvent::Violation
        | AccountEvent::Security
        | AccountEvent::Alert
        | AccountEvent::Errors
        | AccountEvent::Other => {
            warn!(waba.id = %waba, field, event, reason = &*change.reason, "account change");
            Ok(())
        }
    }
}

async fn hold(
    store: &Store,
    waba: &WabaId,
    change: &AccountChange<'_>,
    until: Option<UnixMs>,
    at: UnixMs,
) -> Result<()> {
    let separator = if change.reason.is_empty() { "" } else { ": " };
    let reason = format!("meta says {}{separator}{}", change.event, change.reason);
    let scope = HoldScope::Waba(waba.clone());
    // `since` is Meta's time of the change, so that an older reinstatement does not lift the hold.
    let hold = Hold { code: Some(RESTRICTED), reason, since: at, until };
    if store.hold_if_new(&scope, &hold, at).await? {
        warn!(scope = %scope, reason = hold.reason, "account held by meta");
    }
    Ok(())
}

async fn lift(store: &Store, waba: &WabaId, at: UnixMs, now: UnixMs) -> Result<()> {
    let scope = HoldScope::Waba(waba.clone());
    match store.holds(now).await?.get(&scope) {
        Some(hold) if !matches!(hold.code, Some(RESTRICTED | LOCKED)) || hold.since > at => Ok(()),
        _ => {
            info!(scope = %scope, "account hold lifted by meta");
            store.unhold(&scope).await.map(drop)
        }
    }
}
