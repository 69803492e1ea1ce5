//! Account changes from Meta: bans and restrictions hold the WABA, all other changes are logged and counted.
//!
//! If the process dies: Meta delivers unanswered webhooks again.
//! Never: lifts a hold that has another cause.

use tracing::{info, warn};

use super::payload::AccountChange;
use crate::{
    domain::{Hold, HoldScope, MetaCode, UnixMs, WabaId},
    redis::{Result, Store},
    telemetry::metrics::{self, AccountEvent},
};

/// Meta's code for sends of a restricted or disabled WABA.
const RESTRICTED: MetaCode = MetaCode(368);
/// Meta's code for sends of a locked account.
const LOCKED: MetaCode = MetaCode(131_031);

/// Applies a change of the account `waba`, which is one of ours.
pub async fn apply(store: &Store, waba: &WabaId, change: &AccountChange<'_>, now: UnixMs) -> Result<()> {
    let (field, event) = (&*change.field, &*change.event);
    let kind = kind(change);
    metrics::account_event(kind);
    let at = change.at.unwrap_or(now);
    match kind {
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

fn kind(change: &AccountChange<'_>) -> AccountEvent {
    match (&*change.field, &*change.event) {
        ("account_update", "ACCOUNT_RESTRICTION") => AccountEvent::Restricted,
        ("account_update", "ACCOUNT_VIOLATION") => AccountEvent::Violation,
        ("account_update", "ACCOUNT_DELETED" | "DISABLE") => AccountEvent::Disabled,
        ("account_update", "REINSTATE") => AccountEvent::Reinstated,
        ("phone_number_quality_update", _) => AccountEvent::Quality,
        ("business_capability_update", _) => AccountEvent::Capability,
        ("security", _) => AccountEvent::Security,
        ("account_alerts", _) => AccountEvent::Alert,
        ("messages", _) => AccountEvent::Errors,
        _ => AccountEvent::Other,
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
            store.unhold(&scope).await
        }
    }
}
