//! Code shared by the queues in Rust: the recipients, their messages, the client that sends them, and the stopwatch.

use std::{
    env, fs, io, iter,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// The same allocator as Pregón and the bare loop.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Number of jobs that one call puts on the queue.
const BATCH: usize = 1_000;

/// The command line of a queue's program. `socket` is the Unix socket of Redis.
pub enum Call {
    /// Put one job for each recipient on the queue.
    Enqueue { socket: String },
    /// Run jobs until `n` of them are done. `url` is the base URL of the fake Meta.
    Work { socket: String, n: u64, url: String, settings: String },
}

impl Call {
    /// Parses the arguments of this program. `peer` is its name, for the usage text.
    pub fn read(peer: &str) -> Self {
        let args: Vec<String> = env::args().skip(1).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match args[..] {
            ["enqueue", socket] => Self::Enqueue { socket: socket.into() },
            ["work", socket, n, url, settings] => {
                let n = n.parse().expect("a number");
                Self::Work { socket: socket.into(), n, url: url.into(), settings: settings.into() }
            }
            _ => panic!("usage: {peer} enqueue SOCKET | work SOCKET N URL SETTINGS"),
        }
    }
}

/// The contents of a job: only the values that differ between messages.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Recipient {
    to: String,
    values: [String; 3],
}

/// Reads the recipients from a CSV on standard input, in batches of up to `BATCH`.
pub fn batches() -> impl Iterator<Item = Vec<Recipient>> {
    let mut rows = io::stdin().lines().skip(1).map(|row| {
        let row = row.expect("a row of text");
        let mut cells = row.split(',').map(str::to_owned);
        let mut cell = || cells.next().expect("four columns");
        Recipient { to: cell(), values: [cell(), cell(), cell()] }
    });
    iter::from_fn(move || Some(rows.by_ref().take(BATCH).collect::<Vec<_>>()).filter(|batch| !batch.is_empty()))
}

#[derive(Serialize)]
struct Message<'a> {
    messaging_product: &'a str,
    recipient_type: &'a str,
    to: &'a str,
    r#type: &'a str,
    template: Template<'a>,
    biz_opaque_callback_data: &'a str,
}

#[derive(Serialize)]
struct Template<'a> {
    name: &'a str,
    language: Language<'a>,
    components: [Component<'a>; 1],
}

#[derive(Serialize)]
struct Language<'a> {
    code: &'a str,
}

#[derive(Serialize)]
struct Component<'a> {
    r#type: &'a str,
    parameters: [Parameter<'a>; 3],
}

#[derive(Serialize)]
struct Parameter<'a> {
    r#type: &'a str,
    text: &'a str,
}

impl Recipient {
    fn message<'a>(&'a self, token: &'a str) -> Message<'a> {
        Message {
            messaging_product: "whatsapp",
            recipient_type: "individual",
            to: &self.to,
            r#type: "template",
            template: Template {
                name: "order_update",
                language: Language { code: "es_AR" },
                components: [Component {
                    r#type: "body",
                    parameters: self.values.each_ref().map(|text| Parameter { r#type: "text", text }),
                }],
            },
            biz_opaque_callback_data: token,
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    messages: [Accepted; 1],
}

#[derive(Deserialize)]
struct Accepted {
    id: String,
}

/// Sends messages to the fake Meta.
#[derive(Clone)]
pub struct Sender {
    client: reqwest::Client,
    url: String,
}

impl Sender {
    /// Create one for all workers of a process, so that they share its connections.
    pub fn new(base: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { client, url: format!("{base}/v25.0/3001/messages") }
    }

    /// Sends one message. Returns the message id.
    pub async fn send(&self, recipient: &Recipient) -> reqwest::Result<String> {
        let token = format!("p1.01J9ZK3V5T8R7Q6P5N4M3K2J1H.0.{}.1.0123456789abcdef", &recipient.to[6..]);
        let request = self.client.post(&self.url).bearer_auth("token").json(&recipient.message(&token));
        let answer: Answer = request.send().await?.error_for_status()?.json().await?;
        let [Accepted { id }] = answer.messages;
        Ok(id)
    }
}

/// Measures elapsed time and CPU time from the start of the workers.
pub struct Stopwatch {
    began: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// Starts the measurement.
    pub fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu() }
    }

    /// Prints elapsed seconds and microseconds of CPU time of this process, in the form that `compare.sh` reads.
    pub fn print(self) {
        println!("{:.6} {}", self.began.elapsed().as_secs_f64(), (cpu() - self.cpu).as_micros());
    }
}

/// CPU time of this process so far, user and system, with a resolution of 10 ms.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = stat.rsplit_once(") ").expect("the name is in parentheses");
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(10 * ticks)
}
