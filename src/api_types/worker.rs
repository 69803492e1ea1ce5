//! Workers in a response.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Listed, Page};
use crate::domain::{LineId, UnixMs};

/// A worker: a running `pregon serve` process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Worker)]
pub struct WorkerView {
    /// The id of the worker, under which it holds the leases of its lines. It begins with the name, and changes with
    /// each restart.
    #[schema(example = "pregon-0-17-0a1b2c3d")]
    pub id: String,
    /// The name of its pod (`POD_NAME`) or host.
    #[schema(example = "pregon-0")]
    pub name: String,
    /// Its release; null for one of 0.1.0, which does not say it.
    #[schema(required)]
    pub version: Option<String>,
    /// What the process does: `api`, `webhook`, `dispatch`.
    #[serde(default)]
    #[schema(required)]
    pub roles: Vec<String>,
    /// The lines on which it sends now, of those that the caller may see, in the order of the configuration.
    #[serde(default)]
    #[schema(required)]
    pub lines: Vec<LineId>,
    /// When it started; null for a worker of 0.1.0.
    #[schema(required)]
    pub since: Option<UnixMs>,
}

impl Listed for WorkerView {
    const NAME: &str = "workers";
}

/// A page of workers.
pub type WorkerPage = Page<WorkerView>;
