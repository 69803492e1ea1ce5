//! `pregon campaign submit`: create, stream the recipients in, launch, follow.

use std::{path::Path, time::Duration};

use futures_util::TryStreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::Body;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    Failure,
    arguments::SubmitOptions,
    client::{Action, Client, ClientError, Created, NewCampaign, TemplateName, Uploaded},
    out,
    source::Source,
    table, watch, words,
};
use crate::domain::{CampaignId, CampaignState};

/// Rejected rows that are shown to people; programs get all that the server told.
const REJECTED_SHOWN_MAX: usize = 20;
/// Before an upload that was cut is sent again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What is printed for programs.
#[derive(Serialize)]
struct Submitted<'a> {
    id: CampaignId,
    state: CampaignState,
    #[serde(flatten)]
    uploaded: &'a Uploaded,
}

/// Submits a campaign as `options` say.
///
/// Errors: the file or an option is at fault, and nothing was created; a call failed; nothing was accepted.
pub async fn submit(client: &Client, options: SubmitOptions) -> Result<(), Failure> {
    let campaign = new_campaign(&options)?;
    let mut source = Source::open(&options.file, options.external_id.as_deref()).await?;
    let created = client.create(&campaign).await?;
    let (uploaded, state) = fill_and_launch(client, &created, &mut source, options.no_launch)
        .await
        .map_err(|failure| unfinished(&created, options.external_id.is_some(), &failure))?;
    let submitted = Submitted { id: created.id, state, uploaded: &uploaded };
    match options.output.json {
        true => out::json(&submitted)?,
        false => out::line(&text(&submitted, &campaign.name, &options))?,
    }
    if uploaded.accepted == 0 {
        return Err(Failure::Failed("no recipient was accepted, so nothing will be sent".into()));
    }
    if options.watch { watch::watch(client, created.id, options.output.json).await } else { Ok(()) }
}

fn new_campaign(options: &SubmitOptions) -> Result<NewCampaign, Failure> {
    Ok(NewCampaign {
        name: options.name.clone().unwrap_or_else(|| name_of(&options.file)),
        external_id: options.external_id.clone(),
        template: template(&options.template, options.language.as_deref())?,
        lines: options.lines.clone(),
        start_at: options.start_at,
        expires_at: options.expires_at,
        priority: options.priority,
        on_doubt: options.on_doubt.clone(),
    })
}

fn name_of(file: &Path) -> String {
    match file.file_stem() {
        Some(stem) if file.as_os_str() != "-" => stem.to_string_lossy().into_owned(),
        _ => "standard input".into(),
    }
}

/// `NAME/LANG`, or `NAME` with `language`.
fn template(text: &str, language: Option<&str>) -> Result<TemplateName, Failure> {
    let (name, own) = text.split_once('/').map_or((text, None), |(name, own)| (name, Some(own)));
    match (own, language) {
        (Some(own), Some(other)) if own != other => {
            Err(Failure::Usage(format!("--template {text} and --language {other} contradict each other")))
        }
        (Some(language), _) | (None, Some(language)) => {
            Ok(TemplateName { name: name.into(), language: language.into() })
        }
        (None, None) => {
            Err(Failure::Usage(format!("a template has a language: give --language es_AR, or --template {name}/es_AR")))
        }
    }
}

/// Gives what came of the upload, and the state in which the campaign is then.
async fn fill_and_launch(
    client: &Client,
    created: &Created,
    source: &mut Source,
    no_launch: bool,
) -> Result<(Uploaded, CampaignState), Failure> {
    let uploaded = upload(client, created.id, source).await?;
    // A campaign that was known by its external id may have been launched before.
    if uploaded.accepted == 0 || no_launch || created.state != CampaignState::Draft {
        return Ok((uploaded, created.state));
    }
    let launched = client.change_campaign(created.id, Action::Launch).await?;
    Ok((uploaded, launched.state))
}

/// Streams the recipients in. A connection that breaks is made anew, once; the server goes on where the first was cut.
async fn upload(client: &Client, id: CampaignId, source: &mut Source) -> Result<Uploaded, Failure> {
    let bar = upload_bar(source.bytes);
    let mut broken: Option<ClientError> = None;
    while let Some(rows) = source.stream().await? {
        bar.reset();
        let counter = bar.clone();
        let rows = Body::wrap_stream(rows.inspect_ok(move |chunk| counter.inc(chunk.len() as u64)));
        match client.upload(id, &source.upload_id, source.format, rows).await {
            Err(error) if error.is_of_connection() && broken.is_none() => {
                broken = Some(error);
                sleep(RETRY_PAUSE).await;
            }
            ended => {
                bar.finish_and_clear();
                return Ok(ended?);
            }
        }
    }
    bar.finish_and_clear();
    Err(broken.expect("every source can be streamed once, and only a broken connection leads here").into())
}

/// On a terminal, by bytes. Standard output is left to the result.
fn upload_bar(bytes: Option<u64>) -> ProgressBar {
    let template = match bytes {
        Some(_) => "{wide_bar} {bytes} of {total_bytes} · {bytes_per_sec} · {eta} left",
        None => "{spinner} {bytes} · {bytes_per_sec}",
    };
    ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr())
        .with_style(ProgressStyle::with_template(template).expect("the templates above are good"))
}

/// The same failure, with what became of the campaign.
fn unfinished(created: &Created, by_external_id: bool, failure: &Failure) -> Failure {
    let remedy = match by_external_id {
        true => "the same command again goes on where this one stopped".to_owned(),
        false => format!("`pregon campaign cancel {}` puts it away", created.id),
    };
    Failure::Failed(format!(
        "{failure}\ncampaign {} is {}, with the recipients that were accepted until then: {remedy}",
        created.id, created.state
    ))
}

fn text(submitted: &Submitted<'_>, name: &str, options: &SubmitOptions) -> String {
    let Submitted { id, state, uploaded: Uploaded { accepted, rejected_count, rejected } } = submitted;
    let (accepted, refused) = (words::count(*accepted), words::count(*rejected_count));
    let mut text = format!("campaign {id} “{name}” is {state}: {accepted} accepted, {refused} rejected");
    let shown = &rejected[..rejected.len().min(REJECTED_SHOWN_MAX)];
    if !shown.is_empty() {
        text += &format!("\n\n{}\n", table::rejections(shown));
    }
    if *rejected_count > shown.len() as u64 {
        text += &format!("\nThese are the first {}; with --json it is the first 1,000.", shown.len());
    }
    if !options.watch && submitted.uploaded.accepted > 0 {
        text += &format!("\nfollow it: pregon campaign watch {id}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_a_name_and_one_language() {
        let told = |text, language| template(text, language).map(|t| format!("{} {}", t.name, t.language)).ok();
        assert_eq!(told("spring_sale", Some("es_AR")).as_deref(), Some("spring_sale es_AR"));
        assert_eq!(told("spring_sale/es_AR", None).as_deref(), Some("spring_sale es_AR"));
        assert_eq!(told("spring_sale/es_AR", Some("es_AR")).as_deref(), Some("spring_sale es_AR"));
        assert_eq!(told("spring_sale/es_AR", Some("en")), None);
        assert_eq!(told("spring_sale", None), None);
    }

    #[test]
    fn a_campaign_is_called_as_its_file() {
        assert_eq!(name_of(Path::new("lists/spring sale.csv")), "spring sale");
        assert_eq!(name_of(Path::new("-")), "standard input");
    }
}
