//! The stand-in for Meta: a Graph API that takes template messages, tells what became of them by webhook, fails in
//! every way a scenario asks for, and keeps a ledger of the truth.
//!
//! A product of its own for load tests, demonstrations and tests of any sender. It shares nothing with the sender but
//! plain types of [`crate::domain`]: what Meta's wire format is, it knows for itself, so that a mistake there is not made twice.
//!
//! ```text
//!             ┌─ server ─▶ send ─▶ wanted (what Meta checks) ─▶ line (limits, messages, counts) ─┐
//! client ─────┤                └─▶ behaviour (faults, what becomes of a message) ────────────────┤
//!             ├─ management (templates, lines)                                                   ▼
//!             └─ control (/sim/…) ◀── ledger ◀── told ◀── courier ◀── calendar of updates ◀── plan
//!                                                           └─▶ the webhook, signed, until it answers 200
//! ```
//!
//! | call | does |
//! | --- | --- |
//! | `POST /vNN.N/{line}/messages` | a send |
//! | `GET /vNN.N/{waba}/message_templates`, `…/phone_numbers` | lists with cursors; `fields`, `limit`, `after`, `name`, `language`, `status`, `category` |
//! | `GET /vNN.N/{waba}/subscribed_apps` | the app that gets its updates; empty for a WABA without a webhook |
//! | `GET /vNN.N/{line, waba or template}` | one node; `fields` |
//! | `GET /sim/ledger` | a [`Ledger`] |
//! | `GET /sim/messages` | a [`MessageRecord`] a line |
//! | `POST /sim/scenario` | a [`Change`] of faults, latency, statuses, replies or outages |
//! | `POST /sim/template` | `{"name","language"?,"waba"?,"status"}`: the status, and the webhook about it |
//! | `POST /sim/inbound` | `{"line","from","text"}`: a person writes |
//! | `POST /sim/reset` | as if just started |
//!
//! Owns: everything in memory. If the process dies: all of it is gone, as is meant. Never: talks to anybody but its
//! clients and the webhooks of its scenario; checks who calls `/sim`: it belongs on a test machine.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

mod behaviour;
mod checks;
mod control;
mod courier;
mod delay;
mod delivery;
mod fault;
mod ledger;
mod line;
mod management;
mod message;
mod payload;
mod pending;
mod recipient;
mod reply;
mod request;
pub mod scenario;
mod send;
mod server;
pub mod template;
mod wanted;
mod window;
mod wire;
mod wording;
mod world;

pub use behaviour::Change;
pub use delay::{BadDelay, Delay};
pub use ledger::{Ledger, Rates, States, Tally};
pub use message::MessageRecord;
pub use scenario::{Scenario, ScenarioError};

use world::{SharedWorld, World};

/// A running stand-in. Dropping it does not stop it; cancelling its token does.
pub struct Sim {
    world: SharedWorld,
    addr: SocketAddr,
}

impl Sim {
    /// Starts on the current runtime.
    ///
    /// Errors: [`SimError::Scenario`] if the scenario contradicts itself; [`SimError::Http`] if no client for webhooks
    /// can be made; [`SimError::Listen`] if the listener has no address.
    pub async fn start(
        scenario: Scenario,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<Sim, SimError> {
        let addr = listener.local_addr().map_err(|error| SimError::Listen("the listener".into(), error))?;
        // reqwest asks for a provider even where no TLS is spoken. An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(scenario.webhooks.answer_within)
            .pool_max_idle_per_host(scenario.webhooks.posts_at_once)
            .build()?;
        let world = Arc::new(World::new(scenario, &http, shutdown)?);
        for waba in 0..world.wabas.len() {
            world.tasks.spawn(delivery::run(world.clone(), waba));
        }
        world.tasks.spawn(server::accept_all(world.clone(), listener));
        Ok(Sim { world, addr })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A snapshot of all counts. Lines are read one after the other: while requests come in, they are not of one instant.
    pub fn ledger(&self) -> Ledger {
        self.world.ledger()
    }

    /// All accepted messages, line by line, in the order of their acceptance.
    pub fn messages(&self) -> Vec<MessageRecord> {
        let lines = 0..self.world.lines.len();
        lines.flat_map(|line| self.world.messages(line, 0, u32::MAX)).collect()
    }

    /// Resolves when no update waits for its time, is under way, or waits for a retry. Never after a stop that left some.
    pub async fn idle(&self) {
        self.world.counts.pending.none().await;
    }

    /// Resolves when everything has ended after the token was cancelled. Webhooks still pending are lost.
    pub async fn stopped(self) {
        self.world.stop.cancelled().await;
        self.world.tasks.close();
        self.world.tasks.wait().await;
    }
}

/// Runs a stand-in until ctrl-c or SIGTERM: the whole of `pregon sim`.
///
/// `scenario`: a name (`calm`, `rough`, `outage`) or the path of a TOML file. Prints one line with the address, the
/// scenario and the seed once it listens.
///
/// Errors: as [`Sim::start`]; [`SimError::Read`] if the file cannot be read; [`SimError::Listen`] if the address cannot be
/// listened on.
pub async fn run(scenario: &str, listen: &str) -> Result<(), SimError> {
    let played = match Scenario::named(scenario) {
        Err(ScenarioError::Unknown(_)) if Path::new(scenario).exists() => {
            let text =
                tokio::fs::read_to_string(scenario).await.map_err(|error| SimError::Read(scenario.into(), error))?;
            Scenario::from_toml(&text)
        }
        named => named,
    }?;
    let seed = played.seed;
    let mut terminate = signal(SignalKind::terminate()).map_err(SimError::Signal)?;
    let listener = TcpListener::bind(listen).await.map_err(|error| SimError::Listen(listen.into(), error))?;
    let shutdown = CancellationToken::new();
    let sim = Sim::start(played, listener, shutdown.clone()).await?;
    println!("the stand-in for Meta listens on http://{} (scenario {scenario}, seed {seed})", sim.addr());
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(SimError::Signal)?,
        _ = terminate.recv() => {}
    }
    shutdown.cancel();
    sim.stopped().await;
    Ok(())
}

/// The stand-in cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The scenario cannot be played.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The file cannot be read.
    #[error("the scenario {0} cannot be read")]
    Read(String, #[source] std::io::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(String, #[source] std::io::Error),
    /// No client for webhooks.
    #[error("no http client for webhooks")]
    Http(#[from] reqwest::Error),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signal(#[source] std::io::Error),
}

/// Whole milliseconds.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A lock whose holder panicked still guards whole data here: every change under it is a count or one insertion.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
