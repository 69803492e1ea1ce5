//! Judges `failed` statuses: holds the account, line, token or template that a status blames, and returns its
//! recipient to the campaign.
//!
//! The policy table decides ([`policy::by_status`]). If a code blames an account, its scope is held before anything
//! of the webhook is committed. If a code may blame one message, the campaign or the scope is stopped only after a
//! streak: [`STREAK`] different recipients of the campaign fail with the code, without a delivery between them.
//! Recipients before the end of the streak stay failed. From then on recipients are returned until the stop is
//! lifted.
//!
//! Meta repeats webhooks for days. A status causes no hold if it is older than [`HOLDS_FOR`], or older than the last
//! lift of a hold on the scope.
//!
//! If the process dies: holds are in Redis; the count of a streak starts again.
//! Never: shortens a hold that is in force.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::warn;

use super::apply::LocatedFact;
use crate::{
    domain::{
        CampaignId, CampaignState, ErrorOrigin, ErrorScope, FailureReason, Hold, HoldScope, Language, News, OnWithheld,
        PartId, UnixMs,
        campaign::PauseReason,
        policy::{self, ByStatus},
    },
    redis::{Result, Store, campaigns::StateChange},
};

/// Length of a streak: how many different recipients of a campaign have to fail in a row, with a code that may blame
/// one message, until the campaign or the scope is stopped.
pub const STREAK: usize = 20;
/// Age above which a status causes no hold.
pub const HOLDS_FOR: Duration = Duration::from_secs(10 * 60);
/// How long a stop counts as in force before Redis is asked again.
const RECHECK_AFTER: Duration = Duration::from_secs(1);
/// Capacity of the map of streaks, and of the map of stops.
const REMEMBERED_MAX: usize = 10_000;

/// The cause of a failed status.
#[derive(Clone, Copy, Debug)]
pub struct FailureCause<'a> {
    /// The reason that Meta gave.
    pub reason: FailureReason,
    /// Meta's error text; may be empty.
    pub details: &'a str,
    /// Meta's time of the failure.
    pub at: UnixMs,
}

/// What is known about the message of a failed status.
#[derive(Clone, Copy, Debug)]
pub struct FailedMessage<'a> {
    /// Where the error comes from.
    pub origin: ErrorOrigin<'a>,
    /// Name and language of the campaign's template.
    pub template: Option<&'a (String, Language)>,
    /// Meta had accepted the message and kept it back.
    pub was_held: bool,
    /// The campaign's setting for messages that Meta withheld.
    pub on_withheld: OnWithheld,
}

/// The scope of the hold that an error of `scope` sets. `template`: name and language of the message's template, if
/// known.
fn hold_scope(scope: ErrorScope, origin: ErrorOrigin<'_>, template: Option<&(String, Language)>) -> Option<HoldScope> {
    let template = template.map(|(name, language)| HoldScope::of_template(origin.waba, name, language));
    HoldScope::of_error(scope, ErrorOrigin { template: template.as_ref(), ..origin })
}

/// What a streak or a code has stopped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stop {
    Hold(HoldScope),
    Pause(CampaignId),
}

struct Streak {
    reason: FailureReason,
    recipients: HashSet<(PartId, u16)>,
    stop: Option<Stop>,
}

/// Judges failed statuses.
pub struct FailureJudge {
    store: Store,
    /// Stops in force, each with the time at which this was last confirmed.
    confirmed: Mutex<HashMap<Stop, Instant>>,
    streaks: Mutex<HashMap<CampaignId, Streak>>,
}

impl FailureJudge {
    /// A judge without streaks.
    pub fn new(store: Store) -> Self {
        Self { store, confirmed: Mutex::default(), streaks: Mutex::default() }
    }

    /// Holds the line or the WABA that `cause` blames, even if another app sent the message.
    ///
    /// Never holds the token or the template, because the message may be another app's.
    pub async fn judge_account(&self, origin: ErrorOrigin<'_>, cause: FailureCause<'_>, now: UnixMs) -> Result<()> {
        let ByStatus::Hold { scope, wait } = policy::by_status(cause.reason) else { return Ok(()) };
        match hold_scope(scope, origin, None) {
            Some(scope @ (HoldScope::Line(_) | HoldScope::Waba(_))) => self.hold(&scope, wait, cause, now).await,
            _ => Ok(()),
        }
    }

    /// Judges a fact about a recipient of ours: holds what it blames, and changes the fact to [`News::Returned`] if the
    /// recipient has to get the message again.
    pub async fn judge(&self, failed: FailedMessage<'_>, located: &mut LocatedFact, now: UnixMs) -> Result<()> {
        let FailedMessage { origin, template, was_held, on_withheld } = failed;
        let campaign = located.part.campaign;
        let reason = match located.fact.news {
            News::Failed(reason) => reason,
            News::Delivered | News::Read => {
                let mut streaks = lock(&self.streaks);
                if !streaks.is_empty() {
                    streaks.remove(&campaign);
                }
                return Ok(());
            }
            News::Sent | News::Replied | News::Returned(_) | News::Withheld(_) => return Ok(()),
        };
        let details = located.details.clone();
        let cause = FailureCause { reason, details: &details, at: located.fact.at };
        match consequence(reason, was_held) {
            ByStatus::Failed => {
                let also_held = reason.code().and_then(policy::also_holds);
                if let Some((scope, wait)) = also_held
                    && let Some(scope) = hold_scope(scope, origin, template)
                {
                    self.hold(&scope, wait, cause, now).await?;
                }
            }
            ByStatus::Withheld => located.fact.news = news_of_withheld(reason, on_withheld),
            ByStatus::Hold { scope, wait } => {
                located.fact.news = News::Returned(reason);
                if let Some(scope) = hold_scope(scope, origin, template) {
                    let is_drop = was_held && policy::may_be_a_drop(reason);
                    self.hold_for(&scope, wait, cause, is_drop, now).await?;
                }
            }
            ByStatus::Suspect { scope, wait } => {
                let stop = hold_scope(scope, origin, template).map_or(Stop::Pause(campaign), Stop::Hold);
                if self.is_stopped_by_streak(stop, wait, (located.part, located.fact.row), cause, now).await? {
                    located.fact.news = News::Returned(reason);
                }
            }
        }
        Ok(())
    }

    /// Counts a failure that may blame the message. Returns whether the streak of the campaign has a stop in force.
    async fn is_stopped_by_streak(
        &self,
        stop: Stop,
        wait: Option<Duration>,
        recipient: (PartId, u16),
        cause: FailureCause<'_>,
        now: UnixMs,
    ) -> Result<bool> {
        let campaign = recipient.0.campaign;
        if now.since(cause.at) > HOLDS_FOR {
            return Ok(false);
        }
        let stopped = {
            let streaks = lock(&self.streaks);
            streaks.get(&campaign).filter(|streak| streak.reason == cause.reason).and_then(|streak| streak.stop.clone())
        };
        if let Some(stopped) = stopped {
            if self.is_in_force(&stopped, now).await? {
                return Ok(true);
            }
            lock(&self.streaks).remove(&campaign);
        }
        {
            let mut streaks = lock(&self.streaks);
            if streaks.len() >= REMEMBERED_MAX {
                streaks.clear();
            }
            let new = || Streak { reason: cause.reason, recipients: HashSet::new(), stop: None };
            let streak = streaks.entry(campaign).or_insert_with(new);
            if streak.reason != cause.reason {
                *streak = new();
            }
            streak.recipients.insert(recipient);
            if streak.recipients.len() < STREAK {
                return Ok(false);
            }
        }
        match &stop {
            Stop::Hold(scope) => self.hold(scope, wait, cause, now).await?,
            Stop::Pause(campaign) => self.pause(*campaign, cause, now).await?,
        }
        if let Some(streak) = lock(&self.streaks).get_mut(&campaign) {
            streak.stop = Some(stop);
        }
        Ok(true)
    }

    async fn pause(&self, campaign: CampaignId, cause: FailureCause<'_>, now: UnixMs) -> Result<()> {
        let reason = PauseReason { code: cause.reason.code(), details: error_text(cause) };
        let from = [CampaignState::Running];
        let change = self.store.change_campaign(campaign, &from, CampaignState::Paused, now, Some(&reason)).await?;
        if change == StateChange::Done {
            warn!(campaign.id = %campaign, code = reason.code.map(|code| code.0), reason = reason.details, "campaign paused: its messages \
                fail in a row");
        }
        Ok(())
    }

    async fn is_in_force(&self, stop: &Stop, now: UnixMs) -> Result<bool> {
        if self.is_confirmed(stop) {
            return Ok(true);
        }
        let in_force = match stop {
            Stop::Hold(scope) => self.store.holds(now).await?.contains_key(scope),
            Stop::Pause(campaign) => {
                self.store.campaign_states(&[*campaign]).await?.first() == Some(&Some(CampaignState::Paused))
            }
        };
        if in_force {
            self.confirm(stop.clone());
        }
        Ok(in_force)
    }

    /// Holds `scope`, unless it is held already, or a hold on it was lifted after `cause`.
    async fn hold(
        &self,
        scope: &HoldScope,
        wait: Option<Duration>,
        cause: FailureCause<'_>,
        now: UnixMs,
    ) -> Result<()> {
        self.hold_for(scope, wait, cause, false, now).await
    }

    /// Like [`FailureJudge::hold`]. If Meta dropped the message by template pacing (`is_drop`), the hold also replaces
    /// one that ends earlier: a message that Meta refused because of the same pause may have set a hold of three hours.
    async fn hold_for(
        &self,
        scope: &HoldScope,
        wait: Option<Duration>,
        cause: FailureCause<'_>,
        is_drop: bool,
        now: UnixMs,
    ) -> Result<()> {
        let stop = Stop::Hold(scope.clone());
        if now.since(cause.at) > HOLDS_FOR || self.is_confirmed(&stop) {
            return Ok(());
        }
        // Recorded before the write, so that concurrent statuses do not ask Redis too.
        self.confirm(stop.clone());
        let until = wait.map(|wait| now.after(wait));
        let hold = Hold { code: cause.reason.code(), reason: error_text(cause), since: now, until };
        let held = match is_drop {
            true => self.store.hold_longer(scope, &hold, cause.at).await,
            false => self.store.hold_if_new(scope, &hold, cause.at).await,
        };
        match held {
            Ok(true) => {
                warn!(scope = %scope, code = hold.code.map(|code| code.0), reason = hold.reason, "held because of a failed status");
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => {
                lock(&self.confirmed).remove(&stop);
                Err(error)
            }
        }
    }

    fn is_confirmed(&self, stop: &Stop) -> bool {
        lock(&self.confirmed).get(stop).is_some_and(|at| at.elapsed() < RECHECK_AFTER)
    }

    fn confirm(&self, stop: Stop) {
        let mut confirmed = lock(&self.confirmed);
        if confirmed.len() >= REMEMBERED_MAX {
            confirmed.clear();
        }
        confirmed.insert(stop, Instant::now());
    }
}

fn consequence(reason: FailureReason, was_held: bool) -> ByStatus {
    if was_held { policy::by_status_of_held(reason) } else { policy::by_status(reason) }
}

/// The news of a parked failure for this `reason`. It causes no further hold: [`FailureJudge::judge_account`] ran when
/// the webhook came. `was_held`: Meta had accepted the message and kept it back.
pub fn news(reason: FailureReason, was_held: bool, on_withheld: OnWithheld) -> News {
    match consequence(reason, was_held) {
        ByStatus::Withheld => news_of_withheld(reason, on_withheld),
        ByStatus::Hold { .. } => News::Returned(reason),
        ByStatus::Suspect { .. } | ByStatus::Failed => News::Failed(reason),
    }
}

fn news_of_withheld(reason: FailureReason, on_withheld: OnWithheld) -> News {
    match on_withheld {
        OnWithheld::Fail => News::Failed(reason),
        OnWithheld::Retry => News::Withheld(reason),
    }
}

fn error_text(cause: FailureCause<'_>) -> String {
    if cause.details.is_empty() { cause.reason.title().to_owned() } else { cause.details.to_owned() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
