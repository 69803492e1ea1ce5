//! Connections to the servers that hold the data, one or many, and the way of each command to the server that has its key.
//!
//! Each new connection first asks the server who it is ([`super::durability::incarnations`]), before anything else goes out over it.

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

/// Where Redis is, and how it is used.
#[derive(Clone, Debug)]
pub struct Address {
    /// A URL of a [`Deployment`].
    pub url: String,
    /// For TLS.
    pub certificates: Certificates,
    /// What every key begins with.
    pub namespace: String,
    /// How long to wait for a connection or an answer.
    pub timeout: Duration,
    /// Connections at most, to each server.
    pub connections: usize,
}

/// Why a round trip brought nothing.
#[derive(Debug)]
pub(super) enum SendError {
    /// Nothing was sent: a server has begun a new incarnation.
    NewIncarnation,
    /// Nothing was sent: there is no connection to be had.
    Unreached(String),
    /// Nothing was sent: the server does not accept the user and password.
    Login(String),
    /// It is not known what came of it.
    Store(StoreError),
    /// Redis, or the way to it.
    Redis(RedisError),
}

/// What something that was written shall outlive.
#[derive(Clone, Copy, Debug)]
pub(super) enum Durability {
    /// A server that dies for good and whose replica takes its place, where it has one.
    Replica,
    /// The same; and where it has none, a server that dies and comes back.
    ReplicaElseDisk,
    /// Both.
    ReplicaAndDisk,
}

/// The servers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Servers {
    deployment: Arc<Deployment>,
    address: Arc<Address>,
    incarnations: Arc<Incarnations>,
    way: Way,
}

#[derive(Clone)]
enum Way {
    One(Server),
    Many(Router),
}

impl Servers {
    /// Connects when it is first used.
    ///
    /// Errors: `Unusable` for a URL or certificates that can't be used.
    pub(super) fn new(deployment: Deployment, address: Arc<Address>, incarnations: Arc<Incarnations>) -> Result<Self> {
        let deployment = Arc::new(deployment);
        let way = match deployment.kind {
            DeploymentKind::One => Way::One(Server::new(deployment.server(), &address, incarnations.clone(), false)?),
            DeploymentKind::Cluster(_) | DeploymentKind::Sentinel { .. } => {
                Way::Many(Router::new(deployment.clone(), address.clone(), incarnations.clone()))
            }
        };
        Ok(Self { deployment, address, incarnations, way })
    }

    /// The same servers over connections of its own: those of one runtime do not serve another.
    pub(super) fn reopened(&self) -> Result<Self> {
        let way = match &self.way {
            Way::One(_) => {
                Way::One(Server::new(self.deployment.server(), &self.address, self.incarnations.clone(), false)?)
            }
            Way::Many(fleet) => Way::Many(fleet.reopened()),
        };
        Ok(Self { way, ..self.clone() })
    }

    /// How its servers are found.
    pub(super) fn kind(&self) -> &DeploymentKind {
        &self.deployment.kind
    }

    /// The same servers over one connection to each, which is made anew when it fails: for loops that ask all the time.
    pub(super) fn keeping_a_connection(&self) -> Self {
        let way = match &self.way {
            Way::One(server) => Way::One(server.keeping_a_connection()),
            Way::Many(fleet) => Way::Many(fleet.keeping_a_connection()),
        };
        Self { way, ..self.clone() }
    }

    /// One round trip, all of it in `incarnation`: nothing is sent, and no answer counts, when a newer one has begun.
    pub(super) async fn send(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
    ) -> std::result::Result<Vec<Value>, SendError> {
        match &self.way {
            Way::One(server) => server.send(incarnation, pipeline).await,
            // On the heap: what one server needs is small, and stays so.
            Way::Many(fleet) => Box::pin(fleet.send(incarnation, pipeline)).await,
        }
    }

    /// As [`Servers::send`], to every server that holds data. The answers are those of one server after the other.
    pub(super) async fn send_to_all(
        &self,
        incarnation: u64,
        pipeline: &Pipeline,
    ) -> std::result::Result<Vec<Value>, SendError> {
        match &self.way {
            Way::One(server) => server.send(incarnation, pipeline).await,
            Way::Many(fleet) => Box::pin(fleet.send_to_all(incarnation, pipeline)).await,
        }
    }

    /// Waits until what was written before to the servers that have `keys`, or to all, is as safe as `durability` says, as far as
    /// they can promise it. `wait_key` makes keys that may be written.
    ///
    /// Errors: `OutcomeUnknown` if that takes longer than `within`: it may be safe or not.
    pub(super) async fn wait_durable(
        &self,
        incarnation: u64,
        keys: Option<&[String]>,
        wait_key: impl Fn(u32) -> String,
        durability: Durability,
        within: Duration,
    ) -> std::result::Result<(), SendError> {
        match &self.way {
            Way::One(server) => server.wait_durable(incarnation, &wait_key(0), durability, within).await,
            Way::Many(fleet) => Box::pin(fleet.wait_durable(incarnation, keys, wait_key, durability, within)).await,
        }
    }

    /// Asks whether a server has taken the place of another.
    pub(super) async fn look(&self) {
        if let Way::Many(fleet) = &self.way {
            fleet.look().await;
        }
    }
}
