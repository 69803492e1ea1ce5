//! Submission of campaigns, and later actions on them: launch, pause, resume, cancel, change, delete.
//!
//! If the process dies during a submission: the campaign is a draft with some of its recipients. Submitting again with
//! the same `external_id` continues.
//! Never: creates a campaign before all of its fields except the recipients are validated. A recipient is validated
//! when it is stored.

use std::collections::HashSet;

use futures_util::stream;
use serde_json::value::RawValue;
use tracing::info;
use ulid::Ulid;

use super::{CampaignAction, Intake, IntakeError, Submitted, TemplateProblem, rows::Row, upload::UploadId};
use crate::{
    api_types::{CampaignChange, NewCampaign, TemplateName, UploadResult},
    domain::{
        Campaign, CampaignId, CampaignState, Form, LINE_RATE_MAX, LINE_RATE_MIN, Language, LineId, RawRecipient,
        SendWindow, Template, UnixMs, WabaId,
        campaign::{OptOutButton, ReplyRoute},
        listing::listed,
        reject::quoted,
        template::Category,
    },
    redis::{
        campaigns::{CampaignRecord, StateChange},
        deletion::DeletionStart,
        installation::StoredTemplate,
    },
    rules::windows::Windows,
    templates,
};

/// The longest name of a campaign.
pub(super) const NAME_CHARS_MAX: usize = 200;
/// How many characters of an unknown line id an error message shows.
const ID_CHARS_SHOWN_MAX: usize = 64;
/// How many characters of a value are shown in an error message that compares two definitions.
const VALUE_CHARS_SHOWN_MAX: usize = 600;
/// How many lines, or other values, an error message lists.
const VALUES_SHOWN_MAX: usize = 20;
/// The longest `external_id`.
const EXTERNAL_ID_CHARS_MAX: usize = 200;

/// How many similar templates the error for an unknown template suggests.
const SIMILAR_MAX: usize = 5;
/// The minimum similarity of a suggested name: 0 to 1, where 1 is equal.
const SIMILARITY_MIN: f64 = 0.7;

impl Intake {
    /// Stores a campaign with its recipients, and launches it if requested. The result is durable, as far as
    /// [`Store::make_durable`](crate::redis::Store::make_durable) can confirm it.
    ///
    /// If a campaign with the same `external_id` exists, the submission continues what an interrupted one left
    /// undone. A campaign whose recipients were all rejected stays a draft.
    ///
    /// Errors: `Invalid`, `Template`, or `Conflict` if the campaign with this `external_id` has another template, other
    /// lines, or another `on_doubt`, `on_withheld`, `opt_out_buttons`, `frequency_cap`, `expires_at`, `rate`,
    /// `send_window` or `late`, or `Taken` if the caller may not see that campaign: nothing was changed. `Store`:
    /// submit again.
    pub async fn submit(&self, new: NewCampaign) -> Result<Submitted, IntakeError> {
        let intake = self.in_this_incarnation();
        let submitted = intake.submit_undurably(new).await?;
        intake.store.make_durable().await?;
        Ok(submitted)
    }

    /// Like [`Intake::submit`], without waiting for durability.
    pub(super) async fn submit_undurably(&self, new: NewCampaign) -> Result<Submitted, IntakeError> {
        let existing = match &new.external_id {
            Some(external_id) if is_external_id(external_id) => self.find(external_id).await?,
            _ => None,
        };
        let (id, created) = match existing {
            Some(record) => (record.campaign.id, false),
            None => {
                let campaign = self.check(&new).await?;
                if !new.recipients.is_empty() {
                    self.memory.check(&self.store).await?;
                }
                self.store.create_campaign(&campaign).await?
            }
        };
        if !created {
            let existing = self.campaign(id).await?;
            self.check_is_own(&existing.campaign)?;
            same_definition(&existing, &new)?;
        }
        let upload = if new.recipients.is_empty() {
            UploadResult::default()
        } else {
            self.upload_values(id, &UploadId::Submission, &new.recipients).await?.0
        };
        let mut record = self.campaign(id).await?;
        let all_rejected = record.numbers == 0 && !new.recipients.is_empty();
        if new.launch && record.state == CampaignState::Draft && !all_rejected {
            record = self.change(id, CampaignAction::Launch).await?.0;
        }
        Ok(Submitted { id, created, state: record.state, upload })
    }

    /// Applies `action` to a campaign. If the campaign is in the requested state already, nothing changes, so that a
    /// call whose response was lost can be repeated. When the call for a pause returns, no more recipients of the
    /// campaign are claimed. The change is durable, as far as
    /// [`Store::make_durable`](crate::redis::Store::make_durable) can confirm it. Also returns whether anything
    /// changed.
    ///
    /// Errors: `State`, `Expired`, `Empty` or `Template` if the action is not possible: nothing was changed. `Store`:
    /// repeat the call.
    pub async fn act(&self, id: CampaignId, action: CampaignAction) -> Result<(CampaignRecord, bool), IntakeError> {
        let intake = self.in_this_incarnation();
        let changed = intake.change(id, action).await?;
        intake.store.make_durable().await?;
        Ok(changed)
    }

    /// Like [`Intake::act`], without waiting for durability.
    pub(super) async fn change(
        &self,
        id: CampaignId,
        action: CampaignAction,
    ) -> Result<(CampaignRecord, bool), IntakeError> {
        use CampaignState::{Cancelled, Completed, Draft, Paused, Running, Scheduled};
        let CampaignRecord { campaign, state, .. } = self.campaign(id).await?;
        let now = self.clock.now();
        let launched = if campaign.start_at.is_some_and(|at| at > now) { Scheduled } else { Running };
        // The states from which the action is possible, its target, the states in which it has been done already, and
        // its wording in an error. `Completed` counts as launched and resumed: a small campaign may complete before
        // the call is repeated.
        let (from, to, done_in, wording): (&[_], _, &[_], _) = match action {
            CampaignAction::Launch => (&[Draft], launched, &[Scheduled, Running, Completed], "be launched"),
            CampaignAction::Pause => (&[Scheduled, Running], Paused, &[Paused], "be paused"),
            CampaignAction::Resume => (&[Paused], launched, &[Scheduled, Running, Completed], "be resumed"),
            CampaignAction::Cancel => (&[Draft, Scheduled, Running, Paused], Cancelled, &[Cancelled], "be cancelled"),
        };
        if let (Running | Scheduled, Some(at)) = (to, campaign.expires_at)
            && at <= now
            && from.contains(&state)
        {
            return Err(IntakeError::Expired { id, at });
        }
        if matches!(to, Running | Scheduled) && from.contains(&state) {
            self.check_template_still_fits(&campaign).await?;
        }
        match self.store.change_campaign(id, from, to, now, None).await? {
            StateChange::Done => Ok((self.campaign(id).await?, true)),
            StateChange::Not(state) if done_in.contains(&state) => {
                let record = self.campaign(id).await?;
                self.finish_following(&record, now).await?;
                Ok((record, false))
            }
            StateChange::Not(state) => Err(IntakeError::State { id, state, action: wording }),
            StateChange::Empty => Err(IntakeError::Empty(id)),
            StateChange::Missing => Err(IntakeError::NotFound(id.to_string())),
        }
    }

    /// Changes values of a campaign that has not ended. Values that are already as requested stay, so that a call whose
    /// response was lost can be repeated. The change is durable, as far as
    /// [`Store::make_durable`](crate::redis::Store::make_durable) can confirm it. Also returns whether anything
    /// changed.
    ///
    /// Errors: `State` if the campaign has ended, or has started and its start is to change; `Invalid` with all
    /// problems: nothing was changed. `Store`: repeat the call.
    pub async fn amend(&self, id: CampaignId, change: &CampaignChange) -> Result<(CampaignRecord, bool), IntakeError> {
        let intake = self.in_this_incarnation();
        let amended = intake.amend_undurably(id, change).await?;
        intake.store.make_durable().await?;
        Ok(amended)
    }

    async fn amend_undurably(
        &self,
        id: CampaignId,
        change: &CampaignChange,
    ) -> Result<(CampaignRecord, bool), IntakeError> {
        // The loop ends: this change is refused only if another change of the campaign succeeded.
        loop {
            let record = self.campaign(id).await?;
            let now = self.clock.now();
            let amended = amended(&record, change, now)?;
            if amended == record.campaign {
                self.finish_following(&record, now).await?;
                return Ok((record, false));
            }
            if self.store.amend_campaign(&record, &amended, now).await? {
                return Ok((self.campaign(id).await?, true));
            }
        }
    }

    /// Applies a change of the campaign to its parts, if an earlier call was interrupted before it had done so.
    async fn finish_following(&self, record: &CampaignRecord, now: UnixMs) -> Result<(), IntakeError> {
        if record.applied < record.version {
            self.store.follow(record.campaign.id, now).await?;
        }
        Ok(())
    }

    /// Deletes a draft or an ended campaign. All of its data is removed, and its `external_id` can be used again.
    ///
    /// Errors: `NotDeletable` for any other campaign: nothing was changed. `Store`: repeat the call.
    pub async fn delete(&self, id: CampaignId) -> Result<(), IntakeError> {
        let intake = self.in_this_incarnation();
        let store = &intake.store;
        let now = self.clock.now();
        match store.campaign(id).await? {
            Some(record) if record.state == CampaignState::Draft => {
                // Cancel first, so that the campaign accepts no more recipients and can't be launched.
                let draft = [CampaignState::Draft];
                store.change_campaign(id, &draft, CampaignState::Cancelled, now, None).await?;
            }
            Some(_) => {}
            // An earlier deletion may have been interrupted.
            None if store.finish_deletion(id).await? => return Ok(store.make_durable().await?),
            None => {
                store.unlist(id).await?;
                return Err(IntakeError::NotFound(id.to_string()));
            }
        }
        if let DeletionStart::NotEnded(state) = store.begin_deletion(id, now).await? {
            return Err(IntakeError::NotDeletable { id, state });
        }
        store.finish_deletion(id).await?;
        store.make_durable().await?;
        info!(campaign.id = %id, "campaign deleted");
        Ok(())
    }

    /// Reads a campaign.
    ///
    /// Errors: `NotFound` if it does not exist.
    pub(super) async fn campaign(&self, id: CampaignId) -> Result<CampaignRecord, IntakeError> {
        self.store.campaign(id).await?.ok_or_else(|| IntakeError::NotFound(id.to_string()))
    }

    /// Finds the campaign with this `external_id`. An interrupted submission may have left an id without a campaign,
    /// and an interrupted deletion may have left an id whose campaign is being deleted: both count as not found.
    pub(super) async fn find(&self, external_id: &str) -> Result<Option<CampaignRecord>, IntakeError> {
        let Some(id) = self.store.campaign_by_external_id(external_id).await? else { return Ok(None) };
        let record = self.store.campaign(id).await?;
        if record.is_none() {
            self.store.finish_deletion(id).await?;
        }
        Ok(record)
    }

    /// Stores recipients that a request or a job contains as JSON. Also returns whether the same upload was complete
    /// before.
    pub(super) async fn upload_values(
        &self,
        id: CampaignId,
        upload_id: &UploadId,
        values: &[Box<RawValue>],
    ) -> Result<(UploadResult, bool), IntakeError> {
        let row = |(value, number): (&RawValue, u64)| Row {
            number,
            line: None,
            content: RawRecipient::from_json(value.get().as_bytes()),
        };
        loop {
            let rows = stream::iter(values.iter().map(AsRef::as_ref).zip(1..).map(|value| Ok(vec![row(value)])));
            match self.upload_rows(id, upload_id, rows).await {
                // The same upload is running elsewhere. The loop ends, because the other upload progresses with each
                // conflict, and this one continues from there.
                Err(IntakeError::UploadInProgress) => {}
                result => return result,
            }
        }
    }

    /// Errors: `Taken` if the caller may not see the campaign that has its `external_id`.
    pub(super) fn check_is_own(&self, existing: &Campaign) -> Result<(), IntakeError> {
        if self.is_limited && self.lines.get().first_of(&existing.lines).is_none() {
            return Err(IntakeError::Taken(existing.external_id.clone().unwrap_or_default()));
        }
        Ok(())
    }

    /// Validates `new`, and builds the campaign.
    async fn check(&self, new: &NewCampaign) -> Result<Campaign, IntakeError> {
        let now = self.clock.now();
        let mut problems = Vec::new();
        let has_name = (1..=NAME_CHARS_MAX).contains(&new.name.chars().count()) && !new.name.trim().is_empty();
        if !has_name || new.name.chars().any(char::is_control) {
            problems.push(format!(
                "name is “{}”: it must have 1 to {NAME_CHARS_MAX} characters, none of them a control character",
                quoted(&new.name)
            ));
        }
        check_external_id(new.external_id.as_deref(), &mut problems);
        check_priority(new.priority, &mut problems);
        check_rate(new.rate, &mut problems);
        check_window(new.send_window.as_ref(), &mut problems);
        self.check_cap(new, &mut problems);
        check_expiry(new.expires_at, new.start_at, now, &mut problems);
        if new.launch && new.recipients.is_empty() {
            problems.push("launch needs recipients: include them here, or launch after you upload them".to_owned());
        }
        if new.recipients.len() as u64 > self.recipients_max {
            let (n, max) = (new.recipients.len(), self.recipients_max);
            problems.push(format!(
                "a campaign has at most {max} recipients (intake.recipients_max), and this one has {n}: split them \
                into several campaigns"
            ));
        }
        let template = match self.check_lines(&new.lines, &mut problems) {
            Some(waba) => self.check_template(&waba, &new.template).await,
            None => return Err(IntakeError::invalid(problems)),
        };
        if let Ok(template) = &template {
            check_opt_out_buttons(&new.opt_out_buttons, template, &mut problems);
        }
        problems.extend(new.reply.iter().flat_map(ReplyRoute::problems));
        if let (Ok(template), Some(_)) = (&template, new.frequency_cap)
            && template.category != Category::Marketing
        {
            problems.push(format!("frequency_cap is for marketing, and {template} is not: leave it out"));
        }
        match template {
            Ok(template) if problems.is_empty() => {
                let id = CampaignId(Ulid::from_parts(now.0, rand::random()));
                let defaults = Campaign::new(id, &new.name, template, new.lines.clone(), now);
                Ok(Campaign {
                    external_id: new.external_id.clone(),
                    start_at: new.start_at,
                    expires_at: new.expires_at,
                    priority: new.priority.unwrap_or(defaults.priority),
                    rate: new.rate,
                    send_window: new.send_window.clone(),
                    late: new.late,
                    on_doubt: new.on_doubt,
                    on_withheld: new.on_withheld,
                    opt_out_buttons: new.opt_out_buttons.clone(),
                    frequency_cap: new.frequency_cap,
                    reply: new.reply.clone(),
                    ..defaults
                }
                .with_requirements())
            }
            Ok(_) => Err(IntakeError::invalid(problems)),
            // Alone, a template problem keeps its own problem type.
            Err(IntakeError::Template(problem)) if !problems.is_empty() => {
                problems.push(problem.to_string());
                Err(IntakeError::invalid(problems))
            }
            Err(error) => Err(error),
        }
    }

    /// Validates `lines`. Returns their WABA, if they have exactly one.
    fn check_lines(&self, lines: &[LineId], problems: &mut Vec<String>) -> Option<WabaId> {
        if lines.is_empty() {
            problems.push(format!("lines is empty: name at least one line; there are {}", self.configured()));
        }
        let (configured, mut seen) = (self.lines.get(), HashSet::new());
        let mut wabas: Vec<(&LineId, &WabaId)> = Vec::new();
        for line in lines {
            if !seen.insert(line) {
                problems.push(format!("line {} is named twice in lines: leave one out", truncated_id(line)));
                continue;
            }
            match configured.by_id(line).map(|line| &line.waba) {
                None => {
                    let configured = self.configured();
                    problems.push(format!("line {} is not configured: there are {configured}", truncated_id(line)));
                }
                Some(waba) if wabas.iter().all(|(_, found)| *found != waba) => wabas.push((line, waba)),
                Some(_) => {}
            }
        }
        match wabas.as_slice() {
            [] => None,
            [(_, waba)] => Some(WabaId::clone(waba)),
            [(line, waba), (other_line, other), ..] => {
                problems.push(format!(
                    "lines must be of one WABA, but line {line} is of {waba} and line {other_line} of {other}: make a campaign for \
                    each WABA"
                ));
                None
            }
        }
    }

    /// Validates the frequency cap. The business must count its marketing for at least as many days as the cap.
    fn check_cap(&self, new: &NewCampaign, problems: &mut Vec<String>) {
        let Some(cap) = new.frequency_cap else { return };
        if let Some(problem) = cap.problem() {
            problems.push(problem);
            return;
        }
        let lines = self.lines.get();
        let Some(line) = lines.first_of(&new.lines) else { return };
        match line.frequency_cap {
            None => problems.push(format!(
                "frequency_cap is {cap}, but the marketing of business {} is not counted: give the business a frequency_cap in \
                the configuration first, such as 20 messages in 30 days",
                line.business
            )),
            Some(counted) if counted.days < cap.days => problems.push(format!(
                "frequency_cap is {cap}, but the marketing of business {} is counted for {} days (business.frequency_cap): name \
                at most as many",
                line.business, counted.days
            )),
            Some(_) => {}
        }
    }

    /// The configured lines as text, at most [`VALUES_SHOWN_MAX`] of them.
    fn configured(&self) -> String {
        let lines = self.lines.get();
        let mut ids: Vec<&str> = lines.iter().map(|line| line.id.as_str()).collect();
        ids.sort_unstable();
        listed(ids, VALUES_SHOWN_MAX)
    }

    /// Checks that the template still exists and the campaign's recipients still fit it.
    ///
    /// Errors: `Template` if the template was deleted, or edited so that they no longer fit.
    pub(super) async fn check_template_still_fits(&self, campaign: &Campaign) -> Result<(), IntakeError> {
        let lines = self.lines.get();
        let waba = lines.first_of(&campaign.lines).map(|line| &line.waba);
        let fits = templates::check_still_fits(&self.store, waba, campaign).await?;
        Ok(fits.map_err(TemplateProblem::Unsupported)?)
    }

    /// Reads a template, if it is approved and this version can send it.
    pub(super) async fn check_template(&self, waba: &WabaId, wanted: &TemplateName) -> Result<Template, IntakeError> {
        let language = Language::from(wanted.language.as_str());
        let template = match self.store.template(waba, &wanted.name, language.as_str()).await? {
            StoredTemplate::Found(template) => *template,
            StoredTemplate::NotSynced => return Err(TemplateProblem::NotSynced(waba.clone()).into()),
            StoredTemplate::Missing => {
                let all = self.store.templates(waba).await?.map(|(all, _)| all).unwrap_or_default();
                let (name, similar) = (wanted.name.clone(), similar(&wanted.name, &all));
                return Err(TemplateProblem::Missing { waba: waba.clone(), name, language, similar }.into());
            }
        };
        if let Some(problem) = template.status_problem() {
            return Err(TemplateProblem::NotApproved(problem).into());
        }
        Form::of(&template).map_err(TemplateProblem::Unsupported)?;
        Ok(template)
    }
}

/// Templates with a name like `name`, with their languages, the most similar first.
fn similar(name: &str, all: &[Template]) -> Vec<String> {
    let plain = |name: &str| name.to_lowercase().replace(['-', ' '], "_");
    let wanted = plain(name);
    let similarity = |template: &Template| strsim::normalized_damerau_levenshtein(&plain(&template.name), &wanted);
    let mut near: Vec<(f64, String)> = all
        .iter()
        .map(|template| (similarity(template), template.to_string()))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .collect();
    near.sort_by(|(a, left), (b, right)| b.total_cmp(a).then_with(|| left.cmp(right)));
    near.into_iter().take(SIMILAR_MAX).map(|(_, template)| template).collect()
}

/// The campaign of `record` after `change`.
///
/// Errors: those of [`Intake::amend`].
fn amended(record: &CampaignRecord, change: &CampaignChange, now: UnixMs) -> Result<Campaign, IntakeError> {
    let CampaignRecord { campaign, state, started_at, .. } = record;
    let (id, state) = (campaign.id, *state);
    if matches!(state, CampaignState::Completed | CampaignState::Cancelled) {
        return Err(IntakeError::State { id, state, action: "be changed" });
    }
    let amended = Campaign {
        start_at: change.start_at.unwrap_or(campaign.start_at),
        expires_at: change.expires_at.unwrap_or(campaign.expires_at),
        priority: change.priority.unwrap_or(campaign.priority),
        rate: change.rate.unwrap_or(campaign.rate),
        send_window: change.send_window.clone().unwrap_or_else(|| campaign.send_window.clone()),
        late: change.late.unwrap_or(campaign.late),
        ..campaign.clone()
    };
    let amended = amended.with_requirements();
    let mut problems = Vec::new();
    if started_at.is_some() && (amended.start_at, amended.late) != (campaign.start_at, campaign.late) {
        return Err(IntakeError::State { id, state, action: "get another start_at or late, because it has started" });
    }
    if amended.start_at != campaign.start_at
        && let Some(start_at) = amended.start_at.filter(|at| *at <= now)
    {
        problems.push(format!(
            "start_at is {start_at}, which is over (it is {now}): name a later time, or null for a start without delay"
        ));
    }
    check_priority(change.priority, &mut problems);
    check_rate(change.rate.flatten(), &mut problems);
    check_window(change.send_window.as_ref().and_then(Option::as_ref), &mut problems);
    let by_recipient = |campaign: &Campaign| campaign.send_window.as_ref().is_some_and(SendWindow::is_by_recipient);
    if by_recipient(&amended) && !by_recipient(campaign) && record.numbers > 0 {
        problems.push(
            "send_window can't go by the recipients' time zones any more, because recipients are grouped by them as they are \
            uploaded: name a zone, or make a new campaign"
                .to_owned(),
        );
    }
    if amended.start_at != campaign.start_at || amended.expires_at != campaign.expires_at {
        check_expiry(amended.expires_at, amended.start_at, now, &mut problems);
    }
    if problems.is_empty() { Ok(amended) } else { Err(IntakeError::invalid(problems)) }
}

/// Compares `new` with the existing campaign of the same `external_id`. The order of lines does not matter. Once a
/// campaign was changed, values that can be changed do not matter either.
///
/// Errors: `Conflict` if `new` would be sent differently.
fn same_definition(record: &CampaignRecord, new: &NewCampaign) -> Result<(), IntakeError> {
    let existing = &record.campaign;
    let template = |name: &str, language: &Language| vec![format!("{name} ({language})")];
    let lines = |lines: &[LineId]| sorted(lines.iter().map(ToString::to_string));
    let buttons = |buttons: &[OptOutButton]| sorted(buttons.iter().map(OptOutButton::to_string));
    let name = |name: &str| vec![name.to_owned()];
    let compared = [
        (
            "template is",
            template(&existing.template.name, &existing.template.language),
            template(&new.template.name, &Language::from(new.template.language.as_str())),
        ),
        ("lines are", lines(&existing.lines), lines(&new.lines)),
        ("on_doubt is", name(existing.on_doubt.name()), name(new.on_doubt.name())),
        ("on_withheld is", name(existing.on_withheld.name()), name(new.on_withheld.name())),
        ("opt_out_buttons are", buttons(&existing.opt_out_buttons), buttons(&new.opt_out_buttons)),
        ("frequency_cap is", text(existing.frequency_cap), text(new.frequency_cap)),
        ("reply is", text(existing.reply.as_ref()), text(new.reply.as_ref())),
    ];
    let changeable = [
        ("expires_at is", text(existing.expires_at), text(new.expires_at)),
        ("rate is", text(existing.rate), text(new.rate)),
        ("send_window is", text(existing.send_window.as_ref()), text(new.send_window.as_ref())),
        ("late is", name(existing.late.name()), name(new.late.name())),
    ];
    let changeable = changeable.into_iter().filter(|_| record.changes == 0);
    let differing = compared.into_iter().chain(changeable).filter(|(_, there, here)| there != here);
    let differences: Vec<String> = differing
        .map(|(what, there, here)| format!("{what} {} there and {} here", shown(&there), shown(&here)))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let external_id = new.external_id.clone().unwrap_or_default();
    Err(IntakeError::Conflict { id: existing.id, external_id, differences })
}

fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<String> = texts.collect();
    texts.sort_unstable();
    texts
}

/// A value as text; an empty list for `None`.
fn text(value: Option<impl ToString>) -> Vec<String> {
    value.iter().map(ToString::to_string).collect()
}

/// Values of a definition in an error message.
fn shown(values: &[String]) -> String {
    if values.is_empty() {
        return "none".to_owned();
    }
    listed(values.iter().map(|value| truncated(value, VALUE_CHARS_SHOWN_MAX)), VALUES_SHOWN_MAX)
}

/// A line id from a request, of at most [`ID_CHARS_SHOWN_MAX`] characters.
fn truncated_id(line: &LineId) -> String {
    truncated(line.as_str(), ID_CHARS_SHOWN_MAX)
}

fn truncated(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).collect()
}

fn is_external_id(text: &str) -> bool {
    (1..=EXTERNAL_ID_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

pub(super) fn check_external_id(external_id: Option<&str>, problems: &mut Vec<String>) {
    if let Some(external_id) = external_id.filter(|external_id| !is_external_id(external_id)) {
        problems.push(format!(
            "external_id is “{}”: it must have 1 to {EXTERNAL_ID_CHARS_MAX} characters, none of them a control character",
            quoted(external_id)
        ));
    }
}

fn check_priority(priority: Option<u8>, problems: &mut Vec<String>) {
    if let Some(priority) = priority.filter(|priority| !(1..=10).contains(priority)) {
        problems.push(format!("priority is {priority}: it must be 1 to 10"));
    }
}

fn check_rate(rate: Option<f64>, problems: &mut Vec<String>) {
    if let Some(rate) = rate.filter(|rate| !(LINE_RATE_MIN..=LINE_RATE_MAX).contains(rate)) {
        problems.push(format!("rate is {rate}: it must be {LINE_RATE_MIN} to {LINE_RATE_MAX} messages per second"));
    }
}

/// Adds a problem for each button that `template` does not have, and for each that is named twice.
fn check_opt_out_buttons(buttons: &[OptOutButton], template: &Template, problems: &mut Vec<String>) {
    let known: Vec<&str> = template.quick_replies().collect();
    let has = if known.is_empty() { "none".to_owned() } else { format!("“{}”", known.join("”, “")) };
    let mut seen = HashSet::new();
    for OptOutButton { text, .. } in buttons {
        let (is_first, text) = (seen.insert(text), text.as_str());
        if !known.contains(&text) {
            problems.push(format!(
                "opt_out_buttons has “{}”, which is no quick-reply button of template {template}: it has {has}",
                quoted(text)
            ));
        } else if !is_first {
            problems.push(format!("opt_out_buttons has “{text}” twice: name each button once"));
        }
    }
}

fn check_window(window: Option<&SendWindow>, problems: &mut Vec<String>) {
    let Some(window) = window else { return };
    problems.extend(window.problems());
    let zone = Some(window.zone.as_str()).filter(|_| !window.is_by_recipient());
    if let Err(error) = Windows::new(window, zone) {
        problems.push(format!("send_window: {error}"));
    }
}

fn check_expiry(expires_at: Option<UnixMs>, start_at: Option<UnixMs>, now: UnixMs, problems: &mut Vec<String>) {
    let Some(expires_at) = expires_at else { return };
    if expires_at <= now {
        problems.push(format!("expires_at is {expires_at}, which is over (it is {now}): name a later time, or none"));
    }
    if let Some(start_at) = start_at.filter(|start_at| expires_at <= *start_at) {
        problems.push(format!("expires_at is {expires_at} and start_at {start_at}: expires_at must be after start_at"));
    }
}
