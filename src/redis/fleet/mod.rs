//! Connections to one or several Redis servers, and routing of each command to the master of its key.
//!
//! Each new connection reads the run id of its server before any command goes over it
//! ([`super::durability::incarnations`]).

mod discovery;
mod router;
mod server;
mod slot_map;

use std::{sync::Arc, time::Duration};

use deadpool_redis::redis::{Pipeline, RedisError, Value};

pub(super) use self::server::field;
use self::{router::Router, server::Server};
use super::{
    Result, StoreError,
    deployment::{Certificates, Deployment, DeploymentKind},
    durability::incarnations::Incarnations,
};

/// Where Redis is, and how to use it.
#[derive(Clone, Debug)]
pub struct Address {
    /// A URL of a [`Deployment`].
    pub url: String,
    /// Certificates for TLS.
    pub certificates: Certificates,
    /// Prefix of every key.
    pub namespace: String,
    /// Timeout of a connection attempt and of an answer.
    pub timeout: Duration,
    /// Maximum number of connections to each server.
    pub connections: usize,
}

/// Why a round trip failed.
#[derive(Debug)]
pub(super) enum SendError {
    /// Nothing was sent: a new incarnation has begun.
    NewIncarnation,
    /// Nothing was sent: no connection could be made.
    Unreached(String),
    /// Nothing was sent: the server rejects the user and password.
    Login(String),
    /// An error that is returned to the caller unchanged.
    Store(StoreError),
    /// An error of the server or of the connection. The commands may have run.
    Redis(RedisError),
}

/// Which failures a write must survive.
#[derive(Clone, Copy, Debug)]
pub(super) enum Durability {
    /// A failover: the write is on a replica, if the server has one.
    Replica,
    /// A failover, if the server has a replica; otherwise a restart: the write is in the append-only file.
    ReplicaElseDisk,
    /// A failover and a restart.
    ReplicaAndDisk,
}

/// The servers of a deployment. Cheap to clone.
#[derive(Clone)]
pub(super) struct Servers {
    deployment: Arc<Deployment>,
    address: Arc<Address>,
    incarnations: Arc<Incarnations>,
    topology: Topology,
}

#[derive(Clone)]
enum Topology {
    One(Server),
    Many(Router),
}

impl Servers {
    /// Opens no connection: the first use does.
    ///
    /// Errors: `Unusable` for a URL or certificates that can't be used.
    pub(super) fn new(deployment: Deployment, address: Arc<Address>, incarnations: Arc<Incarnations>) -> Result<Self> {
        let deployment = Arc::new(deployment);
        let topology = match deployment.kind {
            DeploymentKind::One => {
                Topology::One(Server::new(deployment.server(), &address, incarnations.clone(), false)?)
            }
            DeploymentKind::Cluster(_) | DeploymentKind::Sentinel { .. } => {
                Topology::Many(Router::new(deployment.clone(), address.clone(), incarnations.clone()))
            }
        };
        Ok(Self { deployment, address, incarnations, topology })
    }

    /// The same servers over new connections, because a connection can only be used in the runtime that opened it.
    pub(super) fn with_own_connections(&self) -> Result<Self> {
        let topology = match &self.topology {
            Topology::One(_) => {
                Topology::One(Server::new(self.deployment.server(), &self.address, self.incarnations.clone(), false)?)
            }
            Topology::Many(router) => Topology::Many(router.with_own_connections()),
        };
        Ok(Self { topology, ..self.clone() })
    }

    /// How its servers are found.
    pub(super) fn kind(&self) -> &DeploymentKind {
        &self.deployment.kind
    }

    /// The same servers over one connection to each, which is replaced when it fails.
    pub(super) fn with_pinned_connection(&self) -> Self {
        let topology = match &self.topology {
            Topology::One(server) => Topology::One(server.with_pinned_connection()),
            Topology::Many(router) => Topology::Many(router.with_pinned_connection()),
        };
        Self { topology, ..self.clone() }
    }

    /// Sends a pipeline in one round trip. Returns one answer for each command, or the one answer of a transaction.
    ///
    /// Errors: [`SendError`]. Nothing is sent if `incarnation` is no longer the newest; an answer that arrives after a
    /// newer one has begun is discarded.
    pub(super) async fn send(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
    ) -> std::result::Result<Vec<Value>, SendError> {
        match &self.topology {
            Topology::One(server) => server.send(incarnation, pipeline).await,
            // Boxed, so that the future for one server stays small.
            Topology::Many(router) => Box::pin(router.send(incarnation, pipeline)).await,
        }
    }

    /// As [`Servers::send`], to every master. Returns the answers of all masters, one master after the other.
    pub(super) async fn send_to_all(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
    ) -> std::result::Result<Vec<Value>, SendError> {
        match &self.topology {
            Topology::One(server) => server.send(incarnation, pipeline).await,
            Topology::Many(router) => Box::pin(router.send_to_all(incarnation, pipeline)).await,
        }
    }

    /// Waits until earlier writes to the masters of `keys`, or to all masters, have `durability`, as far as each
    /// master can confirm it. `wait_key` builds the keys that the wait writes.
    ///
    /// Errors: `OutcomeUnknown` if a confirmation takes longer than `within`.
    pub(super) async fn wait_durable(
        &self,
        incarnation: u64,
        keys: Option<&[String]>,
        wait_key: impl Fn(u32) -> String,
        durability: Durability,
        within: Duration,
    ) -> std::result::Result<(), SendError> {
        match &self.topology {
            Topology::One(server) => server.wait_durable(incarnation, &wait_key(0), durability, within).await,
            Topology::Many(router) => {
                Box::pin(router.wait_durable(incarnation, keys, wait_key, durability, within)).await
            }
        }
    }

    /// Checks whether a failover happened. If so, a new incarnation begins.
    pub(super) async fn check_failover(&self) {
        if let Topology::Many(router) = &self.topology {
            router.check_failover().await;
        }
    }
}
