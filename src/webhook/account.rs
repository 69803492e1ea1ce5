//! Account changes from Meta. Bans and restrictions hold the WABA. All other changes are logged and counted.
//!
//! If the process dies: Meta delivers unanswered webhooks again.
//! Never: lifts a hold that another cause has set.

use std::{borrow::Cow, time::Duration};

use tracing::{info, warn};

use crate::{
    domain::{BusinessId, Hold, HoldScope, MessagingLimit, MetaCode, UnixMs, WabaId, policy},
    redis::{Result, Store, messaging_limits::KnownLimit},
    telemetry::metrics::{self, AccountEvent},
};

/// Meta's code for sends of a restricted or disabled WABA.
const RESTRICTED: MetaCode = MetaCode(368);
/// Meta's code for sends of a locked account.
const LOCKED: MetaCode = MetaCode(131_031);

/// Margin between the end of a restriction and the next send, because Meta reports the end in whole seconds of its own
/// clock.
const END_MARGIN: Duration = Duration::from_secs(5);

/// A change of an account.
#[derive(Debug, PartialEq)]
pub struct AccountChange<'a> {
    /// The webhook field of the change.
    pub field: &'static str,
    /// The kind of the change.
    pub kind: AccountEvent,
    /// Meta's name of the event, or the code of an error; may be empty.
    pub event: Cow<'a, str>,
    /// The restriction, violation or error; may be empty.
    pub reason: Cow<'a, str>,
    /// Whether the account is restricted from sending messages.
    pub stops_messages: bool,
    /// When the last of these restrictions ends, if Meta names the end of each.
    pub until: Option<UnixMs>,
    /// What the change means for utility messages.
    pub utility: Option<UtilityChange>,
    /// The new messaging limit of the business.
    pub messaging_limit: Option<MessagingLimit>,
}

/// A change of the cap on utility messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UtilityChange {
    /// The WABA has reached its cap. The cap ends at this time, if Meta names one.
    Capped(Option<UnixMs>),
    /// The cap has ended.
    Recovered,
}

impl<'a> AccountChange<'a> {
    /// A change that restricts nothing.
    pub fn notice(field: &'static str, kind: AccountEvent, event: Cow<'a, str>) -> Self {
        Self {
            field,
            kind,
            event,
            reason: Cow::default(),
            stops_messages: false,
            until: None,
            utility: None,
            messaging_limit: None,
        }
    }
}

/// Applies a change of the account `waba`, which is one of ours. `business` is its owner, if this process lists a line
/// of it. `at` is the time of the change.
pub async fn apply(
    store: &Store,
    waba: &WabaId,
    business: Option<&BusinessId>,
    change: &AccountChange<'_>,
    at: UnixMs,
    now: UnixMs,
) -> Result<()> {
    let (field, event) = (change.field, &*change.event);
    metrics::account_event(change.kind);
    let (whole, utility) = (|| HoldScope::Waba(waba.clone()), || HoldScope::Utility(waba.clone()));
    match change.utility {
        Some(UtilityChange::Capped(until)) => hold(store, utility(), policy::UTILITY_CAP, change, until, at).await?,
        Some(UtilityChange::Recovered) => lift(store, utility(), &[policy::UTILITY_CAP], at, now).await?,
        None => {}
    }
    if let (Some(business), Some(limit)) = (business, change.messaging_limit) {
        set_messaging_limit(store, business, limit, at).await?;
    }
    match change.kind {
        AccountEvent::Disabled => hold(store, whole(), RESTRICTED, change, None, at).await,
        AccountEvent::Restricted if change.stops_messages => {
            hold(store, whole(), RESTRICTED, change, change.until, at).await
        }
        AccountEvent::Reinstated => lift(store, whole(), &[RESTRICTED, LOCKED], at, now).await,
        AccountEvent::Quality => {
            info!(waba.id = %waba, field, event, "account change");
            // The throughput of a line may have changed. The webhook does not name the line, so the workers ask Meta.
            store.forget_allowances_read(waba).await
        }
        AccountEvent::Capability => {
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

/// Stores the messaging limit of a business that Meta reported at `at`, unless a later one is known.
async fn set_messaging_limit(store: &Store, business: &BusinessId, limit: MessagingLimit, at: UnixMs) -> Result<()> {
    let known = store.messaging_limits().await?.remove(business);
    // Compared in seconds, because Meta's times are in whole seconds.
    if known.is_some_and(|known| known.limit == limit || known.since.seconds() > at.seconds()) {
        return Ok(());
    }
    info!(business.id = %business, %limit, "messaging limit changed by Meta");
    store.set_messaging_limit(business, KnownLimit { limit, since: at }).await
}

async fn hold(
    store: &Store,
    scope: HoldScope,
    code: MetaCode,
    change: &AccountChange<'_>,
    until: Option<UnixMs>,
    at: UnixMs,
) -> Result<()> {
    let separator = if change.reason.is_empty() { "" } else { ": " };
    let reason = format!("Meta says {}{separator}{}", change.event, change.reason);
    // `since` is Meta's time of the change, so that an older reinstatement does not lift the hold.
    let hold = Hold { code: Some(code), reason, since: at, until: until.map(|until| until.after(END_MARGIN)) };
    // A refused send may have set the hold first, without an end.
    if store.hold_or_end(&scope, &hold, at).await? {
        warn!(scope = %scope, reason = hold.reason, "account held by Meta");
    }
    Ok(())
}

/// Lifts the hold on `scope`, if it began at `at` or earlier and has one of these codes.
async fn lift(store: &Store, scope: HoldScope, codes: &[MetaCode], at: UnixMs, now: UnixMs) -> Result<()> {
    match store.holds(now).await?.get(&scope) {
        Some(hold) if !hold.code.is_some_and(|code| codes.contains(&code)) || hold.since > at => Ok(()),
        _ => {
            info!(scope = %scope, "account hold lifted by Meta");
            store.unhold(&scope).await.map(drop)
        }
    }
}
