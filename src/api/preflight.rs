//! Preflight: what would happen if a campaign were launched now.

use axum::{Json, extract::State};

use super::{Shared, SharedState, extract::CampaignPath, stream_permit};
use crate::{
    api_types::{Preflight, PreflightBudget, PreflightTemplate, TemplateName},
    config::KeyScope,
    domain::{Campaign, CampaignState, Line, LineId},
    http::problem::Result,
    intake::IntakeError,
    preflight::{
        cost, people,
        problems::{self, Facts},
        rejects,
    },
    redis::{campaigns::CampaignRecord, installation::StoredTemplate, places::LimitedPlaces},
};

/// Show what would happen if a campaign were launched, or resumed, now.
///
/// Nothing is changed. The campaign must not have ended.
#[utoipa::path(
    get, path = "/v1/campaigns/{campaign}/preflight", tag = "campaigns", operation_id = "preflight_campaign",
    security(("api_key" = [KeyScope::Read])),
    params(CampaignPath),
    responses((status = 200, description = "What would happen.", body = Preflight)),
    extensions(("x-problems" = json!(["campaign-state", "too-many-streams"]))),
)]
pub(super) async fn preflight(State(shared): SharedState, CampaignPath(id): CampaignPath) -> Result<Json<Preflight>> {
    let record = shared.campaign(id).await?;
    if matches!(record.state, CampaignState::Completed | CampaignState::Cancelled) {
        return Err(IntakeError::State { id, state: record.state, action: "be launched any more" }.into());
    }
    let _permit = stream_permit(&shared.preflights, "preflights")?;
    shared.preflight(record).await.map(Json)
}

impl Shared {
    async fn preflight(&self, record: CampaignRecord) -> Result<Preflight> {
        let (store, now, campaign) = (&self.state.store, self.now(), &record.campaign);
        let (lines, unknown_lines) = self.lines_of(campaign);
        let line = lines.first();
        let stops = self.reader.stops(now).await?;
        let forecast = self.reader.forecast(&record, &stops, now).await?;
        let prices = self.state.prices.get();
        let prices = prices.as_deref();
        let business = line.map(|line| &line.business);
        let people = people::count(store, line, &record, prices, forecast.left, now).await?;
        let rejects = rejects::count(store, &record).await?;
        let listed = self.listed(campaign, line).await?;
        let cost = prices.map(|prices| (prices, cost::of(prices, &campaign.template.category, &people.by_country)));
        let full_redis = self.state.intake.memory.full(store).await?;
        let limited = business.and_then(|business| Some((business, *stops.limited.get(business)?)));
        let problems = problems::of(&Facts {
            campaign,
            forecast: &forecast,
            people: &people,
            rejects: &rejects,
            listed: &listed,
            unknown_lines: &unknown_lines,
            limited,
            business_cap: line.and_then(|line| line.frequency_cap),
            cost: cost.as_ref().map(|(prices, (cost, lacking))| (*prices, cost, lacking.as_slice())),
            full_redis,
            now,
        });
        let budget = line.map(|line| budget(line, limited.map(|(_, limited)| limited), people.to_send));
        Ok(Preflight {
            campaign: campaign.id,
            state: record.state,
            ready: problems.iter().all(|problem| !problem.blocking),
            problems,
            recipients: forecast.recipients,
            left: forecast.left,
            skips: people.skips.iter().map(|(reason, n)| (reason.name().to_owned(), *n)).collect(),
            to_send: people.to_send,
            estimated: people.is_estimated,
            rejects,
            template: template(campaign, &listed),
            lines: self.line_views(&lines).await?,
            budget,
            rate: campaign.rate,
            send_window: campaign.send_window.clone(),
            late: campaign.late,
            starts_at: forecast.starts_at,
            ends_at: forecast.ends_at,
            waiting_for: forecast.waiting_for,
            cost: cost.map(|(_, (cost, _))| cost),
        })
    }

    /// The lines of a campaign that are configured, and those that are not.
    fn lines_of(&self, campaign: &Campaign) -> (Vec<Line>, Vec<LineId>) {
        let (configured, mut lines, mut unknown) = (self.state.lines.get(), Vec::new(), Vec::new());
        for id in &campaign.lines {
            match configured.by_id(id) {
                Some(line) => lines.push(line.clone()),
                None => unknown.push(id.clone()),
            }
        }
        (lines, unknown)
    }

    /// The template of a campaign in Meta's list. `line` is one of its lines, if any is configured.
    async fn listed(&self, campaign: &Campaign, line: Option<&Line>) -> Result<StoredTemplate> {
        let (name, language) = (&campaign.template.name, campaign.template.language.as_str());
        match line {
            Some(line) => Ok(self.state.store.template(&line.waba, name, language).await?),
            None => Ok(StoredTemplate::NotSynced),
        }
    }
}

fn template(campaign: &Campaign, listed: &StoredTemplate) -> PreflightTemplate {
    let known = match listed {
        StoredTemplate::Found(template) => Some(template),
        StoredTemplate::Missing | StoredTemplate::NotSynced => None,
    };
    let quality = known.map(|template| template.quality_score.clone()).filter(|score| !score.is_empty());
    let template = &campaign.template;
    PreflightTemplate {
        template: TemplateName { name: template.name.clone(), language: template.language.as_str().to_owned() },
        category: template.category.to_string(),
        status: known.map(|template| template.status.to_string()),
        quality,
    }
}

fn budget(line: &Line, limited: Option<LimitedPlaces>, needed: u64) -> PreflightBudget {
    PreflightBudget {
        business: line.business.clone(),
        limit: limited.map(|limited| limited.limit),
        used_24h: limited.map(|limited| limited.places.used),
        remaining: limited.map(|limited| limited.places.left),
        needed,
    }
}
