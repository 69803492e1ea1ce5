//! Which lines and WABAs are ours: those that this process lists in its configuration, and those in the registry of
//! known lines, which is in Redis.
//!
//! Processes may list different lines. A line that this process does not list is looked up in the registry. The
//! registry is cached and read again when a line is missing, at a bounded rate, because the webhook may also receive
//! news of many lines of other apps.
//!
//! If the process dies: nothing is lost; the cache is read again.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use crate::{
    domain::{LineId, Lines, Live, WabaId},
    redis::{Result, Store},
};

/// Shortest interval between two reads of the registry.
const READ_EVERY: Duration = Duration::from_millis(250);

/// The owner of the line that a webhook names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineOwner {
    /// The line is ours and belongs to the WABA that the webhook names.
    Ours(LineId),
    /// No process has listed the line recently. Only news with a token of ours is about a message of ours.
    Unknown(LineId),
    /// The webhook names a WABA that does not own the line.
    Foreign,
}

/// The lines of the installation.
pub struct KnownLines {
    store: Store,
    own: Live<Lines>,
    known: RwLock<HashMap<LineId, WabaId>>,
    /// When the registry was last read. Locked during a read.
    read_at: tokio::sync::Mutex<Option<Instant>>,
}

impl KnownLines {
    /// `own`: the lines that this process lists.
    pub fn new(store: Store, own: Live<Lines>) -> Self {
        Self { store, own, known: RwLock::default(), read_at: tokio::sync::Mutex::default() }
    }

    /// The owner of `line`, given that the webhook names `waba`.
    ///
    /// Errors: the line is not listed here, and the registry could not be read.
    pub async fn owner(&self, line: &str, waba: &str) -> Result<LineOwner> {
        let line = LineId::from(line);
        if let Some(own) = self.own.get().by_id(&line) {
            return Ok(if own.waba.as_str() == waba { LineOwner::Ours(line) } else { LineOwner::Foreign });
        }
        let known = |lines: &HashMap<LineId, WabaId>| lines.get(&line).cloned();
        match self.find_known(known, |known| known.as_str() == waba).await? {
            Some(known) if known.as_str() == waba => Ok(LineOwner::Ours(line)),
            Some(_) => Ok(LineOwner::Foreign),
            None => Ok(LineOwner::Unknown(line)),
        }
    }

    /// The lines that this process lists.
    pub fn listed(&self) -> Lines {
        self.own.get()
    }

    /// `waba`, if it owns a line of ours.
    ///
    /// Errors: as [`KnownLines::owner`].
    pub async fn waba(&self, waba: &str) -> Result<Option<WabaId>> {
        let waba = WabaId::from(waba);
        if self.own.get().of_waba(&waba).next().is_some() {
            return Ok(Some(waba));
        }
        let known = |lines: &HashMap<LineId, WabaId>| lines.values().find(|known| **known == waba).cloned();
        self.find_known(known, |_| true).await
    }

    /// Runs `find` on the registry, and again after reading it if the result does not satisfy `is_expected`.
    async fn find_known(
        &self,
        find: impl Fn(&HashMap<LineId, WabaId>) -> Option<WabaId>,
        is_expected: impl Fn(&WabaId) -> bool,
    ) -> Result<Option<WabaId>> {
        let cached = || find(&self.known.read().unwrap_or_else(PoisonError::into_inner));
        if let Some(found) = cached().filter(&is_expected) {
            return Ok(Some(found));
        }
        let mut read_at = self.read_at.lock().await;
        if read_at.is_none_or(|at| at.elapsed() >= READ_EVERY) {
            let lines = self.store.known_lines().await?;
            *self.known.write().unwrap_or_else(PoisonError::into_inner) = lines;
            *read_at = Some(Instant::now());
        }
        drop(read_at);
        Ok(cached())
    }
}
