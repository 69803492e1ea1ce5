//! Replay of what Redis may lose, and waits until writes are durable.
//!
//! Redis can come back from a restart or a failover without its last seconds of writes. One run of a server, from its
//! start to a restart or a failover, is an incarnation (`incarnations`). This process keeps its last writes in a
//! `journal` and replays them into every new incarnation before it sends anything else. If a write depends on an
//! earlier one that the replay does not cover, the caller first waits until the earlier one is durable.

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
    reply_failed, script, sending_failed,
};
use crate::telemetry::metrics::{self, RedisOperation};

/// Timeout of a wait for durability. `everysec` takes one second, or two on a busy disk.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Commands in one round trip of a replay. They keep Redis busy for some milliseconds.
const REPLAY_BATCH_LEN: usize = 256;

impl Store {
    /// The same store, bound to the current incarnation: operations fail once a newer one has begun. So each
    /// operation of a sequence either finds the effects of the operations before it, or fails.
    pub fn in_this_incarnation(&self) -> Self {
        Self { bound_to: self.bound_to.or_else(|| Some(self.incarnations.newest())), ..self.clone() }
    }

    /// Whether an incarnation of Redis began less than `within` ago: other processes may not have replayed theirs yet.
    pub fn in_grace_period(&self, within: Duration) -> bool {
        self.grace_period(within).is_some()
    }

    /// The age of the newest incarnation of Redis, if it is less than `within`.
    pub fn grace_period(&self, within: Duration) -> Option<Duration> {
        self.incarnations.grace_period(within)
    }

    /// As [`Store::call_all`], and records the calls in the journal, which replays them if Redis loses them. So the
    /// scripts must be idempotent.
    pub(in crate::redis) async fn call_journaled<T: FromRedisValue>(&self, calls: Vec<Call>) -> Result<Vec<Result<T>>> {
        loop {
            let incarnation = self.incarnations.newest();
            let results = self.call_all(&calls).await?;
            // If an incarnation began meanwhile, it is not known which one executed the calls: repeat them.
            if self.incarnations.newest() == incarnation {
                self.incarnations.record(incarnation, calls.into_iter().map(Call::into_journal_entry))?;
                return Ok(results);
            }
        }
    }

    /// The newest incarnation, after the journal was replayed into it.
    ///
    /// Errors: `OutcomeUnknown` if this store is bound to an incarnation that has ended; those of the replay.
    pub(in crate::redis) async fn replayed_incarnation(&self) -> Result<u64> {
        loop {
            let incarnation = self.incarnations.newest();
            if self.bound_to.is_some_and(|bound_to| bound_to != incarnation) {
                return Err(incarnations::ended());
            }
            if self.incarnations.is_replayed(incarnation) {
                return Ok(incarnation);
            }
            // Boxed, because a replay is rare and would otherwise enlarge the future of every call.
            Box::pin(self.replay()).await?;
        }
    }

    /// Waits until all earlier writes, of any process, are durable, as far as the servers can confirm it: in their
    /// append-only files if they support WAITAOF (Redis 7.2, Valkey), and on a replica if they have one. With a store
    /// of [`Store::in_this_incarnation`], fails if that incarnation ends first.
    ///
    /// Errors: `OutcomeUnknown` if the servers do not confirm in time. Nothing is undone: the writes may last or not.
    pub async fn make_durable(&self) -> Result<()> {
        self.wait_durable(None, Durability::ReplicaAndDisk, DURABLE_TIMEOUT).await
    }

    /// In a cluster, waits until earlier writes to the masters of `keys` are durable, so that a write to another
    /// master may depend on them. With one master this returns at once: a master persists and replicates its writes
    /// in order.
    pub(in crate::redis) async fn wait_durable_if_spread(&self, keys: &[String]) -> Result<()> {
        if self.is_spread() {
            self.wait_durable(Some(keys), Durability::ReplicaElseDisk, DURABLE_TIMEOUT).await?;
        }
        Ok(())
    }

    /// With a cluster or sentinels, waits until a replica of each master of `keys` has the earlier writes. So a caller
    /// notices a master that was cut off: the wait fails while that master still counts a replica as connected.
    pub(in crate::redis) async fn wait_replicated(&self, keys: &[String], within: Duration) -> Result<()> {
        if *self.servers.kind() != DeploymentKind::One {
            self.wait_durable(Some(keys), Durability::Replica, within).await?;
        }
        Ok(())
    }

    /// Whether the keys are spread over several masters, each of which can lose its last writes on its own.
    pub fn is_spread(&self) -> bool {
        matches!(self.servers.kind(), DeploymentKind::Cluster(_))
    }

    async fn wait_durable(&self, keys: Option<&[String]>, durability: Durability, within: Duration) -> Result<()> {
        let began = Instant::now();
        let waited = loop {
            let incarnation = self.replayed_incarnation().await?;
            match self
                .servers
                .wait_durable(incarnation, keys, |number| self.keys.wait_key(number), durability, within)
                .await
            {
                Err(SendError::NewIncarnation) => {}
                waited => break waited,
            }
        };
        metrics::redis_operation(RedisOperation::Durability).record(began.elapsed());
        waited.map_err(|error| sending_failed("fence", error))
    }

    /// Replays the journal into the newest incarnation, after loading the scripts, and restores the shared keys.
    async fn replay(&self) -> Result<()> {
        let _guard = self.incarnations.replaying.lock().await;
        let (incarnation, commands) = self.incarnations.to_replay();
        if self.incarnations.is_replayed(incarnation) {
            return Ok(());
        }
        let loading: Vec<Cmd> =
            script::all().map(|script| cmd("SCRIPT").arg("LOAD").arg(&script.source).clone()).collect();
        for (reach, commands) in [(Reach::AllMasters, &loading), (Reach::KeyOwners, &commands)] {
            for commands in commands.chunks(REPLAY_BATCH_LEN) {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                let sent = match reach {
                    Reach::KeyOwners => self.servers.send(incarnation, &pipeline).await,
                    Reach::AllMasters => self.servers.send_to_all(incarnation, &pipeline).await,
                };
                let answers = match sent {
                    Ok(answers) => answers,
                    // Another incarnation has begun: the caller starts over.
                    Err(SendError::NewIncarnation) => return Ok(()),
                    Err(error) => return Err(sending_failed("replaying", error)),
                };
                for error in answers.into_iter().filter_map(|answer| answer.extract_error().err()) {
                    // NOSCRIPT right after loading means that a transient error refused the load.
                    if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) {
                        return Err(StoreError::NotApplied(format!("replaying: {error}")));
                    }
                    let error = reply_failed("replaying", &error);
                    if error.is_transient() {
                        return Err(error);
                    }
                    // The error is only logged: if a key is corrupt, the next claim of its part reports the same error.
                    warn!(%error, "redis refused a command of the replay");
                }
            }
        }
        match self.restore_shared(incarnation).await {
            Err(error) if !error.is_transient() => warn!(%error, "the shared keys can't be restored in redis"),
            restored => restored?,
        }
        info!(commands = commands.len(), "redis restarted or failed over: the last writes were replayed");
        self.incarnations.set_replayed(incarnation);
        Ok(())
    }
}
