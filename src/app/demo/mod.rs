//! `pregon demo`: the whole of Pregón in a minute, checked.
//!
//! A private Redis, the stand-in for Meta with the scenario `rough`, a server with all roles, and a campaign that comes
//! in by the public API. When everything has settled, what the statistics say is held against the ledger of the stand-in,
//! recipient by recipient: `verdict.rs`. Everything lives in a temporary folder and ends with the command.

mod verdict;

use std::{io, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    serve::{ServeError, Service},
    shutdown::Signals,
};
use crate::{
    client::{Client, ControlAction, NewCampaign, Statistics, TemplateName},
    config::{ApiKey, Config, Role, WabaConfig},
    domain::{CampaignId, LineId, Secret},
    intake::Format,
    sim::{Scenario, Sim},
    terminal::{CommandError, out, progress::CampaignProgress, watch},
};
use verdict::Verdict;

/// How long statuses may take to arrive after the last message was sent.
const STATUSES_WAIT: Duration = Duration::from_secs(60);

/// What a demonstration needs besides the defaults: short times, and every message of the lines for the campaign.
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

/// Runs the demonstration with a campaign of this many recipients. `json`: the verdict as JSON on standard output, and nothing else there.
///
/// Errors: [`CommandError::Reported`] where the statistics differ from the ledger.
pub async fn run(recipients: u32, json: bool) -> Result<(), CommandError> {
    let dir = tempdir()?;
    let ended = play(&dir, recipients, json).await;
    // What is left of a demonstration is of no use to anybody.
    let _ = std::fs::remove_dir_all(&dir);
    match ended? {
        true => Ok(()),
        false => Err(CommandError::Reported),
    }
}

async fn play(dir: &std::path::Path, recipients: u32, json: bool) -> Result<bool, CommandError> {
    let say = |text: &str| if json { Ok(()) } else { out::line(text) };
    let failed = |what: &str, error: &dyn std::fmt::Display| CommandError::Failed(format!("{what}: {error}"));

    // The server comes first, for the stand-in has to know where its webhooks go; and it needs the stand-in's address.
    let meta = TcpListener::bind("127.0.0.1:0").await?;
    let base_url = format!("http://{}", meta.local_addr()?);
    let mut scenario = Scenario::named("rough").map_err(|error| failed("scenario rough", &error))?;
    let key = Secret::new(format!("{:032x}", rand::random::<u128>()));
    let config = config(dir, &base_url, &scenario, &key)?;
    let listener = TcpListener::bind(config.http.listen).await?;
    let webhook_url = format!("http://{}/webhooks/meta", listener.local_addr()?);
    for waba in &mut scenario.wabas {
        waba.webhook
            .as_mut()
            .ok_or_else(|| CommandError::Failed("scenario rough has no webhook".into()))?
            .url
            .clone_from(&webhook_url);
    }
    let rates: Vec<(LineId, u32)> =
        scenario.lines.iter().map(|line| (line.id.as_str().into(), line.messages_per_second)).collect();
    let lines: Vec<LineId> = rates.iter().map(|(line, _)| line.clone()).collect();
    let stop_sim = CancellationToken::new();
    let sim =
        Sim::start(scenario, meta, stop_sim.clone()).await.map_err(|error| failed("the stand-in for Meta", &error))?;
    let roles = [Role::Api, Role::Webhook, Role::Dispatch];
    let service =
        Service::start_on(config, &roles, Some(listener)).await.map_err(|error: ServeError| failed("serve", &error))?;
    let server = service.http.map(|address| format!("http://{address}")).unwrap_or_default();
    say(&format!(
        "a private Redis, the stand-in for Meta ({base_url}, scenario rough) and a server ({server}) are up"
    ))?;

    let client = Client::new(server.parse().map_err(|error| failed("server", &error))?, Some(key), None)?;
    let shown = campaign(&client, &lines, recipients, json, &say).await;
    let verdict = match shown {
        Ok((id, statistics)) => Some(settle(&client, &sim, id, statistics, &rates, &say).await?),
        Err(failure) => {
            service.stop();
            let _ = service.wait(Signals::none()).await;
            return Err(failure);
        }
    };
    service.stop();
    service.wait(Signals::none()).await.map_err(|error| failed("the server did not end well", &error))?;
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

/// Submits the campaign and follows it to its end.
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
        start_at: None,
        expires_at: None,
        priority: None,
        on_doubt: None,
    };
    let created = submit(client, &new).await?;
    let uploaded = client.upload(created, "demo", &Format::Csv.into(), None, rows(recipients).into()).await?;
    say(&format!(
        "campaign {created}: {} recipients accepted, {} rejected",
        uploaded.accepted, uploaded.rejected_count
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
    Ok((created, ended?.statistics.unwrap_or_default()))
}

/// The templates are read from Meta just after the start: until then a submission is refused.
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

/// Waits until Meta has told everything, and compares.
async fn settle(
    client: &Client,
    sim: &Sim,
    id: CampaignId,
    before: Statistics,
    rates: &[(LineId, u32)],
    say: &impl Fn(&str) -> io::Result<()>,
) -> Result<Verdict, CommandError> {
    say("everything is sent; waiting for the last statuses")?;
    if tokio::time::timeout(STATUSES_WAIT, sim.idle()).await.is_err() {
        say("some statuses are still on their way after a minute")?;
    }
    let statistics = client.campaign(id).await?.statistics.unwrap_or(before);
    let mut report = Vec::new();
    let mut response = client.report(id).await?;
    while let Some(chunk) = client.chunk(&mut response).await? {
        report.extend_from_slice(&chunk);
    }
    let states = verdict::states(&report)?;
    Ok(Verdict::of(&statistics, &states, &sim.messages(), &sim.ledger(), rates))
}

fn config(dir: &std::path::Path, base_url: &str, scenario: &Scenario, key: &Secret) -> Result<Config, CommandError> {
    let text = format!("redis.url = \"spawn:{}\"\n{CONFIG}", dir.join("redis").display());
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
        });
    }
    for line in &scenario.lines {
        config.lines.push(crate::config::LineConfig {
            id: line.id.as_str().into(),
            waba: line.waba.as_str().into(),
            display: line.display_phone_number.clone(),
            name: line.verified_name.clone(),
            messages_per_second: f64::from(line.messages_per_second),
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
