//! What people write becomes contacts and chats in PostgreSQL, and what is written to them goes out from there.
//!
//! Each line has one reader at a time, by a lease, so the messages of a line keep their order. A reader stores a batch
//! in one transaction and then moves on in the stream of the line.
//!
//! If the process dies: another one takes over its lines, and reads the last batch again. A message that is stored is
//! known by Meta's id.
//! If PostgreSQL is away: the messages wait in Redis. A stream that is full answers Meta's webhooks with 503, and Meta
//! delivers them again.

mod files;
mod message;
mod outbound;
mod reader;
mod statistics;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::files::FileTransfers;
use self::{outbound::Outbound, reader::Reader, statistics::ResultsReader};
use crate::{
    domain::{LineId, Lines, Live, agent::AgentLimits},
    postgres::{Database, DatabaseError},
    redis::{
        Store,
        clock::Clock,
        doorbells::{Doorbell, Doorbells, reading},
        duty::backoff,
    },
    telemetry::metrics,
};

/// How often the list of lines is read, and how often months are prepared and old data is deleted.
const LINES_EVERY: Duration = Duration::from_secs(1);
/// How often the queues and the agents are looked at.
const TEND_EVERY: Duration = Duration::from_secs(1);

const HOUSEKEEPING_EVERY: Duration = Duration::from_hours(6);

/// What the readers need.
#[derive(Clone)]
pub struct Engage {
    /// The id of the process.
    pub worker: String,
    /// Redis.
    pub store: Store,
    /// PostgreSQL.
    pub database: Database,
    /// The clock of Redis.
    pub clock: Arc<Clock>,
    /// Every configured line.
    pub lines: Live<Lines>,
    /// How long a line belongs to one reader without renewal.
    pub lease: Duration,
    /// How long recipients of campaigns are stored after the end of their campaign.
    pub retention: Duration,
    /// How long messages are kept, at least; `None`: for ever.
    pub keep_messages: Option<Duration>,
    /// For files; `None`: they stay at Meta.
    pub files: Option<FileTransfers>,
    /// When agents count as gone.
    pub agents: AgentLimits,
}

impl Engage {
    /// Runs until `stop`. Reads the lines whose lease this process has.
    ///
    /// Errors: the tables cannot be migrated.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), DatabaseError> {
        if !self.open(&stop).await? {
            return Ok(());
        }
        let mut readers: HashMap<LineId, CancellationToken> = HashMap::new();
        let mut running: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        let doorbells = Doorbells::default();
        running.push(Box::pin(self.answer_doorbells(doorbells.clone(), &stop)));
        running.push(Box::pin(self.tend_chats(&stop)));
        running.push(Box::pin(self.count_statistics(&stop)));
        if let Some(transfers) = &self.files {
            running.push(Box::pin(self.transfer_files(transfers, &stop)));
        }
        let mut housekeeping_at = Instant::now();
        while !stop.is_cancelled() {
            self.follow_lines(&mut readers, &mut running, &doorbells, &stop);
            if housekeeping_at <= Instant::now() {
                housekeeping_at += HOUSEKEEPING_EVERY;
                running.push(Box::pin(self.keep_house()));
            }
            tokio::select! {
                () = sleep(LINES_EVERY) => {}
                () = stop.cancelled() => {}
                Some(()) = running.next(), if !running.is_empty() => {}
            }
        }
        while running.next().await.is_some() {}
        Ok(())
    }

    /// Assigns chats to agents, and takes them back from those who have gone, until `stop`. One process at a time does.
    async fn tend_chats(&self, stop: &CancellationToken) {
        let tend = async |_| {
            let mut failures = 0;
            while !stop.is_cancelled() {
                let wait = match self.database.tend_chats(self.agents, self.clock.now()).await {
                    Ok(()) => {
                        failures = 0;
                        TEND_EVERY
                    }
                    Err(error) => {
                        failures += 1;
                        if failures == 1 {
                            warn!(%error, "chats are not assigned to agents: tried again");
                        }
                        backoff(failures)
                    }
                };
                stop.run_until_cancelled(sleep(wait)).await;
            }
        };
        self.store.on_duty("agents", &self.worker, self.lease, stop, tend).await;
    }

    /// Counts the statistics of contacts, until `stop`. One process at a time does.
    async fn count_statistics(&self, stop: &CancellationToken) {
        let count = async |_| {
            let partitions = self.store.feed().into_iter().flat_map(|feed| feed.partitions());
            let ages = partitions.map(metrics::contact_statistics_age).collect();
            let reader = ResultsReader {
                store: &self.store,
                database: &self.database,
                clock: &self.clock,
                lines: &self.lines,
                retention: self.retention,
                ages,
            };
            reader.run(stop).await;
        };
        self.store.on_duty("statistics", &self.worker, self.lease, stop, count).await;
    }

    /// Prepares the next months, and deletes what is kept no longer.
    async fn keep_house(&self) {
        let now = self.clock.now();
        let kept = async {
            self.database.create_partitions(now).await?;
            self.database.forget_client_ids(now).await?;
            if let Some(keep) = self.keep_messages {
                for partition in self.database.drop_partitions(now, keep).await? {
                    info!(partition, "messages of chats are older than database.keep_messages: deleted");
                }
            }
            Ok::<(), DatabaseError>(())
        };
        if let Err(error) = kept.await {
            warn!(%error, "the months of the chats' messages are not prepared or deleted: tried again in six hours");
        }
    }

    /// Migrates the tables, once PostgreSQL answers. Returns false if the process stops before.
    async fn open(&self, stop: &CancellationToken) -> Result<bool, DatabaseError> {
        let mut failures = 0;
        while let Some(migrated) = stop.run_until_cancelled(self.database.migrate(self.clock.now())).await {
            match migrated {
                Ok(()) => return Ok(true),
                Err(error) if error.is_transient() => {
                    failures += 1;
                    if failures == 1 {
                        warn!(%error, "waiting for PostgreSQL: messages from people wait in Redis");
                    }
                    stop.run_until_cancelled(sleep(backoff(failures))).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Starts a reader for each line that is new in the configuration, and stops those of lines that were removed.
    fn follow_lines<'a>(
        &'a self,
        readers: &mut HashMap<LineId, CancellationToken>,
        running: &mut FuturesUnordered<BoxFuture<'a, ()>>,
        doorbells: &Doorbells,
        stop: &CancellationToken,
    ) {
        let lines = self.lines.get();
        readers.retain(|line, reader| {
            let is_listed = lines.by_id(line).is_some();
            if !is_listed {
                reader.cancel();
            }
            is_listed
        });
        for line in lines.ids() {
            readers.entry(line.clone()).or_insert_with(|| {
                let (stop, rung) = (stop.child_token(), doorbells.of(&line));
                running.push(Box::pin(self.read_line(line, rung, stop.clone())));
                stop
            });
        }
    }

    /// Rings at the lines that have something new in the outbox, until `stop`.
    async fn answer_doorbells(&self, doorbells: Doorbells, stop: &CancellationToken) {
        let ring = doorbells.run(self.store.clone(), Doorbell::Engage, self.worker.clone());
        stop.run_until_cancelled(ring).await;
    }

    /// Reads a line whenever this process has its lease, until `stop`.
    async fn read_line(&self, line: LineId, rung: Arc<Notify>, stop: CancellationToken) {
        let work = async |epoch| {
            let reader = Reader {
                line: &line,
                store: &self.store,
                database: &self.database,
                lines: &self.lines,
                age: metrics::chat_inbound_age(&line),
            };
            let outbound = Outbound {
                line: &line,
                store: &self.store,
                database: &self.database,
                clock: &self.clock,
                epoch,
                rung: rung.clone(),
                age: metrics::chat_replies_age(&line),
            };
            tokio::join!(reader.run(&self.clock, &stop), outbound.run(&stop));
        };
        self.store.on_duty(&reading(&line), &self.worker, self.lease, &stop, work).await;
    }
}

/// Reports the first of several failures in a row, and the end of them.
#[derive(Default)]
struct Outage {
    failures: u32,
}

impl Outage {
    fn began(&mut self, line: &LineId, what: &str, cause: &dyn std::fmt::Display, is_transient: bool) -> Duration {
        self.failures += 1;
        match (self.failures, is_transient) {
            (1, true) => warn!(line.id = %line, error = %cause, "{what}"),
            (1, false) => error!(line.id = %line, error = %cause, "{what}"),
            _ => {}
        }
        backoff(self.failures)
    }

    fn ended(&mut self, line: &LineId, what: &str) {
        if self.failures > 0 {
            self.failures = 0;
            info!(line.id = %line, "{what}");
        }
    }
}
