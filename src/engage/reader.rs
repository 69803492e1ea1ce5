//! The reader of one line.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Outage, message};
use crate::{
    domain::{BusinessId, CampaignId, LineId, Lines, Live, UnixMs, campaign::ReplyRoute},
    postgres::{Database, DatabaseError, inbound::AnsweredCampaign},
    redis::{
        self, Store,
        clock::Clock,
        duty::backoff,
        inbound::{InboundEntry, InboundReader},
    },
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
        let mut routes = Routes::default();
        while !stop.is_cancelled() {
            let Some(business) = self.lines.get().business(self.line).cloned() else { return };
            wait = match self.step(&business, clock, &mut outage, &mut forgettings, &mut routes).await {
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
        routes: &mut Routes,
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
        let campaigns = entries.iter().filter_map(|entry| Some(entry.answers?.0.campaign));
        if let Err(error) = routes.read(self.store, campaigns).await {
            error.report("what answers to campaigns do cannot be read: messages from people wait in Redis");
            return Step::Failed(backoff(1));
        }
        let received = |entry: InboundEntry| {
            let answers = entry.answers.map(|(part, _)| routes.of(part.campaign));
            message::received(self.line, entry, answers, clock.now())
        };
        let messages: Vec<_> = entries.into_iter().map(received).collect();
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

/// Maximum number of campaigns whose routes are kept.
const ROUTES_MAX: usize = 1_000;

/// What answers to campaigns do, which does not change once a campaign is created.
#[derive(Default)]
struct Routes(HashMap<CampaignId, Option<ReplyRoute>>);

impl Routes {
    /// Reads those of `campaigns` that are not known yet.
    async fn read(&mut self, store: &Store, campaigns: impl Iterator<Item = CampaignId>) -> redis::Result<()> {
        let unknown: BTreeSet<CampaignId> = campaigns.filter(|id| !self.0.contains_key(id)).collect();
        if self.0.len() + unknown.len() > ROUTES_MAX {
            self.0.clear();
        }
        let unknown: Vec<CampaignId> = unknown.into_iter().collect();
        let records = if unknown.is_empty() { Vec::new() } else { store.campaigns(&unknown).await? };
        let routes = records.into_iter().map(|record| record.and_then(|record| record.campaign.reply));
        self.0.extend(unknown.into_iter().zip(routes));
        Ok(())
    }

    fn of(&self, id: CampaignId) -> AnsweredCampaign {
        AnsweredCampaign { id, route: self.0.get(&id).cloned().flatten() }
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
