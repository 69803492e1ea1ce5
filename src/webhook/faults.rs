//! What `failed` statuses say of an account, a line, a token or a template: these are held, and the people whom the message
//! did not reach get their turn again.
//!
//! The policy table decides ([`policy::by_status`]). Where a code blames an account, its scope is held before anything of the
//! webhook is committed. Where a code may blame one message, [`STREAK`] different recipients of a campaign have to fail with
//! it in a row, without a delivery between them: those before stay failed, and from then on recipients get their turn again
//! until the stop is lifted.
//!
//! Meta repeats webhooks for days. A status holds nothing if it is older than [`HOLDS_FOR`], or from before the scope was last
//! let go.
//!
//! If the process dies: holds are in Redis; a streak begins again.
//! Never: writes a hold that is in force.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::warn;

use super::apply::LocatedFact;
use crate::{
    domain::{
        CampaignId, CampaignState, ErrorScope, Hold, HoldScope, LineId, PartId, UnixMs, WabaId,
        campaign::PauseReason,
        policy::{self, ByStatus},
    },
    redis::{Result, Store, campaigns::StateChange, parts::News},
};

/// That many different recipients of a campaign in a row stop it, where their code may blame the message.
pub const STREAK: usize = 20;
/// How old a status is at most that holds something.
pub const HOLDS_FOR: Duration = Duration::from_secs(10 * 60);
/// After a scope was found held, or a campaign paused, Redis is not asked again for this time.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Campaigns with a streak, and stops, that are remembered at most.
const REMEMBERED_MAX: usize = 10_000;

/// The cause of a failed status.
#[derive(Clone, Copy, Debug)]
pub struct FailureCause<'a> {
    /// Meta's code.
    pub code: u32,
    /// Meta's words; may be empty.
    pub details: &'a str,
    /// Meta's time of it.
    pub at: UnixMs,
}

/// Where a failed status comes from.
#[derive(Clone, Copy, Debug)]
pub struct FailureOrigin<'a> {
    /// The line that sent the message.
    pub line: &'a LineId,
    /// The line's WABA.
    pub waba: &'a WabaId,
}

/// What was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stop {
    Hold(HoldScope),
    Pause(CampaignId),
}

#[derive(Default)]
struct Streak {
    code: u32,
    recipients: HashSet<(PartId, u16)>,
    stop: Option<Stop>,
}

/// Judges failed statuses.
pub struct FailureJudge {
    store: Store,
    /// Stops in force, and when that was last seen.
    seen: Mutex<HashMap<Stop, Instant>>,
    streaks: Mutex<HashMap<CampaignId, Streak>>,
}

impl FailureJudge {
    /// Without anything remembered.
    pub fn new(store: Store) -> Self {
        Self { store, seen: Mutex::default(), streaks: Mutex::default() }
    }

    /// Holds the line or the WABA that `cause` blames, whoever sent the message.
    ///
    /// The token and the template are left out: the message may be another app's.
    pub async fn account(&self, origin: FailureOrigin<'_>, cause: FailureCause<'_>, now: UnixMs) -> Result<()> {
        match policy::by_status(cause.code) {
            ByStatus::Hold { scope: scope @ (ErrorScope::Line | ErrorScope::Waba | ErrorScope::Platform), wait } => {
                let Some(scope) = held(scope, origin, None) else { return Ok(()) };
                self.hold(&scope, wait, cause, now).await
            }
            _ => Ok(()),
        }
    }

    /// Judges the news of a recipient of ours: holds what it blames, and says so in the fact that the recipient gets a turn
    /// again. `template`: that of the campaign.
    pub async fn judge(
        &self,
        origin: FailureOrigin<'_>,
        template: Option<&(String, String)>,
        placed: &mut LocatedFact,
        now: UnixMs,
    ) -> Result<()> {
        let campaign = placed.part.campaign;
        let code = match placed.fact.news {
            News::Failed(code) => code,
            News::Delivered | News::Read => {
                let mut streaks = lock(&self.streaks);
                if !streaks.is_empty() {
                    streaks.remove(&campaign);
                }
                return Ok(());
            }
            News::Sent | News::Replied | News::Returned(_) => return Ok(()),
        };
        let details = placed.details.clone();
        let cause = FailureCause { code, details: &details, at: placed.fact.at };
        match policy::by_status(code) {
            ByStatus::Failed => {}
            ByStatus::Hold { scope, wait } => {
                placed.fact.news = News::Returned(code);
                if let Some(scope) = held(scope, origin, template) {
                    self.hold(&scope, wait, cause, now).await?;
                }
            }
            ByStatus::Suspect { scope, wait } => {
                let stop = held(scope, origin, template).map_or(Stop::Pause(campaign), Stop::Hold);
                if self.in_a_streak(stop, wait, (placed.part, placed.fact.row), cause, now).await? {
                    placed.fact.news = News::Returned(code);
                }
            }
        }
        Ok(())
    }

    /// Counts a failure that may blame the message. Gives whether `stop` is in force.
    async fn in_a_streak(
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
            streaks.get(&campaign).filter(|streak| streak.code == cause.code).and_then(|streak| streak.stop.clone())
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
            let streak = streaks.entry(campaign).or_default();
            if streak.code != cause.code {
                *streak = Streak { code: cause.code, ..Streak::default() };
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
        let reason = PauseReason { code: cause.code, details: words(cause) };
        let from = [CampaignState::Running];
        let change = self.store.change_campaign(campaign, &from, CampaignState::Paused, now, Some(&reason)).await?;
        if change == StateChange::Done {
            warn!(campaign.id = %campaign, code = reason.code, reason = reason.details, "campaign paused: its messages fail in a row");
        }
        Ok(())
    }

    async fn is_in_force(&self, stop: &Stop, now: UnixMs) -> Result<bool> {
        if self.is_trusted(stop) {
            return Ok(true);
        }
        let in_force = match stop {
            Stop::Hold(scope) => self.store.holds(now).await?.contains_key(scope),
            Stop::Pause(campaign) => {
                self.store.campaign_states(&[*campaign]).await?.first() == Some(&Some(CampaignState::Paused))
            }
        };
        if in_force {
            self.trust(stop.clone());
        }
        Ok(in_force)
    }

    /// Holds `scope`, unless it is held, or was let go after `cause`.
    async fn hold(
        &self,
        scope: &HoldScope,
        wait: Option<Duration>,
        cause: FailureCause<'_>,
        now: UnixMs,
    ) -> Result<()> {
        let stop = Stop::Hold(scope.clone());
        if now.since(cause.at) > HOLDS_FOR || self.is_trusted(&stop) {
            return Ok(());
        }
        // Others that come meanwhile need not ask too.
        self.trust(stop.clone());
        let hold = Hold { code: cause.code, reason: words(cause), since: now, until: wait.map(|wait| now.after(wait)) };
        match self.store.hold_if_new(scope, &hold, cause.at).await {
            Ok(true) => {
                warn!(scope = %scope, code = hold.code, reason = hold.reason, "held back: a failed status says so");
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => {
                lock(&self.seen).remove(&stop);
                Err(error)
            }
        }
    }

    fn is_trusted(&self, stop: &Stop) -> bool {
        lock(&self.seen).get(stop).is_some_and(|at| at.elapsed() < TRUSTED_FOR)
    }

    fn trust(&self, stop: Stop) {
        let mut seen = lock(&self.seen);
        if seen.len() >= REMEMBERED_MAX {
            seen.clear();
        }
        seen.insert(stop, Instant::now());
    }
}

/// The news of a failure with `code` of which only the recipient is still to be found.
pub fn news(code: u32) -> News {
    match policy::by_status(code) {
        ByStatus::Hold { .. } => News::Returned(code),
        ByStatus::Suspect { .. } | ByStatus::Failed => News::Failed(code),
    }
}

/// What is held for a fault of `scope`; `None` where that is no hold, or the template is not known.
fn held(scope: ErrorScope, origin: FailureOrigin<'_>, template: Option<&(String, String)>) -> Option<HoldScope> {
    match scope {
        ErrorScope::Line | ErrorScope::Platform => Some(HoldScope::Line(origin.line.clone())),
        ErrorScope::Waba => Some(HoldScope::Waba(origin.waba.clone())),
        ErrorScope::Token | ErrorScope::App => Some(HoldScope::Token(origin.waba.clone())),
        ErrorScope::Template => template.map(|(name, language)| HoldScope::Template {
            waba: origin.waba.clone(),
            name: name.clone(),
            language: language.clone(),
        }),
        ErrorScope::Campaign | ErrorScope::Message | ErrorScope::Recipient | ErrorScope::Pair | ErrorScope::None => {
            None
        }
    }
}

fn words(cause: FailureCause<'_>) -> String {
    if cause.details.is_empty() { policy::title(cause.code).to_owned() } else { cause.details.to_owned() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
