//! Promise 3 over a link with a round trip of 150 or 300 ms, as to Meta: on new connections, after connections were
//! closed while the line was idle, and when responses are lost.

use std::time::Duration;

use serde_json::json;

use crate::{
    ONE_AT_A_TIME,
    support::{
        self,
        hostile::{Arrival, rate, worst_second},
        link::{FarMeta, FarOptions},
        redis::TestRedis,
        server::{Api, Installation, Server},
    },
};

const NEAR: Duration = Duration::from_millis(75);
const FAR: Duration = Duration::from_millis(150);
const NUMBERS: u64 = 5_491_160_000_000;

/// A server with these lines and rates, whose fake Meta is at the end of a slow link.
struct Linked {
    meta: FarMeta,
    lines: Vec<(String, f64)>,
    api: Api,
    next: u64,
    _server: Server,
    _redis: TestRedis,
}

impl Linked {
    async fn start(options: FarOptions, rates: &[f64]) -> Self {
        let redis = TestRedis::start().await;
        let meta = FarMeta::start(options);
        let lines: Vec<(String, f64)> =
            rates.iter().zip(3_001..).map(|(rate, line): (_, u32)| (line.to_string(), *rate)).collect();
        let named: Vec<(&str, f64)> = lines.iter().map(|(line, rate)| (line.as_str(), *rate)).collect();
        let installation = Installation::new(&redis, &meta.url(), &named, "doubt_deadline = \"6s\"");
        let server = installation.serve_with("all", "api,webhook,dispatch", &meta.environment()).await;
        Self { meta, lines, api: server.api(), next: NUMBERS, _server: server, _redis: redis }
    }

    /// Makes each line send for this many seconds at its rate. Returns the arrivals at Meta.
    async fn send(&mut self, seconds: f64) -> Vec<Arrival> {
        let before = self.meta.messages();
        let mut all = 0;
        for (line, rate) in &self.lines {
            let n = (seconds * rate) as u64;
            self.api.campaign(&[line.as_str()], self.next..self.next + n, json!({})).await;
            self.next += n;
            all += n as usize;
        }
        support::until("all is sent", async || self.meta.messages() >= before + all).await;
        self.meta.arrivals().split_off(before)
    }

    fn assert_rate_limits(&self) {
        let arrivals = self.meta.arrivals();
        for (line, rate) in &self.lines {
            let (worst, most) = (worst_second(&arrivals, line), rate + 1.0 + rate * 0.02);
            println!("line {line} of {rate} a second: {worst} in the worst second");
            assert!(worst as f64 <= most, "line {line} of {rate} a second had {worst} messages in a second");
        }
    }

    /// Checks that all lines reach 95 % of their rates together in at least one of several rounds: a worker sends less
    /// while the machine does not let it run. The first four seconds do not count, because a line does not have all its
    /// connections and slots yet.
    async fn assert_rate_is_used(&mut self) {
        const ROUNDS: u32 = 4;
        for round in 1..=ROUNDS {
            let sent = self.send(7.0).await;
            let warm = sent.first().expect("messages").earliest + Duration::from_secs(4);
            let sent: Vec<Arrival> = sent.into_iter().filter(|arrival| arrival.earliest > warm).collect();
            let used = self.lines.iter().map(|(line, full)| rate(&sent, line) / full);
            let used = used.fold(f64::INFINITY, f64::min);
            println!("round {round}: every line used to {:.1} %", used * 100.0);
            if used >= 0.95 {
                return;
            }
        }
        panic!("not used to 95 % in any of {ROUNDS} rounds");
    }

    /// Closes the idle connections, and waits until the worker has noticed.
    async fn idle_until_disconnected(&self) {
        self.meta.hang_up();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Sends, idles until the connections are closed, and sends again.
async fn starts_and_resumes(options: FarOptions, rates: &[f64]) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut linked = Linked::start(options, rates).await;
    linked.assert_rate_is_used().await;
    linked.idle_until_disconnected().await;
    linked.send(2.0).await;
    linked.assert_rate_limits();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_starts_and_resumes_without_a_burst_over_http2() {
    starts_and_resumes(FarOptions { http2: true, delay: FAR, lost_every: 0 }, &[20.0, 80.0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_starts_and_resumes_without_a_burst_over_http1() {
    starts_and_resumes(FarOptions { http2: false, delay: FAR, lost_every: 0 }, &[20.0, 80.0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_lines_start_and_resume_without_a_burst() {
    for http2 in [true, false] {
        starts_and_resumes(FarOptions { http2, delay: NEAR, lost_every: 0 }, &[100.0; 8]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_responses_cause_no_burst() {
    for http2 in [true, false] {
        let _alone = ONE_AT_A_TIME.lock().await;
        let mut linked = Linked::start(FarOptions { http2, delay: FAR, lost_every: 40 }, &[80.0]).await;
        linked.send(8.0).await;
        linked.assert_rate_limits();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn an_idle_period_of_25_seconds_causes_no_burst() {
    for http2 in [true, false] {
        let _alone = ONE_AT_A_TIME.lock().await;
        let mut linked = Linked::start(FarOptions { http2, delay: FAR, lost_every: 0 }, &[20.0, 80.0]).await;
        linked.send(3.0).await;
        tokio::time::sleep(Duration::from_secs(25)).await;
        linked.send(3.0).await;
        linked.assert_rate_limits();
    }
}
