//! Connections to the servers that hold the data, one or many, and the way of each command to the server that has its key.
//!
//! Each new connection first asks the server who it is ([`super::lives`]), before anything else goes out over it.

mod finder;
mod fleet;
mod layout;
mod server;

use std::{sync::Arc, time::Duration};

use deadpool_redis::redis::{Pipeline, RedisError, Value};

pub(super) use self::server::field;
use self::{fleet::Fleet, server::Server};
use super::{
    Result, StoreError,
    deployment::{Certificates, Deployment, Kind},
    lives::Lives,
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
    /// Nothing was sent: a server has begun a new life.
    NewLife,
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
pub(super) enum Safety {
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
    lives: Arc<Lives>,
    way: Way,
}

#[derive(Clone)]
enum Way {
    One(Server),
    Many(Fleet),
}

impl Servers {
    /// Connects when it is first used.
    ///
    /// Errors: `Unusable` for a URL or certificates that can't be used.
    pub(super) fn new(deployment: Deployment, address: Arc<Address>, lives: Arc<Lives>) -> Result<Self> {
        let deployment = Arc::new(deployment);
        let way = match deployment.kind {
            Kind::One => Way::One(Server::new(deployment.server(), &address, lives.clone(), false)?),
            Kind::Cluster(_) | Kind::Sentinel { .. } => {
                Way::Many(Fleet::new(deployment.clone(), address.clone(), lives.clone()))
            }
        };
        Ok(Self { deployment, address, lives, way })
    }

    /// The same servers over connections of its own: those of one runtime do not serve another.
    pub(super) fn reopened(&self) -> Result<Self> {
        let way = match &self.way {
            Way::One(_) => Way::One(Server::new(self.deployment.server(), &self.address, self.lives.clone(), false)?),
            Way::Many(fleet) => Way::Many(fleet.reopened()),
        };
        Ok(Self { way, ..self.clone() })
    }

    /// How its servers are found.
    pub(super) fn kind(&self) -> &Kind {
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

    /// One round trip, all of it in `life`: nothing is sent, and no answer counts, when a newer one has begun.
    pub(super) async fn send(&self, life: u64, pipeline: &Pipeline) -> std::result::Result<Vec<Value>, SendError> {
        match &self.way {
            Way::One(server) => server.send(life, pipeline).await,
            // On the heap: what one server needs is small, and stays so.
            Way::Many(fleet) => Box::pin(fleet.send(life, pipeline)).await,
        }
    }

    /// As [`Servers::send`], to every server that holds data. The answers are those of one server after the other.
    pub(super) async fn send_to_all(
        &self,
        life: u64,
        pipeline: &Pipeline,
    ) -> std::result::Result<Vec<Value>, SendError> {
        match &self.way {
            Way::One(server) => server.send(life, pipeline).await,
            Way::Many(fleet) => Box::pin(fleet.send_to_all(life, pipeline)).await,
        }
    }

    /// Waits until what was written before to the servers that have `keys`, or to all, is as safe as `safety` says, as far as
    /// they can promise it. `fence` makes keys that may be written.
    ///
    /// Errors: `Unavailable` if that takes longer than `within`: it may be safe or not.
    pub(super) async fn fence(
        &self,
        life: u64,
        keys: Option<&[String]>,
        fence: impl Fn(u32) -> String,
        safety: Safety,
        within: Duration,
    ) -> std::result::Result<(), SendError> {
        match &self.way {
            Way::One(server) => server.fence(life, &fence(0), safety, within).await,
            Way::Many(fleet) => Box::pin(fleet.fence(life, keys, fence, safety, within)).await,
        }
    }

    /// Asks whether a server has taken the place of another.
    pub(super) async fn look(&self) {
        if let Way::Many(fleet) = &self.way {
            fleet.look().await;
        }
    }
}
