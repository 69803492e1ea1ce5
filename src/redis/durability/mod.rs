//! What Redis may lose, and how it is written again.
//!
//! Redis can come back from a restart or a failover without its last seconds. Each run of a server between two of those is an
//! incarnation ([`incarnations`]). This process keeps what it wrote last in a [`journal`] and replays it into every new incarnation
//! before it sends anything else. Where a later write depends on an earlier one, the caller first waits until that one is durable.

pub(super) mod incarnations;
pub(super) mod journal;
pub mod risks;

use std::time::{Duration, Instant};

use deadpool_redis::redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, ServerErrorKind, cmd};
use tracing::{info, warn};

use super::{
    Call, Reach, Result, Store, StoreError,
    deployment::DeploymentKind,
    fleet::{Durability, SendError},
    is_transient_error, script, sending_failed,
};
use crate::telemetry::metrics;

/// How long a caller waits at most until what was written is safe: `everysec` takes a second, or two on a busy disk.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls in one round trip of a replaying: some milliseconds of Redis.
const REPLAY_BATCH_LEN: usize = 256;

impl Store {
    /// The same store in the present incarnation of Redis alone: what is done with it one after the other is done on what the
    /// things before it left, or fails.
    pub fn in_this_incarnation(&self) -> Self {
        Self { bound_to: self.bound_to.or_else(|| Some(self.incarnations.newest())), ..self.clone() }
    }

    /// Redis began a incarnation less than `within` ago: other processes may not yet have repeated what it forgot.
    pub fn in_grace_period(&self, within: Duration) -> bool {
        self.incarnations.in_grace_period(within)
    }

    /// The same for calls that change nothing where they are known: they are repeated if Redis forgets them.
    pub(in crate::redis) async fn call_journaled<T: FromRedisValue>(&self, calls: Vec<Call>) -> Result<Vec<Result<T>>> {
        loop {
            let incarnation = self.incarnations.newest();
            let results = self.call_all(&calls).await?;
            // Where the connection was the first of a new incarnation, they are called again: it is not known in which one they were.
            if self.incarnations.newest() == incarnation {
                self.incarnations.record(incarnation, calls.into_iter().map(Call::into_journal_entry))?;
                return Ok(results);
            }
        }
    }

    /// The newest incarnation, in which everything was repeated.
    pub(in crate::redis) async fn replayed_incarnation(&self) -> Result<u64> {
        loop {
            let incarnation = self.incarnations.newest();
            if self.bound_to.is_some_and(|only| only != incarnation) {
                return Err(incarnations::ended());
            }
            if self.incarnations.is_replayed(incarnation) {
                return Ok(incarnation);
            }
            // On the heap: it is rare, and would make every future of a call larger.
            Box::pin(self.replay()).await?;
        }
    }

    /// Waits until everything that was written before, by whomever, outlives the servers, as far as they can promise it: it is in
    /// their append-only files where they have WAITAOF (Redis 7.2, Valkey), and with a replica where they have one. In a store
    /// of [`Store::in_this_incarnation`] that means what was written in this incarnation.
    ///
    /// Errors: `OutcomeUnknown` if they do not say so in time. Nothing is undone: what was written may last or not.
    pub async fn make_durable(&self) -> Result<()> {
        self.wait_durable(None, Durability::ReplicaAndDisk, DURABLE_TIMEOUT).await
    }

    /// What was written before to the servers of `keys` is safe before something that counts on it is written to another. Where
    /// all is on one server, the order in which it writes things down is enough.
    pub(in crate::redis) async fn wait_durable_if_spread(&self, keys: &[String]) -> Result<()> {
        if self.is_spread() {
            self.wait_durable(Some(keys), Durability::ReplicaElseDisk, DURABLE_TIMEOUT).await?;
        }
        Ok(())
    }

    /// A replica of the servers of `keys` knows what was written before, where servers can take each other's place: one that
    /// was cut off does not go unnoticed.
    pub(in crate::redis) async fn wait_replicated(&self, keys: &[String], within: Duration) -> Result<()> {
        if *self.servers.kind() != DeploymentKind::One {
            self.wait_durable(Some(keys), Durability::Replica, within).await?;
        }
        Ok(())
    }

    /// The keys are on many servers, of which each can forget for itself.
    pub fn is_spread(&self) -> bool {
        matches!(self.servers.kind(), DeploymentKind::Cluster(_))
    }

    async fn wait_durable(&self, keys: Option<&[String]>, durability: Durability, within: Duration) -> Result<()> {
        let began = Instant::now();
        let waited = loop {
            let incarnation = self.replayed_incarnation().await?;
            match self
                .servers
                .wait_durable(incarnation, keys, |number| self.keys.wait_durable(number), durability, within)
                .await
            {
                Err(SendError::NewIncarnation) => {}
                waited => break waited,
            }
        };
        metrics::redis_operation("fence").record(began.elapsed());
        waited.map_err(|error| sending_failed("fence", error))
    }

    /// Repeats in a new incarnation of Redis what this process wrote at the end of the one before.
    async fn replay(&self) -> Result<()> {
        let _alone = self.incarnations.replaying.lock().await;
        let (incarnation, known) = self.incarnations.to_replay();
        if self.incarnations.is_replayed(incarnation) {
            return Ok(());
        }
        let loading: Vec<Cmd> =
            script::all().map(|script| cmd("SCRIPT").arg("LOAD").arg(&script.source).clone()).collect();
        for (reach, commands) in [(Reach::All, &loading), (Reach::RedisKeys, &known)] {
            for commands in commands.chunks(REPLAY_BATCH_LEN) {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                let sent = match reach {
                    Reach::RedisKeys => self.servers.send(incarnation, &pipeline).await,
                    Reach::All => self.servers.send_to_all(incarnation, &pipeline).await,
                };
                let answers = match sent {
                    Ok(answers) => answers,
                    // A still newer incarnation: from the beginning.
                    Err(SendError::NewIncarnation) => return Ok(()),
                    Err(error) => return Err(sending_failed("replaying", error)),
                };
                for error in answers.into_iter().filter_map(|answer| answer.extract_error().err()) {
                    // Scripts that were loaded a moment ago are missing where that was still refused.
                    if is_transient_error(&error) || error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) {
                        return Err(StoreError::NotApplied(format!("replaying: {error}")));
                    }
                    // Whatever is wrong with its keys, a claim meets it too.
                    warn!(%error, "redis refused to learn again what it forgot");
                }
            }
        }
        match self.share_again(incarnation).await {
            Err(error) if !error.is_transient() => warn!(%error, "redis refused to tell what the installation shares"),
            shared => shared?,
        }
        info!(commands = known.len(), "redis began a new incarnation, and knows again what was written last");
        self.incarnations.set_replayed(incarnation);
        Ok(())
    }
}
