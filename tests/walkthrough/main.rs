//! docs/walkthrough.md, run as it is written: its commands in a shell, what they print, and the alerts that it names. The
//! test is a binary of its own, so that nothing else runs beside it.
//!
//! The metrics of every process are recorded while it runs. At each **Fires** the present state lasts for some more
//! scrapes. In the end promtool evaluates the alerts and the dashboards on the recorded series, in which a scrape counts
//! as four minutes: so ten of them last longer than any alert waits.
//!
//! It needs sh, curl, openssl, python3 and redis-cli: `make examples-tools`. What promtool checks is skipped if there is
//! no promtool: `make package-check` fetches it.
#![allow(unreachable_pub, reason = "a test binary is a crate of its own, and has no callers")]

#[path = "../support/mod.rs"]
mod support;

mod document;
mod recording;
mod shell;

use std::{net::TcpListener, sync::Arc};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use self::{
    document::{Step, matches, steps},
    recording::Recording,
    shell::Shell,
};
use support::{seed, until};

/// The document's first port, and how many follow one another in the order of [`Ports::PORTS`].
struct Ports(u16);

impl Ports {
    /// The ports in the document, those of the metrics in a row, because a command counts them.
    const PORTS: [&str; 9] = ["6379", "8080", "8081", "8090", "9463", "9464", "9465", "9466", "9467"];

    /// Free ports below those that systems give to connections. None has a port of the document in its digits.
    fn free() -> Self {
        let mut random = StdRng::seed_from_u64(seed());
        let is_free = |port: u16| {
            let digits = port.to_string();
            Self::PORTS.iter().all(|port| !digits.contains(port)) && TcpListener::bind(("127.0.0.1", port)).is_ok()
        };
        let row = |first: u16| first..first + Self::PORTS.len() as u16;
        let tries = std::iter::repeat_with(|| random.random_range(12_000..32_000));
        Self(tries.take(100).find(|first| row(*first).all(is_free)).expect("free ports"))
    }

    /// The port that stands for `port`.
    fn of(&self, port: &str) -> u16 {
        self.0 + Self::PORTS.iter().position(|of| *of == port).expect("a port of the document") as u16
    }

    /// `text` with these ports.
    fn put(&self, text: &str) -> String {
        Self::PORTS.iter().fold(text.to_owned(), |text, port| text.replace(port, &self.of(port).to_string()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walkthrough_works_as_written() {
    let (dir, ports) = (tempfile::tempdir().expect("a directory"), Ports::free());
    // The options that the document names for other ports.
    let (listen, webhook) = (ports.of("8081"), ports.of("8080"));
    let sim = format!("pregon sim --listen 127.0.0.1:{listen} --webhook http://127.0.0.1:{webhook}/webhooks/meta ");
    // Somebody who copies commands needs a minute for what takes seconds here.
    let document = include_str!("../../docs/walkthrough.md").replace("9600", "2400").replace("9,600", "2,400");
    let document = ports.put(&document).replace("pregon sim ", &sim);
    let steps = steps(&document);
    assert!(steps.len() > 40, "{} steps", steps.len());

    let recording = Arc::new(Recording::default());
    let workers = (1..=4).map(|n| (n, ports.of("9463") + n)).collect();
    let scrapes = tokio::spawn(recording::record(recording.clone(), workers));
    let mut shell = Shell::start(dir.path(), &[("PREGON_SERVER", &format!("http://127.0.0.1:{}", ports.of("8080")))]);
    for step in steps {
        match step {
            Step::Run(commands) => {
                shell.run(&commands).await;
                if commands.contains("campaign watch") {
                    recording.show_dashboards();
                }
            }
            Step::Shows { commands, lines } => {
                let mut last = String::new();
                until(&format!("this is printed:\n{}\nby {commands}", lines.join("\n")), async || {
                    let printed = shell.try_run(&commands).await;
                    if printed != last {
                        println!("{commands}\n{printed}");
                        last.clone_from(&printed);
                    }
                    matches(&lines, &printed)
                })
                .await;
            }
            Step::Fires(alerts) => {
                let from = recording.len();
                until("the state has lasted", async || recording.len() > from + recording::LASTING).await;
                recording.expect(alerts);
            }
        }
    }
    scrapes.abort();
    recording.check(dir.path());
}
