//! From what a webhook says to its effect: whom each status and each answer is about, and what is committed for them.
//!
//! A status is taken only for a line of ours, from the WABA that owns it ([`super::lines`]). Our token names its recipient; it
//! counts only if its check is ours and if the line is one of its campaign's: a part may move between those, and no other line
//! sends for it. Such a token counts for any line, whichever this process lists. Without our token the message id is looked up,
//! for lines that the installation knows.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, PoisonError, RwLock},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tracing::{info, warn};

use super::{
    Unavailable, account,
    apply::{Committer, LocatedFact},
    faults::{FailureCause, FailureJudge, FailureOrigin},
    find::{self, MessageFinder},
    lines::{KnownLines, Owner},
    payload::{Inbound, Messages, Payload, Status, TemplateChange, WebhookChange, Word},
    search::Sought,
    tally::StatusTally,
};
use crate::{
    domain::{CampaignId, Hold, HoldScope, LineId, PartId, SharedTokenKey, Token, UnixMs, WabaId, Wamid, policy},
    redis::{
        Store, StoreError,
        clock::Clock,
        message_ids::RowRef,
        parked::Parked,
        parts::{Fact, Fingerprint, News},
    },
    telemetry::metrics::{self, StatusName, StatusResult, WebhookKind, WebhookResult},
};

/// Campaigns whose lines are remembered: far more than send at a time.
const CAMPAIGNS_MAX: usize = 10_000;
/// How often in a second an id is looked up though it hardly can be ours: Meta promises our token on every status but
/// `failed`, so what comes without it is mostly of another app that sends on the same line, as often as that sends.
const UNLIKELY_LOOKS_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("20 is not 0");

/// How often in a second the key of tokens is read again because a token is not signed by it. Another process may have made a
/// new key for a Redis that lost the old one; most such tokens are another installation's on the same WABA.
const KEY_READS_PER_SECOND: NonZeroU32 = NonZeroU32::new(4).expect("4 is not 0");

/// Turns webhooks into facts.
pub struct Receiver {
    store: Store,
    clock: Arc<Clock>,
    token_key: SharedTokenKey,
    lines: KnownLines,
    /// Campaigns. What is kept of them never changes, and a campaign that is gone never comes back.
    campaigns: RwLock<HashMap<CampaignId, Arc<Known>>>,
    committer: Committer,
    finder: MessageFinder,
    unlikely: DefaultDirectRateLimiter,
    key_reads: DefaultDirectRateLimiter,
    faults: FailureJudge,
}

/// What has to be known of a campaign; nothing if it is gone.
#[derive(Default)]
struct Known {
    lines: Vec<LineId>,
    /// Name and language.
    template: Option<(String, String)>,
}

/// News of one message of ours, or of another app's.
struct Heard<'a> {
    /// Its place among the changes.
    change: usize,
    line: LineId,
    token: Option<Token>,
    /// Empty where it was not told.
    wamid: &'a str,
    news: News,
    at: UnixMs,
    details: &'a str,
}

impl Receiver {
    /// `listed`: the lines that this process lists, with their WABAs.
    pub fn new(
        store: Store,
        clock: Arc<Clock>,
        token_key: SharedTokenKey,
        listed: &[(LineId, WabaId)],
        committer: Committer,
        finder: MessageFinder,
    ) -> Self {
        Self {
            lines: KnownLines::new(store.clone(), listed),
            faults: FailureJudge::new(store.clone()),
            store,
            clock,
            token_key,
            campaigns: RwLock::default(),
            committer,
            finder,
            unlikely: RateLimiter::direct(Quota::per_second(UNLIKELY_LOOKS_PER_SECOND)),
            key_reads: RateLimiter::direct(Quota::per_second(KEY_READS_PER_SECOND)),
        }
    }

    /// Returns when everything that the webhook says is in Redis.
    ///
    /// Errors: some of it may not be; let Meta deliver it again.
    pub async fn take(&self, payload: &Payload<'_>) -> Result<(), Unavailable> {
        let mut taking = Taking::new(payload);
        let result = self.take_all(payload, &mut taking).await;
        taking.record(payload, result.is_ok());
        result
    }

    async fn take_all(&self, payload: &Payload<'_>, taking: &mut Taking) -> Result<(), Unavailable> {
        let now = self.clock.now();
        self.know_key(payload).await.map_err(|cause| Unavailable::because(&cause))?;
        let mut heard = Vec::new();
        for (at, change) in payload.changes.iter().enumerate() {
            match change {
                WebhookChange::Messages(messages) => {
                    let owner = self.lines.owner(&messages.line, &messages.waba).await;
                    let owner = owner.map_err(|cause| Unavailable::because(&cause))?;
                    self.hear(at, messages, owner, now, &mut heard, taking);
                }
                WebhookChange::Template(change) => {
                    taking.used[at] =
                        self.take_template(change, now).await.map_err(|cause| Unavailable::because(&cause))?
                }
                WebhookChange::TemplateEdited(waba) => {
                    taking.used[at] = self.read_again(waba).await.map_err(|cause| Unavailable::because(&cause))?;
                }
                WebhookChange::Account(change) => {
                    let waba = self.lines.waba(&change.waba).await.map_err(|cause| Unavailable::because(&cause))?;
                    if let Some(waba) = waba {
                        let taken = account::take(&self.store, &waba, change, now).await;
                        taken.map_err(|cause| Unavailable::because(&cause))?;
                        taking.used[at] = true;
                    }
                }
                WebhookChange::Other | WebhookChange::Malformed => {}
            }
        }
        for failed in &heard {
            if let (News::Failed(code), Some(waba)) = (failed.news, waba_of(payload, failed.change)) {
                let cause = FailureCause { code, details: failed.details, at: failed.at };
                let origin = FailureOrigin { line: &failed.line, waba: &waba };
                self.faults.account(origin, cause, now).await.map_err(|cause| Unavailable::because(&cause))?;
            }
        }
        let (mut facts, mut unnamed) = (Vec::with_capacity(heard.len()), Vec::new());
        for heard in heard {
            match heard.token {
                Some(token)
                    if self
                        .known(token.part.campaign)
                        .await
                        .map_err(|cause| Unavailable::because(&cause))?
                        .lines
                        .contains(&heard.line) =>
                {
                    taking.used[heard.change] = true;
                    facts.push((heard.change, heard.line.clone(), heard.placed(token)));
                }
                Some(_) => taking.tally.add(heard.news, StatusResult::Unknown),
                None => unnamed.push(heard),
            }
        }
        self.look_up(unnamed, now, &mut facts, taking).await?;
        let mut judged = Vec::with_capacity(facts.len());
        for (change, line, mut placed) in facts {
            if let Some(waba) = waba_of(payload, change) {
                let origin = FailureOrigin { line: &line, waba: &waba };
                self.judge(origin, &mut placed, now).await.map_err(|cause| Unavailable::because(&cause))?;
            }
            judged.push(placed);
        }
        self.committer.commit(judged).await
    }

    async fn judge(&self, origin: FailureOrigin<'_>, placed: &mut LocatedFact, now: UnixMs) -> Result<(), StoreError> {
        let known = match placed.fact.news {
            News::Failed(_) => Some(self.known(placed.part.campaign).await?),
            _ => None,
        };
        self.faults.judge(origin, known.as_ref().and_then(|known| known.template.as_ref()), placed, now).await
    }

    /// Reads the key of tokens again if a token looks like ours and is not signed by the key that is known here.
    async fn know_key(&self, payload: &Payload<'_>) -> Result<(), StoreError> {
        let key = self.token_key.get();
        let is_strange = |text: &str| Token::is_like(text) && Token::read(&key, text).is_none();
        let is_unknown = payload.changes.iter().any(|change| match change {
            WebhookChange::Messages(messages) => {
                messages.statuses.iter().any(|status| status.token.as_deref().is_some_and(is_strange))
                    || messages.inbound.iter().any(|inbound| inbound.payload.as_deref().is_some_and(is_strange))
            }
            _ => false,
        });
        if is_unknown && self.key_reads.check().is_ok() {
            self.store.refresh_token_key().await?;
        }
        Ok(())
    }

    fn hear<'a>(
        &'a self,
        change: usize,
        messages: &'a Messages<'_>,
        owner: Owner,
        now: UnixMs,
        heard: &mut Vec<Heard<'a>>,
        taking: &mut Taking,
    ) {
        let (line, only_with_token) = match owner {
            Owner::Ours(line) => (line, false),
            Owner::Unknown(line) => (line, true),
            Owner::Foreign => {
                for status in &messages.statuses {
                    taking.tally.add_named(name(status.word), StatusResult::Foreign);
                }
                return;
            }
        };
        let key = self.token_key.get();
        for status in &messages.statuses {
            let token = status.token.as_deref().and_then(|text| Token::read(&key, text));
            if only_with_token && token.is_none() {
                taking.tally.add_named(name(status.word), StatusResult::Foreign);
                continue;
            }
            match news(status) {
                Some(news) => heard.push(Heard {
                    change,
                    line: line.clone(),
                    token,
                    wamid: &status.wamid,
                    news,
                    at: status.at.unwrap_or(now),
                    details: &status.details,
                }),
                None => taking.tally.add_named(StatusName::Other, StatusResult::Ignored),
            }
        }
        let answer = |inbound: &'a Inbound<'_>| Heard {
            change,
            line: line.clone(),
            token: inbound.payload.as_deref().and_then(|text| Token::read(&key, text)),
            wamid: inbound.answers.as_deref().unwrap_or_default(),
            news: News::Replied,
            at: inbound.at.unwrap_or(now),
            details: "",
        };
        let answers = messages.inbound.iter().map(answer);
        heard.extend(answers.filter(|heard| !only_with_token || heard.token.is_some()));
    }

    async fn known(&self, campaign: CampaignId) -> Result<Arc<Known>, StoreError> {
        if let Some(known) = self.campaigns.read().unwrap_or_else(PoisonError::into_inner).get(&campaign) {
            return Ok(known.clone());
        }
        let known = self.store.campaign(campaign).await?.map_or_else(Known::default, |record| {
            let template = record.campaign.template;
            let template = Some((template.name, template.language.to_string()));
            Known { lines: record.campaign.lines, template }
        });
        let known = Arc::new(known);
        let mut campaigns = self.campaigns.write().unwrap_or_else(PoisonError::into_inner);
        if campaigns.len() >= CAMPAIGNS_MAX {
            campaigns.clear();
        }
        campaigns.insert(campaign, known.clone());
        Ok(known)
    }

    /// Looks for the recipients of what came without our token. Failures that are not found are parked, and answers that were not
    /// searched for to the end.
    async fn look_up(
        &self,
        unnamed: Vec<Heard<'_>>,
        now: UnixMs,
        facts: &mut Vec<(usize, LineId, LocatedFact)>,
        taking: &mut Taking,
    ) -> Result<(), Unavailable> {
        let mut by_line: HashMap<LineId, Vec<Heard<'_>>> = HashMap::new();
        for heard in unnamed {
            let likely = matches!(heard.news, News::Failed(_) | News::Replied);
            if !heard.wamid.is_empty() && (likely || self.unlikely.check().is_ok()) {
                by_line.entry(heard.line.clone()).or_default().push(heard);
            } else {
                taking.tally.add(heard.news, StatusResult::Unknown);
            }
        }
        let mut parked = Vec::new();
        for (line, unnamed) in by_line {
            let wamids = unnamed.iter().map(|heard| heard.wamid.into()).collect();
            for (heard, sought) in unnamed.iter().zip(self.finder.find(line, wamids).await?) {
                let in_grace_period = find::next_look(heard.at, now).is_some();
                match (sought, heard.news) {
                    (Sought::Found(place), _) => facts.push((heard.change, heard.line.clone(), heard.found(place))),
                    (Sought::Nowhere, News::Failed(code)) if in_grace_period => {
                        parked.push(heard.parked(Some(code), now))
                    }
                    (Sought::Unfinished, News::Failed(code)) => parked.push(heard.parked(Some(code), now)),
                    (Sought::Unfinished, News::Replied) => parked.push(heard.parked(None, now)),
                    (_, news) => {
                        taking.tally.add(news, StatusResult::Unknown);
                        continue;
                    }
                }
                taking.used[heard.change] = true;
            }
        }
        if !parked.is_empty() {
            self.store
                .park(&parked, find::next_look(now, now).unwrap_or(now))
                .await
                .map_err(|cause| Unavailable::because(&cause))?;
            parked.iter().for_each(|parked| taking.tally.add(find::news(parked), StatusResult::Parked));
        }
        Ok(())
    }

    /// Has the templates of a WABA read again. Gives whether the WABA is ours.
    async fn read_again(&self, waba: &str) -> Result<bool, StoreError> {
        let Some(waba) = self.lines.waba(waba).await? else { return Ok(false) };
        self.store.note_changed_templates(&waba).await?;
        Ok(true)
    }

    /// Holds a template back, or lets it go, and has the templates read again. Gives whether the change is of use.
    ///
    /// Updates may come late and in any order; the next reading of Meta's list of templates mends what that spoils.
    async fn take_template(&self, change: &TemplateChange<'_>, now: UnixMs) -> Result<bool, StoreError> {
        let Some(waba) = self.lines.waba(&change.waba).await? else { return Ok(false) };
        self.store.note_changed_templates(&waba).await?;
        let (name, language) = (change.name.to_string(), change.language.to_string());
        let scope = HoldScope::Template { waba, name, language };
        match &*change.event {
            "APPROVED" | "REINSTATED" | "UNARCHIVED" => {
                info!(scope = %scope, event = %change.event, "meta lets the template go");
                self.store.unhold(&scope).await?;
            }
            "PAUSED" | "DISABLED" | "REJECTED" | "PENDING" | "IN_APPEAL" | "LOCKED" | "LIMIT_EXCEEDED" | "DELETED"
            | "PENDING_DELETION" | "ARCHIVED" => {
                let because = if change.reason.is_empty() { "" } else { ": " };
                let reason = format!("meta says {}{because}{}", change.event, change.reason);
                warn!(scope = %scope, reason, "meta holds the template back");
                self.store.hold(&scope, &Hold { code: 0, reason, since: now, until: None }).await?;
            }
            // FLAGGED warns of a pause and changes nothing yet; of an unknown word, Meta's answers to sends tell.
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Heard<'_> {
    fn placed(&self, token: Token) -> LocatedFact {
        self.fact(token.part, token.row, token.send)
    }

    fn found(&self, (part, claimed): RowRef) -> LocatedFact {
        self.fact(part, claimed.row, claimed.send)
    }

    fn fact(&self, part: PartId, row: u16, send: u8) -> LocatedFact {
        let message = (!self.wamid.is_empty()).then(|| Fingerprint::of(self.wamid));
        let fact = Fact { row, send, news: self.news, at: self.at, message };
        LocatedFact { part, fact, details: self.details.into() }
    }

    fn parked(&self, code: Option<u32>, now: UnixMs) -> Parked {
        Parked {
            line: self.line.clone(),
            wamid: Wamid::from(self.wamid),
            code,
            details: self.details.to_owned(),
            // A time to come would have it looked for until then.
            at: self.at.min(now),
        }
    }
}

/// What is counted of one webhook.
struct Taking {
    /// For each change, whether anything of it was of use.
    used: Vec<bool>,
    tally: StatusTally,
}

impl Taking {
    fn new(payload: &Payload<'_>) -> Self {
        Self { used: vec![false; payload.changes.len()], tally: StatusTally::default() }
    }

    fn record(&self, payload: &Payload<'_>, committed: bool) {
        if committed {
            self.tally.record();
        }
        for (change, &used) in payload.changes.iter().zip(&self.used) {
            let result = match change {
                WebhookChange::Malformed => WebhookResult::Malformed,
                _ if !committed => WebhookResult::Unavailable,
                _ if used => WebhookResult::Taken,
                _ => WebhookResult::Ignored,
            };
            let kind = match change {
                WebhookChange::Messages(messages) if messages.statuses.is_empty() => WebhookKind::Messages,
                WebhookChange::Messages(_) => WebhookKind::Statuses,
                WebhookChange::Template(_)
                | WebhookChange::TemplateEdited(_)
                | WebhookChange::Account(_)
                | WebhookChange::Other
                | WebhookChange::Malformed => WebhookKind::Other,
            };
            metrics::webhook(kind, result, 1);
        }
    }
}

/// The WABA that told a change of messages.
fn waba_of(payload: &Payload<'_>, change: usize) -> Option<WabaId> {
    match payload.changes.get(change) {
        Some(WebhookChange::Messages(messages)) => Some(WabaId::from(&*messages.waba)),
        _ => None,
    }
}

fn name(word: Word) -> StatusName {
    match word {
        Word::Sent => StatusName::Sent,
        Word::Delivered => StatusName::Delivered,
        Word::Read => StatusName::Read,
        Word::Failed => StatusName::Failed,
        Word::Other => StatusName::Other,
    }
}

fn news(status: &Status<'_>) -> Option<News> {
    match status.word {
        Word::Sent => Some(News::Sent),
        Word::Delivered => Some(News::Delivered),
        Word::Read => Some(News::Read),
        Word::Failed => Some(News::Failed(status.code.unwrap_or(policy::NO_REASON))),
        Word::Other => None,
    }
}
