//! Campaigns as callers submit them, and what callers then do with them.
//!
//! If the process dies in the middle of a submission: the campaign is there as a draft, with a part of the recipients
//! that came along. Submitted again under its `external_id`, it is continued where it was cut.
//! Never: changes anything before everything was checked.

use std::collections::HashSet;

use futures_util::stream;
use serde_json::value::RawValue;
use tracing::info;
use ulid::Ulid;

use super::{
    CampaignAction, Intake, IntakeError, NewCampaign, Submitted, TemplateName, TemplateProblem, UploadResult,
    rows::Row, upload::UploadId,
};
use crate::{
    domain::{
        Campaign, CampaignId, CampaignState, Form, Language, LineId, RawRecipient, Template, UnixMs, WabaId,
        campaign::PRIORITY_DEFAULT, reject::shown,
    },
    redis::campaigns::{CampaignRecord, StateChange},
    templates,
};

/// The longest name of a campaign.
const NAME_CHARS_MAX: usize = 200;
/// Characters of an unknown line's id that a sentence repeats.
const ID_CHARS_SHOWN_MAX: usize = 64;
/// Lines that a sentence names.
const LINES_SHOWN_MAX: usize = 20;
/// The longest `external_id`.
const EXTERNAL_ID_CHARS_MAX: usize = 200;

/// Names of templates that are offered in the place of an unknown one.
const SIMILAR_MAX: usize = 5;
/// How near such a name has to be; 1 is the same.
const LIKENESS_MIN: f64 = 0.7;

impl Intake {
    /// Stores a campaign with the recipients that came along, and launches it if that was asked for.
    ///
    /// An `external_id` that is known finds its campaign, and what an earlier submission of it was cut off from is made up
    /// for. A campaign whose recipients were all rejected stays a draft.
    ///
    /// When it has answered, what came of it outlives Redis as far as that can promise it.
    ///
    /// Errors: `Invalid` with everything that is wrong, `Template`, or `Conflict` where the campaign of that `external_id`
    /// has another template, other lines, another `on_doubt` or `expires_at`: nothing was changed. `Store`: submit it again.
    pub async fn submit(&self, new: NewCampaign) -> Result<Submitted, IntakeError> {
        let intake = self.in_this_incarnation();
        let submitted = intake.take_campaign(new).await?;
        intake.store.make_durable().await?;
        Ok(submitted)
    }

    /// As [`Intake::submit`], without waiting until it is safe.
    pub(super) async fn take_campaign(&self, new: NewCampaign) -> Result<Submitted, IntakeError> {
        let known = match &new.external_id {
            Some(external_id) if is_external_id(external_id) => self.find(external_id).await?,
            _ => None,
        };
        let (id, created) = match known {
            Some(record) => (record.campaign.id, false),
            None => self.store.create_campaign(&self.check(&new).await?).await?,
        };
        if !created {
            same_definition(&self.campaign(id).await?.campaign, &new)?;
        }
        let upload = if new.recipients.is_empty() {
            UploadResult::default()
        } else {
            self.take_values(id, &UploadId::Submission, &new.recipients).await?.0
        };
        let mut record = self.campaign(id).await?;
        let all_rejected = record.numbers == 0 && !new.recipients.is_empty();
        if new.launch && record.state == CampaignState::Draft && !all_rejected {
            record = self.change(id, CampaignAction::Launch).await?.0;
        }
        Ok(Submitted { id, created, state: record.state, upload })
    }

    /// Does `action` with a campaign. One that holds already, as when a call is repeated because its answer was lost,
    /// changes nothing. When a pause has answered, nothing more of the campaign is claimed, and the pause outlives Redis as
    /// far as that can promise it; so does any change.
    ///
    /// Errors: `State`, `Expired`, `Empty` or `Template` where that can't be: nothing was changed. `Store`: do it again.
    pub async fn act(&self, id: CampaignId, action: CampaignAction) -> Result<CampaignRecord, IntakeError> {
        let intake = self.in_this_incarnation();
        let (record, _) = intake.change(id, action).await?;
        intake.store.make_durable().await?;
        Ok(record)
    }

    /// As [`Intake::act`], without waiting until it is safe; tells too whether it changed something.
    pub(super) async fn change(
        &self,
        id: CampaignId,
        action: CampaignAction,
    ) -> Result<(CampaignRecord, bool), IntakeError> {
        use CampaignState::{Cancelled, Completed, Draft, Paused, Running, Scheduled};
        let CampaignRecord { campaign, state, .. } = self.campaign(id).await?;
        let now = self.clock.now();
        let launched = if campaign.start_at.is_some_and(|at| at > now) { Scheduled } else { Running };
        // From these states to that one; in these others it holds already. A campaign of a few recipients may be completed
        // before its launch is repeated.
        let (from, to, held, wish): (&[_], _, &[_], _) = match action {
            CampaignAction::Launch => (&[Draft], launched, &[Scheduled, Running, Completed], "be launched"),
            CampaignAction::Pause => (&[Running], Paused, &[Paused], "be paused"),
            CampaignAction::Resume => (&[Paused], Running, &[Running, Completed], "be resumed"),
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
            StateChange::Not(state) if held.contains(&state) => {
                let record = self.campaign(id).await?;
                // The call that this one repeats may have been cut between the campaign and its parts.
                if record.applied < record.version {
                    self.store.follow(id, now).await?;
                }
                Ok((record, false))
            }
            StateChange::Not(state) => Err(IntakeError::State { id, state, action: wish }),
            StateChange::Empty => Err(IntakeError::Empty(id)),
            StateChange::Missing => Err(IntakeError::NotFound(id.to_string())),
        }
    }

    /// Deletes a campaign that never sent anything: a draft, or one that was cancelled before it started. Nothing of it is left,
    /// and its `external_id` is free.
    ///
    /// Errors: `NotDeletable` for any other: nothing was changed. `Store`: do it again.
    pub async fn delete(&self, id: CampaignId) -> Result<(), IntakeError> {
        let intake = self.in_this_incarnation();
        let store = &intake.store;
        let mut record = store.campaign(id).await?;
        if record.as_ref().is_some_and(|record| record.state == CampaignState::Draft) {
            // Cancelled first: from then on it takes no recipients, and can't be launched.
            let draft = [CampaignState::Draft];
            store.change_campaign(id, &draft, CampaignState::Cancelled, self.clock.now(), None).await?;
            record = store.campaign(id).await?;
        }
        let Some(record) = record else {
            // An earlier deletion may have been cut before its end.
            store.unlist(id).await?;
            return Err(IntakeError::NotFound(id.to_string()));
        };
        let (state, started) = (record.state, record.started_at.is_some());
        if state != CampaignState::Cancelled || started {
            return Err(IntakeError::NotDeletable { id, state, started });
        }
        store.delete_campaign(&record).await?;
        store.make_durable().await?;
        info!(campaign.id = %id, "campaign deleted");
        Ok(())
    }

    /// A campaign that is there.
    pub(super) async fn campaign(&self, id: CampaignId) -> Result<CampaignRecord, IntakeError> {
        self.store.campaign(id).await?.ok_or_else(|| IntakeError::NotFound(id.to_string()))
    }

    /// The campaign with this `external_id`. A submission that was cut may have left an id without a campaign.
    pub(super) async fn find(&self, external_id: &str) -> Result<Option<CampaignRecord>, IntakeError> {
        match self.store.campaign_by_external_id(external_id).await? {
            Some(id) => Ok(self.store.campaign(id).await?),
            None => Ok(None),
        }
    }

    /// Recipients that came along in JSON, as an upload. Tells too whether they were there already.
    pub(super) async fn take_values(
        &self,
        id: CampaignId,
        upload_id: &UploadId,
        values: &[Box<RawValue>],
    ) -> Result<(UploadResult, bool), IntakeError> {
        let row = |(value, number): (&RawValue, u64)| Row {
            number,
            line: None,
            recipient: RawRecipient::from_json(value.get().as_bytes()),
        };
        loop {
            let rows = stream::iter(values.iter().map(AsRef::as_ref).zip(1..).map(|value| Ok(vec![row(value)])));
            match self.take_rows(id, upload_id, rows).await {
                // The same rows at the same time: each time that happens the other one got further, and we go on from there.
                Err(IntakeError::UploadInProgress) => {}
                taken => return taken,
            }
        }
    }

    /// The campaign that `new` describes, if nothing is wrong with it.
    async fn check(&self, new: &NewCampaign) -> Result<Campaign, IntakeError> {
        let now = self.clock.now();
        let mut problems = Vec::new();
        let has_name = (1..=NAME_CHARS_MAX).contains(&new.name.chars().count()) && !new.name.trim().is_empty();
        if !has_name || new.name.chars().any(char::is_control) {
            problems.push(format!(
                "name is “{}”: it must have 1 to {NAME_CHARS_MAX} characters, none of them a control character",
                shown(&new.name)
            ));
        }
        if let Some(external_id) = new.external_id.as_ref().filter(|external_id| !is_external_id(external_id)) {
            problems.push(format!(
                "external_id is “{}”: it must have 1 to {EXTERNAL_ID_CHARS_MAX} characters, none of them a control character",
                shown(external_id)
            ));
        }
        if let Some(priority) = new.priority.filter(|priority| !(1..=10).contains(priority)) {
            problems.push(format!("priority is {priority}: it must be 1 to 10"));
        }
        check_times(new, now, &mut problems);
        if new.launch && new.recipients.is_empty() {
            problems.push("launch needs recipients: send them along, or launch when they are uploaded".to_owned());
        }
        if new.recipients.len() as u64 > self.recipients_max {
            let (n, max) = (new.recipients.len(), self.recipients_max);
            problems.push(format!(
                "a campaign has at most {max} recipients (intake.recipients_max): {n} came along; spread them over several campaigns"
            ));
        }
        let template = match self.check_lines(&new.lines, &mut problems) {
            Some(waba) => self.check_template(&waba, &new.template).await,
            None => return Err(IntakeError::Invalid(problems)),
        };
        match template {
            Ok(template) if problems.is_empty() => Ok(Campaign {
                id: CampaignId(Ulid::from_parts(now.0, rand::random())),
                external_id: new.external_id.clone(),
                name: new.name.clone(),
                template,
                lines: new.lines.clone(),
                start_at: new.start_at,
                expires_at: new.expires_at,
                priority: new.priority.unwrap_or(PRIORITY_DEFAULT),
                on_doubt: new.on_doubt,
                created_at: now,
            }),
            Ok(_) => Err(IntakeError::Invalid(problems)),
            // On its own it has a type of its own.
            Err(IntakeError::Template(problem)) if !problems.is_empty() => {
                problems.push(problem.to_string());
                Err(IntakeError::Invalid(problems))
            }
            Err(error) => Err(error),
        }
    }

    /// The WABA of `lines`, if there is one to look for the template in.
    fn check_lines(&self, lines: &[LineId], problems: &mut Vec<String>) -> Option<WabaId> {
        if lines.is_empty() {
            problems.push(format!("lines is empty: name at least one line; there are {}", self.configured()));
        }
        let mut seen = HashSet::new();
        let mut wabas: Vec<(&LineId, &WabaId)> = Vec::new();
        for line in lines {
            if !seen.insert(line) {
                problems.push(format!("line {line} is named twice in lines: leave one out"));
                continue;
            }
            match self.lines.get(line) {
                None => {
                    let there = self.configured();
                    problems.push(format!("line {} is not configured: there are {there}", line_shown(line)));
                }
                Some((waba, _)) if wabas.iter().all(|(_, known)| *known != waba) => wabas.push((line, waba)),
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

    /// The lines that there are, as a sentence names them.
    fn configured(&self) -> String {
        let mut lines: Vec<&str> = self.lines.keys().map(LineId::as_str).collect();
        lines.sort_unstable();
        let more = lines.len().saturating_sub(LINES_SHOWN_MAX);
        lines.truncate(LINES_SHOWN_MAX);
        let named = lines.join(", ");
        if more > 0 { format!("{named} and {more} more") } else { named }
    }

    /// Errors: `Template` if the template was edited so that the recipients do not fit it any more, or is gone.
    async fn check_template_still_fits(&self, campaign: &Campaign) -> Result<(), IntakeError> {
        let waba = campaign.lines.iter().find_map(|line| self.lines.get(line)).map(|(waba, _)| waba);
        let fits = templates::check_still_fits(&self.store, waba, campaign).await?;
        Ok(fits.map_err(TemplateProblem::Unsupported)?)
    }

    /// The template, if Meta sends it and so can we.
    async fn check_template(&self, waba: &WabaId, wanted: &TemplateName) -> Result<Template, IntakeError> {
        let language = Language::from(wanted.language.as_str());
        let Some(template) = self.store.template(waba, &wanted.name, language.as_str()).await? else {
            let Some((all, _)) = self.store.templates(waba).await? else {
                return Err(TemplateProblem::NotSynced(waba.clone()).into());
            };
            let (name, similar) = (wanted.name.clone(), similar(&wanted.name, &all));
            return Err(TemplateProblem::Missing { waba: waba.clone(), name, language, similar }.into());
        };
        if let Some(problem) = template.status_problem() {
            return Err(TemplateProblem::NotApproved(problem).into());
        }
        Form::of(&template).map_err(TemplateProblem::Unsupported)?;
        Ok(template)
    }
}

/// Templates that may have been meant by `name`, with their languages: those of this name, or else the nearest names.
fn similar(name: &str, all: &[Template]) -> Vec<String> {
    let plain = |name: &str| name.to_lowercase().replace(['-', ' '], "_");
    let wanted = plain(name);
    let likeness = |template: &Template| strsim::normalized_damerau_levenshtein(&plain(&template.name), &wanted);
    let mut near: Vec<(f64, String)> = all
        .iter()
        .map(|template| (likeness(template), template.to_string()))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .collect();
    near.sort_by(|(a, left), (b, right)| b.total_cmp(a).then_with(|| left.cmp(right)));
    near.into_iter().take(SIMILAR_MAX).map(|(_, template)| template).collect()
}

/// Errors: `Conflict` if `new` would be sent otherwise than `known`, which has the same `external_id`. The order of lines
/// means nothing.
fn same_definition(known: &Campaign, new: &NewCampaign) -> Result<(), IntakeError> {
    let template = |name: &str, language: &Language| format!("{name} ({language})");
    let lines = |lines: &[LineId]| {
        let mut ids: Vec<&str> = lines.iter().map(LineId::as_str).collect();
        ids.sort_unstable();
        ids.join(", ")
    };
    let time = |at: Option<UnixMs>| at.map_or_else(|| "none".to_owned(), |at| at.to_string());
    let compared = [
        (
            "template is",
            template(&known.template.name, &known.template.language),
            template(&new.template.name, &Language::from(new.template.language.as_str())),
        ),
        ("lines are", lines(&known.lines), lines(&new.lines)),
        ("on_doubt is", known.on_doubt.name().to_owned(), new.on_doubt.name().to_owned()),
        ("expires_at is", time(known.expires_at), time(new.expires_at)),
    ];
    let differing = compared.into_iter().filter(|(_, there, here)| there != here);
    let differences: Vec<String> =
        differing.map(|(what, there, here)| format!("{what} {there} there and {here} here")).collect();
    if differences.is_empty() {
        return Ok(());
    }
    let external_id = new.external_id.clone().unwrap_or_default();
    Err(IntakeError::Conflict { id: known.id, external_id, differences })
}

/// The id of a line that nobody knows, cut.
fn line_shown(line: &LineId) -> String {
    line.as_str().chars().take(ID_CHARS_SHOWN_MAX).collect()
}

fn is_external_id(text: &str) -> bool {
    (1..=EXTERNAL_ID_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn check_times(new: &NewCampaign, now: UnixMs, problems: &mut Vec<String>) {
    let Some(expires_at) = new.expires_at else { return };
    if expires_at <= now {
        problems.push(format!("expires_at is {expires_at}, which is over (it is {now}): name a later time, or none"));
    }
    if let Some(start_at) = new.start_at.filter(|start_at| expires_at <= *start_at) {
        problems.push(format!("expires_at is {expires_at} and start_at {start_at}: expires_at must be after start_at"));
    }
}
