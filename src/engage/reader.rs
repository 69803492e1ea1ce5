//! The reader of one line.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Outage, message};
use crate::{
    domain::{BusinessId, LineId, Lines, Live, UnixMs},
    postgres::{Database, DatabaseError},
    redis::{Store, clock::Clock, duty::backoff, inbound::InboundReader},
    telemetry::metrics::{self, ChatResult, DutyGauge},
};

/// Maximum number of messages in a transaction.
const BATCH_MAX: usize = 100;

/// How long a reader waits after a batch that was not full, and at most after several without a message: a line where
/// nobody writes costs Redis four calls a second.
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_millis(250);

pub(super) struct Reader<'a> {
    pub(super) line: &'a LineId,
    pub(super) store: &'a Store,
    pub(super) database: &'a Database,
    pub(super) lines: &'a Live<Lines>,
    /// The age of the oldest message on the stream.
    pub(super) age: DutyGauge,
}

impl Reader<'_> {
    /// Runs until `stop`.
    pub(super) async fn run(&self, clock: &Clock, stop: &CancellationToken) {
        let (mut outage, mut wait, mut forgettings) = (Outage::default(), WAIT_MIN, None);
        while !stop.is_cancelled() {
            let Some(business) = self.lines.get().business(self.line).cloned() else { return };
            wait = match self.step(&business, clock, &mut outage, &mut forgettings).await {
                Step::Full => continue,
                Step::Some => WAIT_MIN,
                Step::Empty => (wait * 2).min(WAIT_MAX),
                Step::Failed(wait) => wait,
            };
            stop.run_until_cancelled(sleep(wait)).await;
        }
    }

    /// `forgettings`: that of the database, once it is known.
    async fn step(
        &self,
        business: &BusinessId,
        clock: &Clock,
        outage: &mut Outage,
        forgettings: &mut Option<i64>,
    ) -> Step {
        let mut failed = |error: DatabaseError| {
            let what = "messages cannot be stored in PostgreSQL: messages from people wait in Redis";
            Step::Failed(outage.began(self.line, what, &error, error.is_transient()))
        };
        if forgettings.is_none() {
            match self.database.forgettings(self.line).await {
                Ok(read) => *forgettings = Some(read),
                Err(error) => return failed(error),
            }
        }
        let entries = match self.store.unread_inbound(InboundReader::Engage, self.line, BATCH_MAX).await {
            Ok(entries) => entries,
            Err(error) => {
                error.report("messages from people cannot be read");
                return Step::Failed(backoff(1));
            }
        };
        let oldest = entries.first().map_or(Duration::ZERO, |entry| clock.now().since(UnixMs(entry.id.ms)));
        self.age.set(oldest.as_secs_f64());
        let Some(last) = entries.last().map(|entry| entry.id) else { return Step::Empty };
        let n = entries.len();
        let messages: Vec<_> =
            entries.into_iter().map(|entry| message::received(self.line, entry, clock.now())).collect();
        let stored = self.database.store_inbound(self.line, business, &messages, *forgettings, clock.now());
        let stored = match stored.await {
            Ok(Some(stored)) => stored,
            Ok(None) => {
                *forgettings = None;
                return Step::Full;
            }
            Err(error) => return failed(error),
        };
        metrics::chat_messages(ChatResult::Stored, stored.messages);
        metrics::chat_messages(ChatResult::Repeated, n - stored.messages);
        outage.ended(self.line, "messages from people are stored again");
        if stored.queued > 0
            && let Err(error) = self.database.assign(business, clock.now()).await
        {
            debug!(%error, line.id = %self.line, "chats are not assigned at once");
        }
        if let Err(error) = self.store.set_inbound_read(InboundReader::Engage, self.line, last).await {
            error.report("the position of the chats in a line cannot be stored: its messages are read again");
            return Step::Failed(backoff(1));
        }
        if n == BATCH_MAX { Step::Full } else { Step::Some }
    }
}

/// The result of reading a batch.
enum Step {
    /// There may be more messages.
    Full,
    /// There were messages, and no more.
    Some,
    /// There were none.
    Empty,
    /// To be tried again after this time.
    Failed(Duration),
}
