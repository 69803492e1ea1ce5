//! Holds in Redis.
//!
//! A scope is a field of one of two hashes. Release 0.1.0 cannot read any hold if its hash contains an unknown scope,
//! so scopes that were added later are in a second hash. Later releases skip unknown scopes.
//!
//! If a process dies: each change is one command.

use std::collections::HashMap;

use deadpool_redis::redis::{Pipeline, cmd};
use tracing::warn;

use super::{Result, Store, StoreError, stored::StoredHold};
use crate::domain::{Hold, HoldScope, UnixMs};

impl Store {
    /// The holds in force at `now`, by scope.
    pub async fn holds(&self, now: UnixMs) -> Result<HashMap<HoldScope, Hold>> {
        let keys = [self.keys.holds(), self.keys.later_holds()];
        let mut pipeline = Pipeline::new();
        for key in &keys {
            pipeline.hgetall(key);
        }
        let stored: Vec<HashMap<String, String>> = self.query_all("HGETALL holds", &pipeline).await?;
        let mut holds = HashMap::new();
        for (key, fields) in keys.iter().zip(stored) {
            for (scope, hold) in fields {
                let corrupt = |reason| StoreError::Corrupt { key: key.clone(), reason };
                let hold: StoredHold = serde_json::from_str(&hold).map_err(|error| corrupt(error.to_string()))?;
                let hold = Hold::from(hold);
                match scope.parse() {
                    Ok(scope) if hold.is_active(now) => drop(holds.insert(scope, hold)),
                    Ok(_) => {}
                    Err(_) => warn!(scope, "a hold is ignored: this release does not know its scope"),
                }
            }
        }
        Ok(holds)
    }

    /// Replaces the reason of the hold on a scope. The rest of the hold stays, with fields that a newer release wrote.
    pub async fn reword_hold(&self, scope: &HoldScope, reason: &str) -> Result<()> {
        let (key, field) = (self.holds_key(scope), scope.to_string());
        let stored: Option<String> = self.query("HGET hold", cmd("HGET").arg(&key).arg(&field)).await?;
        let hold = stored.and_then(|json| serde_json::from_str(&json).ok());
        let Some(mut hold) = hold.filter(serde_json::Value::is_object) else { return Ok(()) };
        hold["reason"] = reason.into();
        self.query::<i64>("HSET hold", cmd("HSET").arg(&key).arg(&field).arg(hold.to_string())).await?;
        self.wake().await
    }

    /// Sets or replaces the hold on a scope, and wakes every worker. Returns whether the scope was not held before: of
    /// callers that set the same hold at the same time, only one gets true.
    pub async fn hold(&self, scope: &HoldScope, hold: &Hold) -> Result<bool> {
        let json = serde_json::to_string(&StoredHold::from(hold)).expect("a hold has only strings and numbers");
        let (key, field) = (self.holds_key(scope), scope.to_string());
        let mut swap = Pipeline::new();
        swap.atomic().hget(&key, &field).hset(&key, &field, json);
        let swapped: Vec<(Option<String>, i64)> = self.query_all("MULTI hold", &swap).await?;
        // The change comes first, so that a woken worker finds it.
        self.wake().await?;
        let before = swapped.into_iter().next().and_then(|(before, _)| read_hold(&before?));
        Ok(!before.is_some_and(|before| before.is_active(hold.since)))
    }

    /// Holds a scope for a fault that Meta reported at `at`, unless the scope is held, or a hold on it was lifted or
    /// ended since. Returns whether this call set the hold.
    pub async fn hold_if_new(&self, scope: &HoldScope, hold: &Hold, at: UnixMs) -> Result<bool> {
        Ok(self.hold_unless(scope, hold, at, |_| true).await? == Some(true))
    }

    /// Like [`Store::hold_if_new`], but replaces a hold in force that ends earlier.
    pub async fn hold_longer(&self, scope: &HoldScope, hold: &Hold, at: UnixMs) -> Result<bool> {
        Ok(self.hold_unless(scope, hold, at, |before| outlasts(before, hold)).await?.is_some())
    }

    /// Like [`Store::hold_if_new`], but a `hold` with an end replaces a hold in force that has the same code and no
    /// end.
    pub async fn hold_or_end(&self, scope: &HoldScope, hold: &Hold, at: UnixMs) -> Result<bool> {
        let gets_an_end = |before: &Hold| before.code == hold.code && before.until.is_none() && hold.until.is_some();
        Ok(self.hold_unless(scope, hold, at, |before| !gets_an_end(before)).await?.is_some())
    }

    /// Holds a scope, unless there is a hold in force for which `stays` returns true, or a hold was lifted or ended at
    /// `at` or later. Returns what [`Store::hold`] does, `None` if nothing was changed.
    async fn hold_unless(
        &self,
        scope: &HoldScope,
        hold: &Hold,
        at: UnixMs,
        stays: impl Fn(&Hold) -> bool,
    ) -> Result<Option<bool>> {
        let (before, lifted) = self.hold_and_lift(scope).await?;
        let (in_force, ended) = match before {
            Some(before) if before.is_active(hold.since) => (Some(before), None),
            before => (None, before.and_then(|before| before.until)),
        };
        if in_force.as_ref().is_some_and(stays) || lifted.max(ended).is_some_and(|end| at <= end) {
            return Ok(None);
        }
        self.hold(scope, hold).await.map(Some)
    }

    /// Sets or replaces the hold on a scope because of what Meta reported at `at`, unless a hold was lifted since.
    /// Returns whether this call set the hold.
    pub async fn hold_unless_lifted(&self, scope: &HoldScope, hold: &Hold, at: UnixMs) -> Result<bool> {
        let (_, lifted) = self.hold_and_lift(scope).await?;
        if lifted.is_some_and(|lifted| at <= lifted) {
            return Ok(false);
        }
        self.hold(scope, hold).await?;
        Ok(true)
    }

    /// Lifts the hold on a scope because of what Meta reported at `at`, as [`Store::unhold`] does, unless the hold
    /// began later. Returns whether there was one that this call lifted.
    pub async fn unhold_before(&self, scope: &HoldScope, at: UnixMs) -> Result<bool> {
        match self.hold_and_lift(scope).await?.0 {
            Some(hold) if hold.since > at => Ok(false),
            _ => self.unhold(scope).await,
        }
    }

    /// Sets the hold on a scope, unless a hold in force lasts at least as long. Returns whether the scope was not held
    /// before.
    pub async fn hold_at_least(&self, scope: &HoldScope, hold: &Hold) -> Result<bool> {
        let (before, _) = self.hold_and_lift(scope).await?;
        let stays = before.is_some_and(|before| before.is_active(hold.since) && outlasts(&before, hold));
        if stays { Ok(false) } else { self.hold(scope, hold).await }
    }

    /// The hold on a scope, in force or ended, and when a hold on it was last lifted.
    async fn hold_and_lift(&self, scope: &HoldScope) -> Result<(Option<Hold>, Option<UnixMs>)> {
        let mut pipeline = Pipeline::new();
        pipeline.hget(self.holds_key(scope), scope.to_string()).hget(self.keys.lifted(), scope.to_string());
        let answers: Vec<Option<String>> = self.query_all("HGET hold", &pipeline).await?;
        let field = |n: usize| answers.get(n).cloned().flatten();
        Ok((field(0).and_then(|json| read_hold(&json)), field(1).and_then(|at| at.parse().ok().map(UnixMs))))
    }

    /// Lifts the hold on a scope and records the time, so that faults which Meta reported earlier do not hold it
    /// again. Wakes every worker. Returns whether there was one.
    pub async fn unhold(&self, scope: &HoldScope) -> Result<bool> {
        let now = self.time().await?;
        // First, and on its own, because a full Redis refuses this and not HDEL.
        let field = scope.to_string();
        self.query::<i64>("HSET lifted", cmd("HSET").arg(self.keys.lifted()).arg(&field).arg(now.0)).await?;
        let n_lifted: i64 = self.query("HDEL hold", cmd("HDEL").arg(self.holds_key(scope)).arg(&field)).await?;
        self.wake().await?;
        Ok(n_lifted == 1)
    }

    fn holds_key(&self, scope: &HoldScope) -> String {
        match scope {
            HoldScope::Line(_) | HoldScope::Waba(_) | HoldScope::Token(_) | HoldScope::Template { .. } => {
                self.keys.holds()
            }
            HoldScope::Utility(_) | HoldScope::Country { .. } | HoldScope::Business(_) | HoldScope::Platform => {
                self.keys.later_holds()
            }
        }
    }
}

fn read_hold(json: &str) -> Option<Hold> {
    serde_json::from_str::<StoredHold>(json).ok().map(Hold::from)
}

/// Whether `before` lasts at least as long as `hold`.
fn outlasts(before: &Hold, hold: &Hold) -> bool {
    before.until.is_none_or(|until| hold.until.is_some_and(|end| end <= until))
}
