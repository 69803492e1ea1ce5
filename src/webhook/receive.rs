//! Processes a webhook: finds the recipient of each status and reply, and commits the resulting facts.
//!
//! News of a known line counts only if it comes from the WABA that owns the line ([`super::lines`]). News of an unknown
//! line counts only with our token.
//!
//! The token names the recipient. It is valid only if its checksum is correct and the line is one of its campaign: a
//! part may move between the campaign's lines, and no other line sends for it. Without a token, the message id is
//! looked up.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, PoisonError, RwLock},
};

use super::{
    Unavailable, account,
    apply::{Changes, Committer, LineMessage, LocatedFact},
    caps::Unreached,
    faults::{FailedMessage, FailureCause, FailureJudge},
    fields::{
        WebhookChange,
        messages::{
            Messages,
            status::{Status, StatusKind},
        },
        user_preferences::Preference,
    },
    find::{self, MessageFinder},
    inbound_counts::InboundCounter,
    last_campaign::{LastCampaigns, Unattributed},
    lines::{KnownLines, LineOwner},
    payload::Payload,
    places::{LimitedBusinesses, PlaceChanges},
    search::SearchResult,
    tally::StatusTally,
    templates,
    wishes::{Wish, Wished, Wishes},
    withheld::WithheldPeople,
};
use crate::{
    domain::{
        CallingCode, Campaign, CampaignId, ChatMessageId, ClaimedRow, ErrorOrigin, Fact, FailureReason, Fingerprint,
        Inbound, Language, LineId, Lines, Live, News, OnWithheld, PartId, Phone, SharedTokenKey, State,
        SuppressionScope, SuppressionSource, Token, TokenKey, UnixMs, WabaId, Wamid, campaign::OptOutButton,
        chat::ChatStatus, inbound::Content, policy,
    },
    redis::{Store, StoreError, clock::Clock, inbound::NewInbound, message_ids::RowRef, parked::Parked},
    rules::stop_words::StopWords,
    telemetry::{
        clock,
        metrics::{self, StatusName, StatusResult, WebhookKind, WebhookResult},
    },
};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// Capacity of the campaign cache: far more campaigns than send at a time.
const CAMPAIGNS_MAX: usize = 10_000;
/// Maximum number of statuses of chats that wait on a line for its reader. Then Meta has to deliver webhooks with more of
/// them again.
const CHAT_RESULTS_MAX: u64 = 100_000;
/// Limit on lookups per second of ids that are unlikely to be ours. Meta promises our token on every status but
/// `failed`, so other statuses without it mostly belong to another app on the same line, and come as often as that app
/// sends.
const UNLIKELY_LOOKUPS_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("20 is not 0");

/// Limit on reads per second of the token key. A token that the cached key did not sign causes a read, because another
/// process may have created a new key after Redis lost the old one. But most such tokens belong to another
/// installation on the same WABA.
const KEY_READS_PER_SECOND: NonZeroU32 = NonZeroU32::new(4).expect("4 is not 0");

/// Turns webhooks into facts.
pub struct Receiver {
    store: Store,
    clock: Arc<Clock>,
    token_key: SharedTokenKey,
    lines: KnownLines,
    /// Never invalidated: lines and template of a campaign never change, and a deleted campaign never returns.
    campaigns: RwLock<HashMap<CampaignId, Arc<CampaignInfo>>>,
    committer: Committer,
    finder: MessageFinder,
    last_campaigns: LastCampaigns,
    unlikely_lookups: DefaultDirectRateLimiter,
    key_reads: DefaultDirectRateLimiter,
    faults: FailureJudge,
    limited: LimitedBusinesses,
    inbound_counter: InboundCounter,
    stop_words: Live<StopWords>,
}

/// The part of a campaign's definition that webhooks need; empty if the campaign was deleted.
#[derive(Default)]
struct CampaignInfo {
    lines: Vec<LineId>,
    /// Name and language of the template.
    template: Option<(String, Language)>,
    on_withheld: OnWithheld,
    opt_out_buttons: Vec<OptOutButton>,
}

/// A status or a reply about one message, which may be another app's.
struct ReceivedNews<'a> {
    /// The index of its change in the webhook.
    change: usize,
    /// The WABA that the webhook names.
    waba: &'a str,
    line: LineId,
    token: Option<Token>,
    /// Empty if Meta did not send it.
    wamid: &'a str,
    news: News,
    at: UnixMs,
    details: &'a str,
    /// The index of the reply in [`Received::messages`], if it is one that is stored.
    message: Option<usize>,
    /// The recipient of the message, if Meta names it.
    recipient: Option<Phone>,
    /// The number of the person who replied, if the reply may answer the last campaign.
    sender: Option<Phone>,
    /// Whether the reply may answer the last campaign.
    is_answer: bool,
    /// The messages that the reply opts out of, if it is a stop word.
    stops: Option<SuppressionScope>,
    /// The text on the button of the template that the person tapped.
    tapped: Option<&'a str>,
}

/// The news and messages in a webhook.
#[derive(Default)]
struct Received<'a> {
    /// Statuses and replies that may be about messages of ours.
    news: Vec<ReceivedNews<'a>>,
    /// Messages from people.
    messages: Vec<LineMessage>,
}

impl Receiver {
    /// `listed`: the lines that this process lists.
    pub fn new(
        store: Store,
        clock: Arc<Clock>,
        token_key: SharedTokenKey,
        listed: Live<Lines>,
        committer: Committer,
        finder: MessageFinder,
        inbound_counter: InboundCounter,
    ) -> Self {
        Self {
            lines: KnownLines::new(store.clone(), listed),
            faults: FailureJudge::new(store.clone()),
            limited: LimitedBusinesses::new(store.clone()),
            last_campaigns: LastCampaigns::new(store.clone()),
            store,
            clock,
            token_key,
            campaigns: RwLock::default(),
            committer,
            finder,
            unlikely_lookups: RateLimiter::direct(Quota::per_second(UNLIKELY_LOOKUPS_PER_SECOND)),
            key_reads: RateLimiter::direct(Quota::per_second(KEY_READS_PER_SECOND)),
            inbound_counter,
            stop_words: Live::default(),
        }
    }

    /// Sets the stop words, with which people opt out.
    pub fn with_stop_words(self, stop_words: Live<StopWords>) -> Self {
        Self { stop_words, ..self }
    }

    /// Returns when all effects of the webhook are stored in Redis.
    ///
    /// Errors: some effects may be missing; let Meta deliver the webhook again.
    pub async fn process(&self, payload: &Payload<'_>) -> Result<(), Unavailable> {
        let mut counts = WebhookCounts::new(payload);
        let result = self.process_changes(payload, &mut counts).await;
        counts.record(payload, result.is_ok());
        result
    }

    async fn process_changes(&self, payload: &Payload<'_>, counts: &mut WebhookCounts) -> Result<(), Unavailable> {
        let now = self.clock.now();
        self.refresh_key_if_stale(payload).await.map_err(|cause| Unavailable::because(&cause))?;
        let (mut received, mut wishes, listed) = (Received::default(), Wishes::default(), self.lines.listed());
        for (index, (entry, change)) in payload.changes().enumerate() {
            match change {
                WebhookChange::Messages(messages) => {
                    let owner = self.lines.owner(&messages.line, &entry.waba).await;
                    let owner = owner.map_err(|cause| Unavailable::because(&cause))?;
                    self.collect((index, &entry.waba), messages, owner, now, &mut received, counts);
                }
                WebhookChange::Preferences(preferences) => {
                    let owner = self.lines.owner(&preferences.line, &entry.waba).await;
                    let owner = owner.map_err(|cause| Unavailable::because(&cause))?;
                    if let LineOwner::Ours(line) = owner
                        && let Some(business) = listed.business(&line)
                    {
                        for Preference { phone, stops, at } in &preferences.people {
                            let wish = if *stops { Wish::STOP_MARKETING } else { Wish::Resume };
                            let (phone, at) = (*phone, at.unwrap_or(now));
                            wishes.add(business, Wished { phone, wish, at, message: None });
                        }
                        counts.used[index] = true;
                    }
                }
                WebhookChange::Template(change) => {
                    let waba = self.lines.waba(&entry.waba).await.map_err(|cause| Unavailable::because(&cause))?;
                    if let Some(waba) = waba {
                        let at = entry.at.unwrap_or(now);
                        let applied = templates::apply(&self.store, &waba, change, at, now).await;
                        counts.used[index] = applied.map_err(|cause| Unavailable::because(&cause))?;
                    }
                }
                WebhookChange::TemplateEdited => {
                    let noted = self.note_edited_templates(&entry.waba).await;
                    counts.used[index] = noted.map_err(|cause| Unavailable::because(&cause))?;
                }
                WebhookChange::Account(change) => {
                    let waba = self.lines.waba(&entry.waba).await.map_err(|cause| Unavailable::because(&cause))?;
                    if let Some(waba) = waba {
                        let at = entry.at.unwrap_or(now);
                        let business = listed.of_waba(&waba).next().map(|line| &line.business);
                        let applied = account::apply(&self.store, &waba, business, change, at, now).await;
                        applied.map_err(|cause| Unavailable::because(&cause))?;
                        counts.used[index] = true;
                    }
                }
                WebhookChange::Other | WebhookChange::Malformed => {}
            }
        }
        let Received { news, mut messages } = received;
        for failed in &news {
            if let News::Failed(reason) = failed.news {
                let waba = WabaId::from(failed.waba);
                let cause = FailureCause { reason, details: failed.details, at: failed.at };
                let origin = Self::origin(&listed, failed, &waba);
                self.faults.judge_account(origin, cause, now).await.map_err(|cause| Unavailable::because(&cause))?;
            }
        }
        let limited = self.limited.get().await;
        let capped = |line: &LineId| {
            let line = listed.by_id(line).filter(|line| line.frequency_cap.is_some());
            line.map(|line| &line.business)
        };
        let business = |line: &LineId| listed.business(line).filter(|business| limited.contains(*business));
        let (mut places, mut withheld, key) =
            (PlaceChanges::default(), WithheldPeople::default(), self.token_key.get());
        for item in &news {
            if let (Some(business), Some(sender)) = (business(&item.line), item.sender) {
                places.add_wrote(business, &item.line, sender.into(), item.at);
            }
            Self::note_person(&listed, item, &messages, (&mut wishes, &mut withheld), &key);
        }
        let (mut facts, mut without_token) = (Vec::with_capacity(news.len()), Vec::new());
        let mut chats: HashMap<LineId, Vec<ChatStatus>> = HashMap::new();
        for item in news {
            match item.token {
                Some(Token::Campaign { part, claimed }) if self.sends_on(part, &item.line).await? => {
                    counts.used[item.change] = true;
                    let located = item.fact(part, claimed);
                    facts.push((item, located));
                }
                Some(Token::Chat { id, send }) if item.news != News::Replied => {
                    counts.used[item.change] = true;
                    counts.tally.add(item.news, StatusResult::Applied);
                    chats.entry(item.line.clone()).or_default().push(item.of_chat(Some(id), send));
                }
                Some(_) => counts.tally.add(item.news, StatusResult::Unknown),
                None => without_token.push(item),
            }
        }
        self.store_chat_statuses(chats).await?;
        let unmatched = self.look_up(without_token, now, &mut facts, counts).await?;
        self.match_last_campaigns(unmatched, now, &mut facts).await.map_err(|cause| Unavailable::because(&cause))?;
        for (item, located) in facts.iter_mut().filter(|(item, _)| item.misses_number()) {
            let number = self.store.number(located.part, located.fact.row).await;
            item.name_person(number.map_err(|cause| Unavailable::because(&cause))?);
            Self::note_person(&listed, item, &messages, (&mut wishes, &mut withheld), &key);
        }
        // Stored before the facts, because the facts can make a withheld message claimable: its next attempt must find
        // the person stored.
        withheld.store(&self.store, now).await.map_err(|cause| Unavailable::because(&cause))?;
        self.add_tapped_opt_outs(&listed, &facts, &messages, &mut wishes)
            .await
            .map_err(|cause| Unavailable::because(&cause))?;
        wishes.store(&self.store, &self.token_key).await.map_err(|cause| Unavailable::because(&cause))?;
        let were_held = self.were_held(&facts).await.map_err(|cause| Unavailable::because(&cause))?;
        let (mut judged, mut unreached) = (Vec::with_capacity(facts.len()), Unreached::default());
        for ((item, mut located), was_held) in facts.into_iter().zip(were_held) {
            let waba = WabaId::from(item.waba);
            let origin = Self::origin(&listed, &item, &waba);
            self.judge(origin, was_held, &mut located, now).await.map_err(|cause| Unavailable::because(&cause))?;
            if let Some(message) = item.message {
                messages[message].message.answers =
                    Some((located.part, ClaimedRow { row: located.fact.row, send: located.fact.send }));
            }
            if let (Some(business), Some(recipient)) = (business(&item.line), item.recipient) {
                places.add_fate(business, &item.line, recipient.into(), &located);
            }
            if let (Some(business), Some(recipient)) = (capped(&item.line), item.recipient) {
                unreached.add(business, recipient, &located, &self.token_key.get());
            }
            judged.push(located);
        }
        // Uncounted before the facts, because the facts can make a message claimable: its next send must not be blocked
        // by the count of this one.
        unreached.give_back(&self.store).await.map_err(|cause| Unavailable::because(&cause))?;
        self.committer.commit(Changes { facts: judged, messages }).await?;
        self.limited.note(places, now).await.map_err(|cause| Unavailable::because(&cause))
    }

    /// Adds the wish of the person, and the person from whom Meta withheld marketing, if the number is known.
    fn note_person(
        listed: &Lines,
        item: &ReceivedNews<'_>,
        messages: &[LineMessage],
        (wishes, withheld): (&mut Wishes, &mut WithheldPeople),
        key: &TokenKey,
    ) {
        let Some(business) = listed.business(&item.line) else { return };
        if let Some((phone, wish)) = Self::wish(item) {
            let message = item.of_wish(messages);
            wishes.add(business, Wished { phone, wish, at: item.at, message });
        }
        if let Some(recipient) = item.recipient.filter(|_| WithheldPeople::is_concerned(item.news)) {
            withheld.add(business, recipient, item.at, key);
        }
    }

    /// The wish of a person who sent a stop word, or whose message failed because the person had stopped marketing.
    fn wish(item: &ReceivedNews<'_>) -> Option<(Phone, Wish)> {
        match item.news {
            News::Replied => {
                let (scope, source) = (item.stops?, SuppressionSource::StopWord);
                Some((item.sender?, Wish::Stop { scope, source }))
            }
            News::Failed(reason) if policy::stops_marketing(reason) => Some((item.recipient?, Wish::STOP_MARKETING)),
            _ => None,
        }
    }

    /// Adds the wishes of people who tapped an opt-out button of a campaign.
    async fn add_tapped_opt_outs(
        &self,
        listed: &Lines,
        facts: &[(ReceivedNews<'_>, LocatedFact)],
        messages: &[LineMessage],
        wishes: &mut Wishes,
    ) -> Result<(), StoreError> {
        for (item, located) in facts {
            let (Some(text), Some(sender)) = (item.tapped, item.sender) else { continue };
            let campaign = self.campaign_info(located.part.campaign).await?;
            let button = campaign.opt_out_buttons.iter().find(|button| button.text == text);
            if let (Some(button), Some(business)) = (button, listed.business(&item.line)) {
                let wish = Wish::Stop { scope: button.scope, source: SuppressionSource::Button };
                let message = item.of_wish(messages);
                wishes.add(business, Wished { phone: sender, wish, at: item.at, message });
            }
        }
        Ok(())
    }

    fn origin<'a>(listed: &'a Lines, item: &'a ReceivedNews<'_>, waba: &'a WabaId) -> ErrorOrigin<'a> {
        let business = listed.business(&item.line);
        ErrorOrigin { line: &item.line, waba, business, country: item.recipient.map(CallingCode::of), template: None }
    }

    /// For each fact, whether it is a failure of a message that Meta kept back. Looked up only for failures that may be
    /// drops by pacing.
    async fn were_held(&self, facts: &[(ReceivedNews<'_>, LocatedFact)]) -> Result<Vec<bool>, StoreError> {
        let send = |(_, located): &(ReceivedNews<'_>, LocatedFact)| {
            let LocatedFact { part, fact: Fact { row, send, news, .. }, .. } = *located;
            let may_be_a_drop = matches!(news, News::Failed(reason) if policy::may_be_a_drop(reason));
            may_be_a_drop.then_some((part, ClaimedRow { row, send }))
        };
        self.store.are_held(&facts.iter().map(send).collect::<Vec<_>>()).await
    }

    async fn judge(
        &self,
        origin: ErrorOrigin<'_>,
        was_held: bool,
        located: &mut LocatedFact,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let campaign = match located.fact.news {
            News::Failed(_) => Some(self.campaign_info(located.part.campaign).await?),
            _ => None,
        };
        let template = campaign.as_ref().and_then(|campaign| campaign.template.as_ref());
        let on_withheld = campaign.as_ref().map(|campaign| campaign.on_withheld).unwrap_or_default();
        self.faults.judge(FailedMessage { origin, template, was_held, on_withheld }, located, now).await
    }

    /// Stores what Meta reports about messages of chats, for the readers of their lines.
    async fn store_chat_statuses(&self, by_line: HashMap<LineId, Vec<ChatStatus>>) -> Result<(), Unavailable> {
        for (line, statuses) in by_line {
            let stored = self.store.note_chat_statuses(&line, &statuses, CHAT_RESULTS_MAX).await;
            if !stored.map_err(|cause| Unavailable::because(&cause))? {
                return Err(Unavailable::chats_are_full(&line));
            }
        }
        Ok(())
    }

    /// Whether the campaign of a part sends on `line`.
    async fn sends_on(&self, part: PartId, line: &LineId) -> Result<bool, Unavailable> {
        let campaign = self.campaign_info(part.campaign).await.map_err(|cause| Unavailable::because(&cause))?;
        Ok(campaign.lines.contains(line))
    }

    /// Reads the token key again if a token has our prefix but is not signed by the cached key.
    async fn refresh_key_if_stale(&self, payload: &Payload<'_>) -> Result<(), StoreError> {
        let key = self.token_key.get();
        let is_unverified = |text: &str| Token::has_prefix(text) && Token::read(&key, text).is_none();
        let has_unverified = payload.changes().any(|(_, change)| match change {
            WebhookChange::Messages(messages) => {
                messages.statuses.iter().any(|status| status.token.as_deref().is_some_and(is_unverified))
                    || messages.inbound.iter().any(|inbound| inbound.payload().is_some_and(is_unverified))
            }
            _ => false,
        });
        if has_unverified && self.key_reads.check().is_ok() {
            self.store.refresh_token_key().await?;
        }
        Ok(())
    }

    /// Appends to `received` the news in `messages` that may be about messages of ours, and the messages from people.
    fn collect<'a>(
        &'a self,
        (change, waba): (usize, &'a str),
        messages: &'a Messages<'_>,
        owner: LineOwner,
        now: UnixMs,
        received: &mut Received<'a>,
        counts: &mut WebhookCounts,
    ) {
        let (line, only_with_token) = match owner {
            LineOwner::Ours(line) => (line, false),
            LineOwner::Unknown(line) => (line, true),
            LineOwner::Foreign => {
                for status in &messages.statuses {
                    counts.tally.add_named(name(status.kind), StatusResult::Foreign);
                }
                return;
            }
        };
        let (key, stop_words) = (self.token_key.get(), self.stop_words.get());
        for status in &messages.statuses {
            let token = status.token.as_deref().and_then(|text| Token::read(&key, text));
            if only_with_token && token.is_none() {
                counts.tally.add_named(name(status.kind), StatusResult::Foreign);
                continue;
            }
            match news(status) {
                Some(news) => received.news.push(ReceivedNews {
                    change,
                    waba,
                    line: line.clone(),
                    token,
                    wamid: &status.wamid,
                    news,
                    // A time in the future would extend what counts from it, such as a day without marketing.
                    at: status.at.unwrap_or(now).min(now),
                    details: &status.details,
                    recipient: recipient(status),
                    message: None,
                    sender: None,
                    is_answer: false,
                    stops: None,
                    tapped: None,
                }),
                None => counts.tally.add_named(StatusName::Other, StatusResult::Ignored),
            }
        }
        for inbound in &messages.inbound {
            let token = inbound.payload().and_then(|text| Token::read(&key, text));
            if only_with_token && token.is_none() {
                continue;
            }
            let message = (!only_with_token).then(|| {
                self.inbound_counter.count(&line, inbound.at.unwrap_or(now), now);
                received.messages.push(LineMessage { line: line.clone(), message: new_inbound(inbound) });
                counts.used[change] = true;
                received.messages.len() - 1
            });
            if let Content::Echo { .. } = inbound.content {
                continue;
            }
            received.news.push(ReceivedNews {
                change,
                waba,
                line: line.clone(),
                token,
                wamid: inbound.answers().map(Wamid::as_str).unwrap_or_default(),
                news: News::Replied,
                at: inbound.at.unwrap_or(now),
                details: "",
                recipient: None,
                message,
                sender: message.and_then(|_| sender(inbound)),
                is_answer: message.is_some() && is_answer(inbound),
                stops: match &inbound.content {
                    Content::Text(text) => stop_words.stopped_by(text),
                    _ => None,
                },
                tapped: match &inbound.content {
                    Content::Tap(tap) => tap.text.as_deref(),
                    _ => None,
                },
            });
        }
    }

    async fn campaign_info(&self, campaign: CampaignId) -> Result<Arc<CampaignInfo>, StoreError> {
        if let Some(info) = self.campaigns.read().unwrap_or_else(PoisonError::into_inner).get(&campaign) {
            return Ok(info.clone());
        }
        let info = self.store.campaign(campaign).await?.map_or_else(CampaignInfo::default, |record| {
            let Campaign { lines, template, on_withheld, opt_out_buttons, .. } = record.campaign;
            CampaignInfo { lines, template: Some((template.name, template.language)), on_withheld, opt_out_buttons }
        });
        let info = Arc::new(info);
        let mut campaigns = self.campaigns.write().unwrap_or_else(PoisonError::into_inner);
        if campaigns.len() >= CAMPAIGNS_MAX {
            campaigns.clear();
        }
        campaigns.insert(campaign, info.clone());
        Ok(info)
    }

    /// Looks up the recipients of news without our token by the message id. Parks failures that were not found, and
    /// failures and replies whose search did not finish. Returns the replies without a recipient. Statuses that were not
    /// found may be about messages of chats, which the readers of the lines know.
    async fn look_up<'a>(
        &self,
        without_token: Vec<ReceivedNews<'a>>,
        now: UnixMs,
        facts: &mut Vec<(ReceivedNews<'a>, LocatedFact)>,
        counts: &mut WebhookCounts,
    ) -> Result<Vec<ReceivedNews<'a>>, Unavailable> {
        let mut by_line: HashMap<LineId, Vec<ReceivedNews<'a>>> = HashMap::new();
        let mut unmatched = Vec::new();
        for item in without_token {
            let is_likely = matches!(item.news, News::Failed(_) | News::Replied);
            if !item.wamid.is_empty() && (is_likely || self.unlikely_lookups.check().is_ok()) {
                by_line.entry(item.line.clone()).or_default().push(item);
            } else if item.news == News::Replied {
                unmatched.push(item);
            } else {
                counts.tally.add(item.news, StatusResult::Unknown);
            }
        }
        let mut parked = Vec::new();
        for (line, without_token) in by_line {
            let wamids = without_token.iter().map(|item| item.wamid.into()).collect();
            let results = self.finder.find(line.clone(), wamids).await?;
            let is_unnamed = |(item, result): &(&ReceivedNews<'_>, &SearchResult)| {
                item.news != News::Replied && !matches!(result, SearchResult::Found(_))
            };
            let unnamed = without_token.iter().zip(&results).filter(is_unnamed);
            let unnamed: Vec<ChatStatus> = unnamed.map(|(item, _)| item.of_chat(None, 0)).collect();
            if !unnamed.is_empty() {
                let noted = self.store.note_unnamed_statuses(&line, &unnamed).await;
                noted.map_err(|cause| Unavailable::because(&cause))?;
            }
            for (item, result) in without_token.into_iter().zip(results) {
                let may_appear = find::next_search(item.at, now).is_some();
                let change = item.change;
                match (result, item.news) {
                    (SearchResult::Found(row), _) => {
                        let located = item.by_row(row);
                        facts.push((item, located));
                    }
                    (SearchResult::NotFound, News::Failed(reason)) if may_appear => {
                        parked.push(item.to_parked(Some(reason), now))
                    }
                    (SearchResult::Unfinished, News::Failed(reason)) => parked.push(item.to_parked(Some(reason), now)),
                    // Only the campaign shows whether the tap is an opt-out, so Meta has to deliver the webhook again.
                    (SearchResult::Unfinished, News::Replied) if item.tapped.is_some() => {
                        return Err(Unavailable::unattributed_tap());
                    }
                    (SearchResult::Unfinished, News::Replied) => parked.push(item.to_parked(None, now)),
                    (SearchResult::NotFound, News::Replied) => {
                        unmatched.push(item);
                        continue;
                    }
                    (_, news) => {
                        counts.tally.add(news, StatusResult::Unknown);
                        continue;
                    }
                }
                counts.used[change] = true;
            }
        }
        if !parked.is_empty() {
            self.store
                .park(&parked, find::next_search(now, now).unwrap_or(now))
                .await
                .map_err(|cause| Unavailable::because(&cause))?;
            parked
                .iter()
                .for_each(|parked| counts.tally.add(find::news(parked, false, OnWithheld::Fail), StatusResult::Parked));
        }
        Ok(unmatched)
    }

    /// Attributes replies that name none of our messages to the last campaign that sent to the person.
    async fn match_last_campaigns<'a>(
        &self,
        replies: Vec<ReceivedNews<'a>>,
        now: UnixMs,
        facts: &mut Vec<(ReceivedNews<'a>, LocatedFact)>,
    ) -> Result<(), StoreError> {
        let with_sender = |item: ReceivedNews<'a>| {
            Some((Unattributed { line: item.line.clone(), sender: item.sender?, at: item.at }, item))
        };
        let (unattributed, replies): (Vec<_>, Vec<_>) = replies.into_iter().filter_map(with_sender).unzip();
        let rows = self.last_campaigns.find(&unattributed, now).await?;
        facts.extend(replies.into_iter().zip(rows).filter_map(|(item, row)| {
            let located = item.by_row(row?);
            Some((item, located))
        }));
        Ok(())
    }

    /// Marks the templates of a WABA as changed, so that they are read again. Returns whether the WABA is ours.
    async fn note_edited_templates(&self, waba: &str) -> Result<bool, StoreError> {
        let Some(waba) = self.lines.waba(waba).await? else { return Ok(false) };
        self.store.note_changed_templates(&waba).await?;
        Ok(true)
    }
}

/// The recipient of a message. Meta writes the digits without `+`.
fn recipient(status: &Status<'_>) -> Option<Phone> {
    Phone::from_digits(status.recipient.as_ref()?.parse().ok()?)
}

impl ReceivedNews<'_> {
    /// The fingerprint of the message that expresses a wish: one of `messages` from people, or one of ours that failed.
    fn of_wish(&self, messages: &[LineMessage]) -> Option<Fingerprint> {
        let ours = || (!self.wamid.is_empty()).then(|| Fingerprint::of(self.wamid));
        self.message.map_or_else(ours, |message| Some(messages[message].message.fingerprint))
    }

    /// Whether the number of the person is needed, for a wish or because Meta withheld marketing, but missing: Meta
    /// omits the number of people with a user name.
    fn misses_number(&self) -> bool {
        match self.news {
            News::Replied => self.is_answer && self.sender.is_none() && (self.stops.is_some() || self.tapped.is_some()),
            News::Failed(reason) => {
                let matters = policy::stops_marketing(reason) || WithheldPeople::is_concerned(self.news);
                matters && self.recipient.is_none()
            }
            _ => false,
        }
    }

    /// Adds the number of the person: the recipient of the message, who is also the sender of a reply.
    fn name_person(&mut self, number: Option<Phone>) {
        match self.news {
            News::Replied => self.sender = number,
            _ => self.recipient = number,
        }
    }

    /// What it says about a message of a chat.
    fn of_chat(&self, id: Option<ChatMessageId>, send: u32) -> ChatStatus {
        let state = match self.news {
            News::Sent | News::Replied => State::Sent,
            News::Delivered => State::Delivered,
            News::Read => State::Read,
            News::Failed(_) | News::Returned(_) | News::Withheld(_) => State::Failed,
        };
        ChatStatus {
            id,
            send,
            state,
            at: self.at,
            wamid: (!self.wamid.is_empty()).then(|| Wamid::from(self.wamid)),
            code: self.news.failure().and_then(FailureReason::code),
            details: self.details.to_owned(),
        }
    }

    fn by_row(&self, (part, claimed): RowRef) -> LocatedFact {
        self.fact(part, claimed)
    }

    fn fact(&self, part: PartId, ClaimedRow { row, send }: ClaimedRow) -> LocatedFact {
        let message = (!self.wamid.is_empty()).then(|| Wamid::from(self.wamid));
        let fact = Fact { row, send, news: self.news, at: self.at, message };
        LocatedFact { part, fact, details: self.details.into() }
    }

    fn to_parked(&self, failure: Option<FailureReason>, now: UnixMs) -> Parked {
        Parked {
            line: self.line.clone(),
            wamid: Wamid::from(self.wamid),
            failure,
            details: self.details.to_owned(),
            // A time in the future would extend the search for the message.
            at: self.at.min(now),
        }
    }
}

/// The counts of one webhook.
struct WebhookCounts {
    /// For each change, whether any of it was used.
    used: Vec<bool>,
    tally: StatusTally,
}

impl WebhookCounts {
    fn new(payload: &Payload<'_>) -> Self {
        Self { used: vec![false; payload.changes().count()], tally: StatusTally::default() }
    }

    fn record(&self, payload: &Payload<'_>, committed: bool) {
        if committed {
            self.tally.record();
            metrics::webhook_taken(clock::now());
        }
        for ((_, change), &used) in payload.changes().zip(&self.used) {
            let result = match change {
                WebhookChange::Malformed => WebhookResult::Malformed,
                _ if !committed => WebhookResult::Unavailable,
                _ if used => WebhookResult::Taken,
                _ => WebhookResult::Ignored,
            };
            let kind = match change {
                WebhookChange::Messages(messages) if messages.statuses.is_empty() => WebhookKind::Messages,
                WebhookChange::Messages(_) => WebhookKind::Statuses,
                _ => WebhookKind::Other,
            };
            metrics::webhook(kind, result, 1);
        }
    }
}

/// The message as it is stored. Meta gives each message an id; without one it is identified by its content.
fn new_inbound(inbound: &Inbound) -> NewInbound {
    let message = serde_json::to_string(inbound).expect("a message has only texts, numbers and JSON");
    let id = inbound.id.as_ref().map_or(message.as_str(), Wamid::as_str);
    NewInbound { fingerprint: Fingerprint::of(id), message, answers: None }
}

/// Whether a message may answer the last campaign. A message in a group does not, and neither does a change of the
/// person's account or of an earlier message.
fn is_answer(inbound: &Inbound) -> bool {
    inbound.group.is_none()
        && !matches!(inbound.content, Content::System(_) | Content::Edit { .. } | Content::Revoke { .. })
}

/// The number of a person who may have answered the last campaign.
fn sender(inbound: &Inbound) -> Option<Phone> {
    let number = inbound.sender.number.as_deref().filter(|_| is_answer(inbound))?;
    Phone::from_digits(number.parse().ok()?)
}

fn name(kind: StatusKind) -> StatusName {
    match kind {
        StatusKind::Sent => StatusName::Sent,
        StatusKind::Delivered => StatusName::Delivered,
        StatusKind::Read => StatusName::Read,
        StatusKind::Failed => StatusName::Failed,
        StatusKind::Other => StatusName::Other,
    }
}

fn news(status: &Status<'_>) -> Option<News> {
    match status.kind {
        StatusKind::Sent => Some(News::Sent),
        StatusKind::Delivered => Some(News::Delivered),
        StatusKind::Read => Some(News::Read),
        StatusKind::Failed => Some(News::Failed(status.code.map_or(FailureReason::NotGiven, FailureReason::Meta))),
        StatusKind::Other => None,
    }
}
