//! Notices: webhooks about businesses, WABAs, lines, templates and preferences, and when each was answered 200.

use std::{sync::Mutex, time::Duration};

use serde_json::Value;

use super::lock;

/// A webhook that is not about messages.
#[derive(Clone)]
pub(super) struct Notice {
    /// Meta's name of the field.
    pub(super) field: &'static str,
    pub(super) value: Value,
    /// When it happened, since the start of the simulator.
    pub(super) at: Duration,
    told_at: Option<Duration>,
}

/// The index of a notice in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoticeId(u32);

/// The notices of the current run.
pub(super) struct Notices(Mutex<Book>);

struct Book {
    /// See [`super::line::LineState::run`].
    run: u64,
    notices: Vec<Notice>,
}

impl Notice {
    pub(super) fn new(field: &'static str, value: Value, at: Duration) -> Self {
        Self { field, value, at, told_at: None }
    }
}

impl Notices {
    pub(super) fn new(run: u64) -> Self {
        Self(Mutex::new(Book { run, notices: Vec::new() }))
    }

    /// Adds a notice of `run`. Returns `None` if `run` is not the current run.
    pub(super) fn add(&self, run: u64, notice: Notice) -> Option<NoticeId> {
        let mut book = lock(&self.0);
        if book.run != run {
            return None;
        }
        book.notices.push(notice);
        u32::try_from(book.notices.len() - 1).ok().map(NoticeId)
    }

    /// Returns `None` if a reset has removed the notice.
    pub(super) fn get(&self, run: u64, id: NoticeId) -> Option<Notice> {
        let book = lock(&self.0);
        book.notices.get(usize::try_from(id.0).ok()?).filter(|_| book.run == run).cloned()
    }

    /// Records that a webhook POST with the notice was answered 200.
    pub(super) fn tell(&self, run: u64, id: NoticeId, now: Duration) {
        let mut book = lock(&self.0);
        if book.run == run
            && let Some(notice) = usize::try_from(id.0).ok().and_then(|id| book.notices.get_mut(id))
        {
            notice.told_at.get_or_insert(now);
        }
    }

    /// When a webhook POST with the notice was first answered 200; `None` if it was not yet.
    pub(super) fn told_at(&self, id: NoticeId) -> Option<Duration> {
        lock(&self.0).notices.get(usize::try_from(id.0).ok()?)?.told_at
    }

    pub(super) fn reset(&self, run: u64) {
        *lock(&self.0) = Book { run, notices: Vec::new() };
    }
}
