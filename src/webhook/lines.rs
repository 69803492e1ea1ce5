//! Which lines and WABAs are ours: those that this process lists, and those that the installation knows.
//!
//! Processes may list different lines. What is not listed here is looked up among the known lines in Redis, which are kept in
//! memory and read again when a line is missing, at a bounded rate: other apps' lines on the same webhook are many.
//!
//! If the process dies: nothing is lost, all of it is read again.

use std::{
    collections::{HashMap, HashSet},
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use crate::{
    domain::{LineId, WabaId},
    redis::{Result, Store},
};

/// The known lines are read again at most this often.
const READ_EVERY: Duration = Duration::from_millis(250);

/// Whose line a webhook is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Ours, of the WABA that the webhook names.
    Ours(LineId),
    /// No process has listed it lately: only what brings a token of ours is about a message of ours.
    Unknown(LineId),
    /// The webhook names another WABA than the line's.
    Foreign,
}

/// The lines of the installation.
pub struct KnownLines {
    store: Store,
    own: HashMap<LineId, WabaId>,
    own_wabas: HashSet<WabaId>,
    known: RwLock<HashMap<LineId, WabaId>>,
    /// When the known lines were read last; locked while they are read.
    read_at: tokio::sync::Mutex<Option<Instant>>,
}

impl KnownLines {
    /// `own`: the lines that this process lists.
    pub fn new(store: Store, own: &[(LineId, WabaId)]) -> Self {
        Self {
            store,
            own: own.iter().cloned().collect(),
            own_wabas: own.iter().map(|(_, waba)| waba.clone()).collect(),
            known: RwLock::default(),
            read_at: tokio::sync::Mutex::default(),
        }
    }

    /// Whose `line` of `waba` is.
    ///
    /// Errors: it is not listed here, and Redis does not tell who else lists it.
    pub async fn owner(&self, line: &str, waba: &str) -> Result<Owner> {
        let line = LineId::from(line);
        if let Some(own) = self.own.get(&line) {
            return Ok(if own.as_str() == waba { Owner::Ours(line) } else { Owner::Foreign });
        }
        let known = |lines: &HashMap<LineId, WabaId>| lines.get(&line).cloned();
        match self.look(known, |known| known.as_str() == waba).await? {
            Some(known) if known.as_str() == waba => Ok(Owner::Ours(line)),
            Some(_) => Ok(Owner::Foreign),
            None => Ok(Owner::Unknown(line)),
        }
    }

    /// `waba`, if a line of ours belongs to it.
    ///
    /// Errors: as [`KnownLines::owner`].
    pub async fn waba(&self, waba: &str) -> Result<Option<WabaId>> {
        let waba = WabaId::from(waba);
        if self.own_wabas.contains(&waba) {
            return Ok(Some(waba));
        }
        let known = |lines: &HashMap<LineId, WabaId>| lines.values().find(|known| **known == waba).cloned();
        self.look(known, |_| true).await
    }

    /// What `find` finds among the known lines, read again first where it finds nothing `good`.
    async fn look(
        &self,
        find: impl Fn(&HashMap<LineId, WabaId>) -> Option<WabaId>,
        good: impl Fn(&WabaId) -> bool,
    ) -> Result<Option<WabaId>> {
        let cached = || find(&self.known.read().unwrap_or_else(PoisonError::into_inner));
        if let Some(found) = cached().filter(&good) {
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
