//! `pregon demo`: runs one campaign through all of Pregón, answers the people who reply, and checks the result.
//!
//! Starts a private Redis and PostgreSQL, the simulator with the scenario `rough` and a server with all roles, and submits
//! a campaign through the public API. Some people answer, and `agent.rs` answers them. When every recipient is settled,
//! `verdict.rs` compares the statistics with the simulator's ledger, recipient by recipient, and the chats with what
//! people wrote and got. Without PostgreSQL there are no chats. All data is in a temporary folder, which is deleted at the
//! end.

mod agent;
mod verdict;

use std::{io, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    serve::{ServeError, Service},
    shutdown::Signals,
};
use crate::{
    api_types::{NewCampaign, Statistics, TemplateName},
    client::{Client, ControlAction},
    config::{ApiKey, Config, Role, WabaConfig},
    domain::{CampaignId, LineId, Secret},
    intake::Format,
    postgres,
    sim::{Replies, Scenario, Sim},
    terminal::{CommandError, out, progress::CampaignProgress, watch, words},
};
use verdict::Verdict;

/// How long to wait for statuses after the last message was sent.
const STATUSES_WAIT: Duration = Duration::from_secs(60);

/// Differences from the default configuration: short timeouts, and no headroom, so that the campaign may use the whole
/// rate of the lines.
const CONFIG: &str = r#"
id_retention = "1d"
[http]
listen = "127.0.0.1:0"
[ops]
listen = "127.0.0.1:0"
[graph]
timeout = "4s"
connect_timeout = "2s"
[dispatch]
headroom = 0.0
doubt_deadline = "8s"
[dispatch.retry]
initial = "500ms"
max = "4s"
attempts = 10
[[business]]
id = "1001"
"#;

/// Runs the demonstration with a campaign of `recipients` recipients. With `json`, the verdict as JSON is the only
/// output.
///
/// Errors: [`CommandError::Reported`] if the verdict is not good, see `Verdict::is_good`.
pub async fn run(recipients: u32, json: bool) -> Result<(), CommandError> {
    let dir = tempdir()?;
    let ended = play(&dir, recipients, json).await;
    // Best effort: a leftover folder does not change the verdict.
    let _ = std::fs::remove_dir_all(&dir);
    match ended? {
        true => Ok(()),
        false => Err(CommandError::Reported),
    }
}

async fn play(dir: &std::path::Path, recipients: u32, json: bool) -> Result<bool, CommandError> {
    let say = |text: &str| if json { Ok(()) } else { out::line(text) };
    let failed = |what: &str, error: &dyn std::fmt::Display| CommandError::Failed(format!("{what}: {error}"));

    // Both listeners are bound before either side starts: the server needs the simulator's address, and the simulator
    // needs the server's address for its webhooks.
    let meta = TcpListener::bind("127.0.0.1:0").await?;
    let base_url = format!("http://{}", meta.local_addr()?);
    let mut scenario = Scenario::named("rough").map_err(|error| failed("scenario rough", &error))?;
    let has_chats = postgres::spawn::is_installed();
    if has_chats {
        scenario.replies = Replies { tap: scenario.replies.tap, after: scenario.replies.after, ..people_who_answer() };
    }
    let key = Secret::new(format!("{:032x}", rand::random::<u128>()));
    let config = config(dir, &base_url, &scenario, &key, has_chats)?;
    let listener = TcpListener::bind(config.http.listen).await?;
    let webhook_url = format!("http://{}/webhooks/meta", listener.local_addr()?);
    scenario.send_webhooks_to(&webhook_url);
    let rates: Vec<(LineId, u32)> =
        scenario.lines.iter().map(|line| (line.id.as_str().into(), line.messages_per_second)).collect();
    let lines: Vec<LineId> = rates.iter().map(|(line, _)| line.clone()).collect();
    let stop_sim = CancellationToken::new();
    let sim = Sim::start(scenario, meta, stop_sim.clone()).await.map_err(|error| failed("the simulator", &error))?;
    let mut roles = vec![Role::Api, Role::Webhook, Role::Dispatch];
    roles.extend(has_chats.then_some(Role::Engage));
    let service =
        Service::start_on(config, &roles, Some(listener)).await.map_err(|error: ServeError| failed("serve", &error))?;
    let server = service.http.map(|address| format!("http://{address}")).unwrap_or_default();
    let servers = if has_chats { "a private Redis and PostgreSQL" } else { "a private Redis" };
    say(&format!("{servers}, the simulator of Meta ({base_url}, scenario rough) and a server ({server}) are running"))?;
    if !has_chats {
        say("PostgreSQL is not installed (make postgres), so nobody answers")?;
    }

    let client = Client::new(server.parse().map_err(|error| failed("server", &error))?, Some(key), None)?;
    let shown = campaign(&client, &lines, recipients, json, &say).await;
    let verdict = match shown {
        Ok((id, statistics)) => Some(settle(&client, &sim, (id, statistics), &rates, has_chats, &say).await?),
        Err(failure) => {
            service.stop();
            let _ = service.wait(Signals::none()).await;
            return Err(failure);
        }
    };
    service.stop();
    service.wait(Signals::none()).await.map_err(|error| failed("the server did not stop cleanly", &error))?;
    stop_sim.cancel();
    sim.stopped().await;
    let Some(verdict) = verdict else { return Ok(false) };
    if json {
        out::json(&verdict)?;
    } else {
        out::line(&verdict.table())?;
    }
    Ok(verdict.is_good())
}

/// Submits the campaign and follows it until it is over.
async fn campaign(
    client: &Client,
    lines: &[LineId],
    recipients: u32,
    json: bool,
    say: &impl Fn(&str) -> io::Result<()>,
) -> Result<(CampaignId, Statistics), CommandError> {
    let new = NewCampaign {
        name: "demo".into(),
        external_id: Some("demo".into()),
        template: TemplateName { name: "order_update".into(), language: "es_AR".into() },
        lines: lines.to_vec(),
        ..NewCampaign::default()
    };
    let created = submit(client, &new).await?;
    let uploaded = client.upload(created, "demo", &Format::Csv.into(), None, rows(recipients).into()).await?;
    say(&format!(
        "campaign {created}: {} accepted, {} rejected",
        words::counted(uploaded.accepted, "recipient"),
        words::count(uploaded.rejected_count)
    ))?;
    client.change_campaign(created, ControlAction::Launch).await?;
    let mut view = (!json).then(|| CampaignProgress::new(recipients.into()));
    let ended = watch::follow(client, created, |statistics| match &mut view {
        Some(view) => Ok(view.update(statistics)?),
        None => Ok(()),
    })
    .await;
    if let Some(view) = view {
        view.finish()?;
    }
    Ok((created, ended?.statistics.clone().unwrap_or_default()))
}

/// Retries the submission for up to 5 s: the server refuses it until it has read the templates from Meta.
async fn submit(client: &Client, new: &NewCampaign) -> Result<CampaignId, CommandError> {
    let mut tries = 0;
    loop {
        match client.create(new).await {
            Ok(created) => return Ok(created.id),
            Err(error) if tries == 50 => return Err(error.into()),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the simulator has delivered its statuses, and compares.
async fn settle(
    client: &Client,
    sim: &Sim,
    (id, before): (CampaignId, Statistics),
    rates: &[(LineId, u32)],
    has_chats: bool,
    say: &impl Fn(&str) -> io::Result<()>,
) -> Result<Verdict, CommandError> {
    let mut conversations = None;
    if has_chats {
        say("all messages are sent; an agent answers the people who have replied")?;
        conversations = Some(agent::converse(client, sim).await?);
    }
    say("waiting for the last statuses")?;
    if tokio::time::timeout(STATUSES_WAIT, sim.idle()).await.is_err() {
        say("some statuses are still on their way after a minute")?;
    }
    let statistics = client.campaign(id).await?.statistics.clone().unwrap_or(before);
    let mut report = Vec::new();
    let mut response = client.report(id).await?;
    while let Some(chunk) = client.chunk(&mut response).await? {
        report.extend_from_slice(&chunk);
    }
    let states = verdict::states(&report)?;
    let mut verdict = Verdict::of(&statistics, &states, &sim.messages(), &sim.ledger(), rates);
    verdict.conversations = conversations;
    Ok(verdict)
}

/// A few people answer in words, with files and with reactions, some of them twice, and answer the agent once.
fn people_who_answer() -> Replies {
    Replies { text: 0.03, media: 0.005, reaction: 0.01, twice: 0.2, conversation: 1, ..Replies::default() }
}

fn config(
    dir: &std::path::Path,
    base_url: &str,
    scenario: &Scenario,
    key: &Secret,
    has_chats: bool,
) -> Result<Config, CommandError> {
    let mut text = format!("redis.url = \"spawn:{}\"\n", dir.join("redis").display());
    if has_chats {
        text.push_str(&format!("database.url = \"spawn:{}\"\n", dir.join("postgres").display()));
    }
    text.push_str(CONFIG);
    let mut config = Config::from_toml(&text).map_err(|error| CommandError::Failed(error.to_string()))?;
    config.graph.base_url = base_url.to_owned();
    config.http.api_keys = vec![ApiKey::new("demo", key)];
    config.webhook.verify_token = Some(Secret::new("demo"));
    for waba in &scenario.wabas {
        config.webhook.app_secret = waba.webhook.as_ref().map(|webhook| Secret::new(webhook.app_secret.clone()));
        config.wabas.push(WabaConfig {
            id: waba.id.as_str().into(),
            business: config.businesses[0].id.clone(),
            access_token: Secret::new(waba.token.clone()),
            marketing_api: waba.marketing_api_only,
        });
    }
    for line in &scenario.lines {
        config.lines.push(crate::config::LineConfig {
            id: line.id.as_str().into(),
            waba: line.waba.as_str().into(),
            display: line.display_phone_number.clone(),
            name: line.verified_name.clone(),
            messages_per_second: Some(f64::from(line.messages_per_second)),
            warm_up: Arc::default(),
        });
    }
    Ok(config)
}

/// The recipients, as a CSV file.
fn rows(recipients: u32) -> Vec<u8> {
    let mut csv = String::from("to,1,2\n");
    for n in 0..recipients {
        csv.push_str(&format!("+54911{:08},Cliente {n},A-{n}\n", 40_000_000 + n));
    }
    csv.into_bytes()
}

fn tempdir() -> io::Result<std::path::PathBuf> {
    let dir = std::env::temp_dir().join(format!("pregon-demo-{:08x}", rand::random::<u32>()));
    std::fs::create_dir(&dir)?;
    Ok(dir)
}
