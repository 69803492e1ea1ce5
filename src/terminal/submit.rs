//! `pregon campaign submit`: creates a campaign, uploads its recipients, launches it, and follows it on request.

use std::{io, path::Path};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    CommandError,
    arguments::SubmitOptions,
    out,
    source::{Source, uncompressed},
    upload, watch, words,
};
use crate::{
    api_types::{NewCampaign, TemplateName, UploadResult},
    client::{Client, ClientError, ControlAction, Created},
    domain::{CampaignId, CampaignState, GroupId, LineId, campaign::ReplyRoute},
    intake::UploadLayout,
};

/// The output with `--json`.
#[derive(Serialize)]
struct Submitted<'a> {
    id: CampaignId,
    state: CampaignState,
    /// False if a campaign with the external id already existed.
    created: bool,
    #[serde(flatten)]
    uploaded: &'a UploadResult,
}

/// The origin of the campaign's external id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExternalId {
    /// The caller's `--external-id`.
    Given,
    /// Derived from the template, the lines and the content of the file.
    Derived,
    /// No external id: each submission is a new campaign.
    None,
}

impl ExternalId {
    fn of(options: &SubmitOptions) -> Self {
        match (&options.external_id, options.again) {
            (Some(_), _) => ExternalId::Given,
            (None, false) => ExternalId::Derived,
            (None, true) => ExternalId::None,
        }
    }
}

/// Submits a campaign according to `options`.
///
/// Errors: the file or an option is invalid, and nothing was created; a call failed; no recipient was accepted; the
/// campaign was not launched because of rejected rows; it was submitted before and is cancelled.
pub async fn submit(client: &Client, options: SubmitOptions) -> Result<(), CommandError> {
    let template = template(&options.template, options.language.as_deref())?;
    let source = Source::open(&options.file).await?;
    if options.dry_run {
        return dry_run(client, template, &source, &options).await;
    }
    let origin = ExternalId::of(&options);
    let campaign = new_campaign(&options, template, &source, origin);
    let created = client.create(&campaign).await.map_err(|error| not_created(error, origin))?;
    // Same template, lines and file, and launched before: the campaign already has every recipient of the file.
    let repeated = origin == ExternalId::Derived && created.state != CampaignState::Draft;
    let is_cancelled = created.state == CampaignState::Cancelled;
    let (uploaded, state) = match repeated || is_cancelled {
        true => (UploadResult::default(), created.state),
        false => match fill_and_launch(client, &created, &source, &options).await {
            Ok(filled) => filled,
            Err(failure) => return Err(unfinished(client, &created, origin, failure).await),
        },
    };
    let submitted = Submitted { id: created.id, state, created: created.created, uploaded: &uploaded };
    match options.output.json {
        true => out::json(&submitted)?,
        false if is_cancelled => {}
        false if repeated => out::line(&format!(
            "campaign {} “{}” was submitted before and is {state}: nothing was sent again; --again submits it as a new \
             campaign",
            created.id, campaign.name
        ))?,
        false => out::line(&text(&submitted, created.state, &campaign.name, &options))?,
    }
    if is_cancelled {
        let whose = if origin == ExternalId::Derived { "of this file" } else { "with this external id" };
        return Err(CommandError::Failed(format!(
            "the campaign {whose}, {} “{}”, is cancelled, so nothing is sent: {}",
            created.id,
            campaign.name,
            remedy_of_ended(origin)
        )));
    }
    if uploaded.accepted == 0 && !repeated {
        return Err(CommandError::Failed("no recipient was accepted, so nothing will be sent".into()));
    }
    if let Some(why) = upload::shortfall(&uploaded, options.max_rejected).filter(|_| state == CampaignState::Draft) {
        return Err(CommandError::Failed(format!(
            "{why}: nothing is sent, and campaign {id} stays a draft; delete it with `pregon campaign delete {id}`, \
             correct the file and submit it again",
            id = created.id
        )));
    }
    if options.watch { watch::watch(client, created.id, options.output.json).await } else { Ok(()) }
}

/// The output of a dry run with `--json`.
#[derive(Serialize)]
struct Checked<'a> {
    dry_run: bool,
    #[serde(flatten)]
    uploaded: &'a UploadResult,
}

/// Uploads the recipients into a temporary draft and deletes it, even if the upload fails or is interrupted.
async fn dry_run(
    client: &Client,
    template: TemplateName,
    source: &Source,
    options: &SubmitOptions,
) -> Result<(), CommandError> {
    // From here on a signal no longer ends the process at once, so that the draft can be deleted first.
    let mut interruptions = Interruptions::new()?;
    let created = client.create(&new_campaign(options, template, source, ExternalId::None)).await?;
    let layout = UploadLayout { format: source.format, ignored: options.ignore.clone() };
    let uploaded = tokio::select! {
        uploaded = upload(client, created.id, source, &layout) => uploaded,
        () = interruptions.next() => Err(CommandError::Failed("interrupted before the whole file was checked".into())),
    };
    let deleted = tokio::select! {
        deleted = client.delete_campaign(created.id) => deleted.map_err(|error| error.to_string()),
        () = interruptions.next() => Err("interrupted".into()),
    };
    if let Err(error) = deleted {
        eprintln!(
            "pregon: the draft {id} of this check could not be deleted ({error}): delete it with \
             `pregon campaign delete {id}`",
            id = created.id
        );
    }
    let uploaded = uploaded?;
    match options.output.json {
        true => out::json(&Checked { dry_run: true, uploaded: &uploaded })?,
        false => {
            let [accepted, refused] = [uploaded.accepted, uploaded.rejected_count].map(words::count);
            let summary = format!("nothing was sent: {accepted} would be accepted, {refused} rejected");
            out::line(&(summary + &upload::rejections(&uploaded)))?;
        }
    }
    if uploaded.accepted == 0 {
        return Err(CommandError::Failed("no recipient would be accepted".into()));
    }
    upload::shortfall(&uploaded, options.max_rejected).map_or(Ok(()), |why| Err(CommandError::Failed(why)))
}

/// Receives SIGINT and SIGTERM. From then on, these signals do not end the process by themselves.
struct Interruptions {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruptions {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn new_campaign(options: &SubmitOptions, template: TemplateName, source: &Source, origin: ExternalId) -> NewCampaign {
    let external_id = match origin {
        ExternalId::Given | ExternalId::None => options.external_id.clone(),
        ExternalId::Derived => Some(derived_id(&template, &options.lines, source)),
    };
    NewCampaign {
        name: options.name.clone().unwrap_or_else(|| name_of(&options.file)),
        external_id,
        template,
        lines: options.lines.clone(),
        start_at: options.start_at,
        expires_at: options.expires_at,
        priority: options.priority,
        rate: options.rate,
        send_window: options.send_window.clone(),
        late: options.late.unwrap_or_default(),
        on_doubt: options.on_doubt.unwrap_or_default(),
        on_withheld: options.on_withheld.unwrap_or_default(),
        opt_out_buttons: options.opt_out_buttons.clone(),
        frequency_cap: options.frequency_cap,
        reply: reply(options),
        ..NewCampaign::default()
    }
}

/// What answers do, if the options say.
fn reply(options: &SubmitOptions) -> Option<ReplyRoute> {
    let route = ReplyRoute {
        group: options.reply_group.as_deref().map(GroupId::from),
        tags: options.reply_tags.iter().map(|tag| tag.as_str().into()).collect(),
    };
    (route != ReplyRoute::default()).then_some(route)
}

/// The external id of a campaign that was submitted without one.
fn derived_id(template: &TemplateName, lines: &[LineId], source: &Source) -> String {
    let mut lines: Vec<&str> = lines.iter().map(LineId::as_str).collect();
    lines.sort_unstable();
    // The server accepts both `es-AR` and `es_AR`: the id must not depend on the spelling.
    let language = template.language.replace('-', "_");
    let named = [&template.name, &language, &lines.join(","), &source.digest].map(String::as_str).join("\n");
    format!("file:{}", hex::encode(Sha256::digest(named)))
}

/// `error`, with a hint if the derived id is the cause: the user never saw that id.
fn not_created(error: ClientError, origin: ExternalId) -> CommandError {
    match &error {
        ClientError::Refused { problem, .. } if origin == ExternalId::Derived && problem.is("campaign-conflict") => {
            CommandError::Failed(format!(
                "{error}\nthe same file was submitted before; --again submits it as a new campaign"
            ))
        }
        _ => error.into(),
    }
}

fn name_of(file: &Path) -> String {
    match uncompressed(file).0.file_stem() {
        Some(stem) if file.as_os_str() != "-" => stem.to_string_lossy().into_owned(),
        _ => "standard input".into(),
    }
}

/// `NAME/LANG`, or `NAME` with `language`.
fn template(text: &str, language: Option<&str>) -> Result<TemplateName, CommandError> {
    let (name, own) = text.split_once('/').map_or((text, None), |(name, own)| (name, Some(own)));
    match (own, language) {
        (Some(own), Some(other)) if own != other => {
            Err(CommandError::Usage(format!("--template {text} and --language {other} contradict each other")))
        }
        (Some(language), _) | (None, Some(language)) => {
            Ok(TemplateName { name: name.into(), language: language.into() })
        }
        (None, None) => Err(CommandError::Usage(format!(
            "a template has a language: give --language es_AR, or --template {name}/es_AR"
        ))),
    }
}

/// Uploads the recipients, and launches the campaign unless it must stay a draft or was launched before. Returns the
/// result of the upload and the state of the campaign.
async fn fill_and_launch(
    client: &Client,
    created: &Created,
    source: &Source,
    options: &SubmitOptions,
) -> Result<(UploadResult, CampaignState), CommandError> {
    let layout = UploadLayout { format: source.format, ignored: options.ignore.clone() };
    let uploaded = upload(client, created.id, source, &layout).await?;
    // A campaign that already existed under its external id may have been launched before.
    if uploaded.accepted == 0
        || options.no_launch
        || upload::shortfall(&uploaded, options.max_rejected).is_some()
        || created.state != CampaignState::Draft
    {
        return Ok((uploaded, created.state));
    }
    let launched = client.change_campaign(created.id, ControlAction::Launch).await?;
    Ok((uploaded, launched.state))
}

async fn upload(
    client: &Client,
    id: CampaignId,
    source: &Source,
    layout: &UploadLayout,
) -> Result<UploadResult, CommandError> {
    upload::send(source, async |rows| client.upload(id, &source.digest, layout, source.coding, rows).await).await
}

/// `failure`, with the state of the campaign and how to continue or remove it.
async fn unfinished(client: &Client, created: &Created, origin: ExternalId, failure: CommandError) -> CommandError {
    let id = created.id;
    // Somebody may have changed the campaign meanwhile. A server that does not answer is not asked.
    let state = match &failure {
        CommandError::Client(error) if !error.is_transient() => client.campaign(id).await.ok().map(|found| found.state),
        _ => None,
    };
    let state = state.unwrap_or(created.state);
    let resume = match origin {
        ExternalId::Given | ExternalId::Derived => "the same command again continues where this one stopped, and ",
        ExternalId::None => "",
    };
    let with = |remedy: &str| {
        let state = state.predicate();
        format!("campaign {id} is {state}, with the recipients that were accepted until then: {resume}{remedy}")
    };
    let remedy = match state {
        CampaignState::Cancelled | CampaignState::Completed => remedy_of_ended(origin).to_owned(),
        CampaignState::Draft => with(&format!("`pregon campaign delete {id}` deletes it")),
        CampaignState::Scheduled | CampaignState::Running | CampaignState::Paused => {
            with(&format!("`pregon campaign cancel {id}` cancels it"))
        }
    };
    CommandError::Failed(format!("{failure}\n{remedy}"))
}

/// How to send a file whose campaign has ended.
fn remedy_of_ended(origin: ExternalId) -> &'static str {
    match origin {
        ExternalId::Derived => "--again submits the file as a new campaign",
        ExternalId::Given => "another --external-id submits the file as a new campaign",
        ExternalId::None => "the same command again submits the file as a new campaign",
    }
}

/// The result, for people. `found`: the state of the campaign before it was filled and launched.
fn text(submitted: &Submitted<'_>, found: CampaignState, name: &str, options: &SubmitOptions) -> String {
    let Submitted { id, state, created, uploaded: UploadResult { accepted, rejected_count, .. } } = submitted;
    let counts = format!("{} accepted, {} rejected", words::count(*accepted), words::count(*rejected_count));
    let mut text = match (created, found) {
        (true, _) => format!("campaign {id} “{name}” is {}: {counts}", state.predicate()),
        (false, CampaignState::Draft) if *state == CampaignState::Draft => {
            format!("campaign {id} “{name}” was a draft before and stays one: {counts}")
        }
        (false, CampaignState::Draft) => {
            format!("campaign {id} “{name}” was a draft before; it was launched and is {state}: {counts}")
        }
        (false, _) => {
            format!("campaign {id} “{name}” was submitted before and is {state}: {counts}; nothing was sent again")
        }
    };
    text += &upload::rejections(submitted.uploaded);
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
        let parsed = |text, language| template(text, language).map(|t| format!("{} {}", t.name, t.language)).ok();
        assert_eq!(parsed("spring_sale", Some("es_AR")).as_deref(), Some("spring_sale es_AR"));
        assert_eq!(parsed("spring_sale/es_AR", None).as_deref(), Some("spring_sale es_AR"));
        assert_eq!(parsed("spring_sale/es_AR", Some("es_AR")).as_deref(), Some("spring_sale es_AR"));
        assert_eq!(parsed("spring_sale/es_AR", Some("en")), None);
        assert_eq!(parsed("spring_sale", None), None);
    }

    #[test]
    fn a_campaign_is_named_after_its_file() {
        assert_eq!(name_of(Path::new("lists/spring sale.csv")), "spring sale");
        assert_eq!(name_of(Path::new("lists/spring sale.csv.zst")), "spring sale");
        assert_eq!(name_of(Path::new("-")), "standard input");
    }
}
