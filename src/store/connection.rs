//! Connections to the servers that hold the data, one or many, and the way of each command to the server that has its key.
//!
//! Each new connection first asks the server who it is ([`super::lives`]), before anything else goes out over it.

mod server;

use std::{sync::Arc, time::Duration};

use deadpool_redis::redis::{Pipeline, RedisError, Value};

use self::server::Server;
pub(super) use self::server::field;
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
    /// No connection, or an answer that is an error.
    Store(StoreError),
    /// Redis, or the way to it.
    Redis(RedisError),
}

/// The servers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Servers {
    address: Arc<Address>,
    lives: Arc<Lives>,
    server: Server,
}

impl Servers {
    /// Connects when it is first used.
    ///
    /// Errors: `Unusable` for a URL or certificates that can't be read.
    pub(super) fn new(address: Arc<Address>, lives: Arc<Lives>) -> Result<Self> {
        let deployment: Deployment =
            address.url.parse().map_err(|error| StoreError::Unusable(format!("redis.url {error}")))?;
        let deployment = deployment.with(&address.certificates).map_err(StoreError::Unusable)?;
        match &deployment.kind {
            Kind::One => {
                let server = Server::new(deployment.server(), &address, lives.clone())?;
                Ok(Self { address, lives, server })
            }
            Kind::Cluster(_) | Kind::Sentinel { .. } => Err(StoreError::Unusable(format!("{deployment}: not yet"))),
        }
    }

    /// The same servers over connections of its own: those of one runtime do not serve another.
    pub(super) fn reopened(&self) -> Result<Self> {
        Self::new(self.address.clone(), self.lives.clone())
    }

    /// The same servers over one connection to each, which is made anew when it fails: for loops that ask all the time.
    pub(super) fn keeping_a_connection(&self) -> Self {
        Self { server: self.server.keeping_a_connection(), ..self.clone() }
    }

    /// One round trip, all of it in `life`: nothing is sent, and no answer counts, when a newer one has begun.
    pub(super) async fn send(&self, life: u64, pipeline: &Pipeline) -> std::result::Result<Vec<Value>, SendError> {
        self.server.send(life, pipeline).await
    }
}
