//! The simulator: a fake Graph API that accepts messages, reports their statuses by webhook, lets people answer,
//! injects the faults of a scenario, and keeps a ledger of what really happened.
//!
//! It serves load tests, demonstrations and tests of any sender. It shares only plain types of [`crate::domain`] with
//! Pregón's sender, and implements Meta's wire format separately, so that a mistake in one implementation is not
//! repeated in the other.
//!
//! ```text
//!             ┌─ server ─▶ send ─▶ validate (Meta's checks) ─▶ line (limits, messages, counts) ──┐
//! client ─────┤                └─▶ behaviour (faults, delivery plan) ────────────────────────────┤
//!             ├─ management (nodes and edges)                                                   ▼
//!             └─ control (/sim/…) ◀── ledger ◀── delivery ◀── courier ◀── calendar of updates ◀──┘
//!                                                   └─▶ POST to the webhook, signed, retried until it answers 200
//! ```
//!
//! | call | does |
//! | --- | --- |
//! | `POST /vNN.N/{line}/messages` | sends a message with or without a template, or a read receipt |
//! | `POST /vNN.N/{line}/media` | takes a file of a multipart form; `GET /vNN.N/{file}` returns its node, with a URL |
//! | `GET /vNN.N/{waba}/message_templates`, `…/phone_numbers` | returns one page of nodes, with cursors |
//! | `GET /vNN.N/{business}/owned_whatsapp_business_accounts`, `…/client_…` | returns one page of WABAs |
//! | `GET /vNN.N/{waba}/subscribed_apps` | returns the app that receives updates; empty for a WABA without a webhook |
//! | `GET /vNN.N/{line, waba, business or template}` | returns one node |
//! | `GET /sim/ledger` | returns a [`Ledger`] |
//! | `GET /sim/messages` | returns NDJSON, one [`MessageRecord`] a line |
//! | `POST /sim/scenario` | applies a [`Change`] of faults, latency, statuses, replies or outages |
//! | `POST /sim/account` | restricts, bans or reinstates a WABA or a business, or reports a violation |
//! | `POST /sim/business` | `{"id","limit"}`: sets the messaging limit of a business of the scenario |
//! | `POST /vNN.N/{template}/unpause` | ends the pause of a template |
//! | `POST /sim/template` | changes templates by `{"name","language"?,"waba"?}` |
//! | `POST /sim/line` | changes a line by `{"id"}` |
//! | `POST /sim/inbound` | `{"line","from","text"}`: a person writes, or with `"media":"image"` sends a file |
//! | `POST /sim/preference` | `{"line","from","value"}`: the person says `stop` or `resume` to marketing |
//! | `POST /sim/clock` | `{"advance":"3h"}`: advances the clock of the simulator, at most 24 hours |
//! | `POST /sim/reset` | restores the state just after the start |
//!
//! The calls that change something send Meta's webhooks about it:
//!
//! * An account is `"waba"` or `"business"`, with an `"event"`: `ACCOUNT_RESTRICTION` with `"restrictions"` (a list of
//!   Meta's types) and optionally `"for"` (how long) and `"violation"`; `ACCOUNT_VIOLATION` with `"violation"`; or
//!   `DISABLED_UPDATE` with `"state"`: `DISABLE`, `SCHEDULE_FOR_DISABLE` or `REINSTATE`, which ends restrictions too.
//! * A template takes any of `"status"`, `"quality"`, `"category"` and `"components"`. A pause, by `PAUSED` or `RED`,
//!   lasts 3 hours, then 6, or `"for"`; the third one disables. A change of the category is announced `"in"` advance,
//!   if that is given.
//! * A line takes any of `"status"`, `"quality_rating"`, `"is_on_biz_app"` and `"messages_per_second"`. A higher rate
//!   is an upgrade, which takes a minute, or `"for"`.
//!
//! Nodes and pages accept `fields`. Pages also accept `limit` and `after`, and filter by `name`, `language`, `status`
//! and `category`, which apply only to templates.
//!
//! People answer messages as [`scenario::Replies`] says.
//!
//! A *run* lasts from a start or reset to the next reset. Updates for a webhook from an earlier run are dropped.
//!
//! Owns: all state, in memory only. If the process dies: all of it is lost, by design.
//! Never: connects to anything but the webhooks of its scenario; authenticates calls to `/sim`, so it belongs on a test
//! machine.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

mod account;
mod account_change;
mod announce;
mod behaviour;
mod blocks;
mod business;
mod checks;
mod clock;
mod contact_hours;
mod control;
mod courier;
mod delay;
mod delivery;
mod fault;
mod form;
mod free;
mod health;
mod inbound;
mod ledger;
mod line;
mod line_status;
mod live_line;
mod live_template;
mod management;
mod marketing;
mod media;
mod message;
mod nodes;
mod notice;
mod pacing;
mod payload;
mod pending;
mod people;
mod portfolio;
mod query;
mod recipient;
mod referee;
mod reply;
mod request;
mod requirements;
mod rule;
pub mod scenario;
mod send;
mod server;
pub mod template;
mod template_change;
mod timer;
mod transfer;
mod validate;
mod window;
mod wire;
mod world;

pub use behaviour::Change;
pub use delay::{BadDelay, Delay};
pub use ledger::{Ledger, Rates, States, Tally};
pub use message::MessageRecord;
pub use people::Replies;
pub use scenario::{Scenario, ScenarioError};

use crate::domain::UnixMs;
use world::{SharedWorld, World};

/// A running simulator. Cancelling its token stops it; dropping it does not.
pub struct Sim {
    world: SharedWorld,
    addr: SocketAddr,
}

impl Sim {
    /// Starts the simulator on the current runtime.
    ///
    /// Errors: [`SimError::Scenario`] if the scenario is invalid; [`SimError::Http`] if the HTTP client for webhooks
    /// cannot be built; [`SimError::Listen`] if the listener has no local address.
    pub async fn start(
        scenario: Scenario,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<Sim, SimError> {
        let addr = listener.local_addr().map_err(|error| SimError::Listen("the listener".into(), error))?;
        // reqwest needs a crypto provider even without TLS. An error means that one is installed already.
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

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A snapshot of all counts. Lines are read one after the other, so the snapshot is not atomic while requests
    /// arrive.
    pub fn ledger(&self) -> Ledger {
        self.world.ledger()
    }

    /// All accepted messages, by line, in order of acceptance.
    pub fn messages(&self) -> Vec<MessageRecord> {
        let lines = 0..self.world.lines.len();
        lines.flat_map(|line| self.world.messages(line, 0, u32::MAX)).collect()
    }

    /// Meta's ids of the messages that people have written.
    pub fn written(&self) -> Vec<String> {
        (0..self.world.lines.len()).flat_map(|line| self.world.written(line)).collect()
    }

    /// Resolves when no update is scheduled, in flight or waiting for a retry. Never resolves if the simulator was
    /// stopped with updates pending.
    pub async fn idle(&self) {
        self.world.counts.pending.drained().await;
    }

    /// The time on the simulator's clock.
    pub fn now(&self) -> UnixMs {
        self.world.clock.unix(self.world.clock.now())
    }

    /// The time of the next scheduled event, such as a response, an update or the end of a pause. `None` if nothing is
    /// scheduled.
    pub fn next_due(&self) -> Option<UnixMs> {
        self.world.clock.next_due().map(|due| self.world.clock.unix(due))
    }

    /// The number of updates that are being delivered. Excludes those that wait for their time or for a retry.
    pub fn updates_in_flight(&self) -> u64 {
        let couriers = self.world.wabas.iter().filter_map(|waba| waba.courier.as_ref());
        let waiting: u64 = couriers.map(|courier| lock(&courier.calendar).updates()).sum();
        self.world.counts.pending.updates().saturating_sub(waiting)
    }

    /// Advances the simulator's clock. Everything due in between starts in the order of its time. Resolves when all of
    /// it has started; updates may then still be on their way.
    pub async fn advance(&self, by: Duration) {
        self.world.clock.advance(by).await;
    }

    /// Resolves when the token was cancelled and all tasks have ended. Pending webhooks are lost.
    pub async fn stopped(self) {
        self.world.stop.cancelled().await;
        self.world.tasks.close();
        self.world.tasks.wait().await;
    }
}

/// Runs the simulator until SIGINT or SIGTERM: the implementation of `pregon sim`.
///
/// `scenario`: a name (`calm`, `rough`, `outage`, `week`) or the path of a TOML file. `webhook`: a URL in place of
/// those of the scenario. Prints one line with the address, the scenario and the seed once it listens.
///
/// Errors: as [`Sim::start`]; [`SimError::Read`] if the file cannot be read; [`SimError::Listen`] if the address
/// cannot be bound; [`SimError::Signal`] if signal handlers cannot be installed.
pub async fn run(scenario: &str, webhook: Option<&str>, listen: &str) -> Result<(), SimError> {
    let mut played = match Scenario::named(scenario) {
        Err(ScenarioError::Unknown(_)) if Path::new(scenario).exists() => {
            let text =
                tokio::fs::read_to_string(scenario).await.map_err(|error| SimError::Read(scenario.into(), error))?;
            Scenario::from_toml(&text)
        }
        named => named,
    }?;
    if let Some(url) = webhook {
        played.send_webhooks_to(url);
    }
    let seed = played.seed;
    let mut terminate = signal(SignalKind::terminate()).map_err(SimError::Signal)?;
    let listener = TcpListener::bind(listen).await.map_err(|error| SimError::Listen(listen.into(), error))?;
    let shutdown = CancellationToken::new();
    let sim = Sim::start(played, listener, shutdown.clone()).await?;
    println!("the simulator listens on http://{} (scenario {scenario}, seed {seed})", sim.addr());
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(SimError::Signal)?,
        _ = terminate.recv() => {}
    }
    shutdown.cancel();
    sim.stopped().await;
    Ok(())
}

/// Why the simulator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The scenario is invalid or does not exist.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The scenario file cannot be read.
    #[error("the scenario {0} cannot be read")]
    Read(String, #[source] std::io::Error),
    /// The address cannot be bound.
    #[error("cannot listen on {0}")]
    Listen(String, #[source] std::io::Error),
    /// The HTTP client for webhooks cannot be built.
    #[error("cannot build the HTTP client for webhooks")]
    Http(#[from] reqwest::Error),
    /// Signal handlers cannot be installed.
    #[error("cannot wait for signals")]
    Signal(#[source] std::io::Error),
}

/// Whole milliseconds.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Locks the mutex, ignoring poisoning. A panic cannot leave inconsistent data here, because every change under a lock
/// is a count or one insertion.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
