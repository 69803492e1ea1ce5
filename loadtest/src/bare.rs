//! The baseline of dispatch: a loop that only sends, the first program that anybody would write.
//!
//! Concurrent request streams share one client on a multi-threaded runtime. The loop builds the URL and headers of each
//! message and reads each response. It has no pacing, no Redis and no outcomes, so its ratio to dispatch shows the cost
//! of everything else that dispatch does. It runs in a process of its own, as the worker does.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Certificate;
use serde::{Deserialize, Serialize};

use super::measure;
use pregon::{client, terminal::out};

const BODY: &str = r#"{"messaging_product":"whatsapp","recipient_type":"individual","to":"+5491155550001","type":"template","template":{"name":"order_update","language":{"code":"es_AR"},"components":[{"type":"body","parameters":[{"type":"text","text":"María"},{"type":"text","text":"A-10"},{"type":"text","text":"3 de mayo"}]}]},"biz_opaque_callback_data":"p1.01J9ZK3V5T8R7Q6P5N4M3K2J1H.0.1.1.0123456789abcdef"}"#;

/// Options of the bare loop.
#[derive(clap::Args, Clone, Debug)]
pub struct BareOptions {
    /// The base URL of the fake Meta
    pub url: String,
    /// Messages to measure
    #[arg(long)]
    pub messages: u64,
    /// Messages before the measured ones, which open the connections
    #[arg(long)]
    pub warm_up: u64,
    /// Concurrent requests
    #[arg(long)]
    pub streams: usize,
    /// Number of lines to send on in turn, from 3001 on
    #[arg(long)]
    pub lines: u64,
    /// Trust only this certificate, and use HTTP/2
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// The measurement, printed as JSON.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sent {
    /// From the first measured request to the last response.
    pub took: Duration,
    /// CPU time of this process in that time.
    pub cpu: Duration,
}

/// Sends all messages, and prints a [`Sent`] to standard output.
///
/// Errors: a request failed, or its response has an error status.
pub async fn run(options: BareOptions) -> io::Result<()> {
    let client = match &options.ca {
        None => client::http().http1_only(),
        Some(ca) => {
            client::http().tls_certs_only(Certificate::from_pem_bundle(&fs::read(ca)?).map_err(io::Error::other)?)
        }
    };
    let client = client.pool_max_idle_per_host(options.streams).tcp_nodelay(true).build().map_err(io::Error::other)?;
    send(&client, &options, options.warm_up).await?;
    let (pid, began) = (std::process::id(), Instant::now());
    let before = measure::cpu(pid)?;
    send(&client, &options, options.messages).await?;
    out::json(&Sent { took: began.elapsed(), cpu: measure::cpu(pid)?.saturating_sub(before) })
}

async fn send(client: &reqwest::Client, options: &BareOptions, messages: u64) -> io::Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let streams: Vec<_> = (0..options.streams)
        .map(|_| tokio::spawn(stream(client.clone(), options.url.clone(), options.lines, next.clone(), messages)))
        .collect();
    for stream in streams {
        stream.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
    }
    Ok(())
}

async fn stream(
    client: reqwest::Client,
    url: String,
    lines: u64,
    next: Arc<AtomicU64>,
    messages: u64,
) -> reqwest::Result<()> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= messages {
            return Ok(());
        }
        let request = client
            .post(format!("{url}/v25.0/{}/messages", 3001 + number % lines))
            .bearer_auth("token")
            .header("content-type", "application/json");
        request.body(BODY).send().await?.error_for_status()?.bytes().await?;
    }
}
