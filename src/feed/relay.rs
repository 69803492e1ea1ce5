//! A relay: takes notes of what changed, reads the unpublished changes, and appends events to its stream.
//!
//! The order is: read, append, store the position. So an event is published at least once. A round is bound to one
//! incarnation of Redis: if Redis restarts and loses its last writes, the round fails, and the next one begins at the
//! position that Redis still has.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{campaigns::Campaigns, observer::Observer, phones::Phones};
use crate::{
    domain::{
        BusinessId, CampaignId, CampaignState, ClaimedRow, Event, EventType, LineId, MetaCode, PartId, Phone,
        RowReason, State, UnixMs, Wamid,
    },
    redis::{
        Result, Store,
        campaigns::CampaignRecord,
        clock::Clock,
        duty::backoff,
        history::Change,
        inbound::InboundEntry,
        inbound::InboundReader,
        untold::{PartChanges, Untold},
        wamids::Wamids,
    },
    telemetry::metrics::{self, DutyGauge},
};

/// Minimum pause between rounds while something changes. The pause gathers changes, because a round costs almost the
/// same for one change as for a hundred.
const PAUSE: Duration = Duration::from_millis(50);

/// Maximum number of parts, campaigns and lines in one round.
const NOTES_MAX: usize = 256;

/// Changes that a round reads, unless one note alone has more.
pub(super) const CHANGES_MAX: usize = 8_192;

/// Messages of one line that a round reads.
const MESSAGES_MAX: usize = 256;

/// How often everything is compared with what was published, besides at the start and after errors.
const COMPARE_EVERY: Duration = Duration::from_secs(3_600);

/// The relay of one stream.
pub(super) struct Relay {
    partition: u16,
    campaigns: Campaigns,
    phones: Phones,
    /// Notes whose changes were only published in part, with the time of the first unpublished change.
    unfinished: Vec<(Untold, UnixMs)>,
    compared_at: Option<Instant>,
    lag: DutyGauge,
}

/// The fields of events about a recipient.
#[derive(Serialize)]
struct RecipientFields {
    recipient: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Phone>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wamid: Option<Wamid>,
    send: u8,
    rank: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<MetaCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// The fields of an event about a campaign.
#[derive(Serialize)]
struct CampaignFields<'a> {
    state: CampaignState,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<MetaCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// The fields of an event about a message from a person.
#[derive(Serialize)]
struct MessageFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    send: Option<u8>,
    message: &'a RawValue,
}

impl Relay {
    pub(super) fn new(partition: u16, campaigns: Campaigns) -> Self {
        Self {
            partition,
            campaigns,
            phones: Phones::default(),
            unfinished: Vec::new(),
            compared_at: None,
            lag: metrics::feed_lag(partition),
        }
    }

    /// Publishes changes until `stop`.
    pub(super) async fn run(
        &mut self,
        store: &Store,
        clock: &Clock,
        mut observer: Option<&mut Observer>,
        stop: &CancellationToken,
    ) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            let (store, began) = (store.in_this_incarnation(), Instant::now());
            match self.tell(&store, clock, observer.as_deref_mut()).await {
                Ok(is_catching_up) => {
                    failures = 0;
                    // While something changes, dispatch is at work, so the relay pauses for longer than it works.
                    let pause = if is_catching_up { Duration::ZERO } else { PAUSE.max(began.elapsed() * 3 / 2) };
                    stop.run_until_cancelled(sleep(pause)).await;
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        error.report(&format!("events of partition {} wait", self.partition));
                    }
                    // The notes that the round took may be lost, so everything is compared again.
                    self.start_over();
                    stop.run_until_cancelled(sleep(backoff(failures))).await;
                }
            }
        }
    }

    async fn tell(&mut self, store: &Store, clock: &Clock, observer: Option<&mut Observer>) -> Result<bool> {
        if let Some(observer) = observer {
            observer.tell(store, clock).await?;
        }
        self.round(store, clock).await
    }

    fn start_over(&mut self) {
        self.unfinished.clear();
        self.phones.clear();
        self.campaigns.clear();
        self.compared_at = None;
    }

    /// Publishes the changes of some noted subjects. Returns whether changes are left to publish and there were no new
    /// notes.
    async fn round(&mut self, store: &Store, clock: &Clock) -> Result<bool> {
        if self.compared_at.is_none_or(|at| at.elapsed() > COMPARE_EVERY) {
            // Redis may have lost the mark that the feed has begun.
            store.set_feed_begun().await?;
            self.compare(store).await?;
            self.compared_at = Some(Instant::now());
        }
        // Unfinished notes may have been written again. They are merged, so that their changes are not published twice.
        let mut notes: HashMap<Untold, UnixMs> = self.unfinished.drain(..).collect();
        let new = store.take_changed(self.partition, NOTES_MAX.saturating_sub(notes.len())).await?;
        let has_new = !new.is_empty();
        for (untold, at) in new {
            notes.entry(untold).or_insert(at);
        }
        let first = notes.values().min().copied();
        let (mut parts, mut campaigns, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for (untold, at) in notes {
            match untold {
                Untold::Part(part) => parts.push((part, at)),
                Untold::Campaign(campaign) => campaigns.push(campaign),
                Untold::Inbound(line) => lines.push((line, at)),
            }
        }
        // Campaigns before recipients, so that the start of a campaign is published before its first accepted message.
        self.tell_campaigns(store, &campaigns).await?;
        self.tell_parts(store, clock.now(), &parts).await?;
        for (line, at) in lines {
            self.tell_messages(store, line, at).await?;
        }
        let lag = first.map_or(Duration::ZERO, |first| clock.now().since(first));
        self.lag.set(lag.as_secs_f64());
        Ok(!has_new && !self.unfinished.is_empty())
    }

    /// Notes every subject with unpublished changes, in case Redis lost its note.
    async fn compare(&self, store: &Store) -> Result<()> {
        let limits = store.feed();
        let is_ours = |id: &CampaignId| limits.is_some_and(|limits| limits.partition(Some(*id)) == self.partition);
        let mut ids = store.stored_campaigns().await?;
        ids.retain(is_ours);
        for ids in ids.chunks(NOTES_MAX) {
            let told = store.told_versions(ids).await?;
            let records = store.campaigns(ids).await?;
            let pairs = records.iter().zip(told).filter_map(|(record, told)| Some((record.as_ref()?, told)));
            let untold = pairs.filter(|(record, told)| is_untold(record, *told));
            store.note_changed(untold.map(|(record, _)| Untold::Campaign(record.campaign.id))).await?;
            let parts: Vec<PartId> =
                records.iter().flatten().flat_map(|record| &record.parts).map(|(part, _)| *part).collect();
            store.note_untold_parts(&parts).await?;
        }
        if self.partition == 0 {
            let lines = store.known_lines().await?.into_keys();
            store.note_changed(lines.map(Untold::Inbound)).await?;
        }
        Ok(())
    }

    async fn tell_campaigns(&mut self, store: &Store, ids: &[CampaignId]) -> Result<()> {
        let told = store.told_versions(ids).await?;
        for (record, told) in store.campaigns(ids).await?.into_iter().zip(told) {
            let Some(record) = record.filter(|record| is_untold(record, told)) else { continue };
            let (id, version) = (record.campaign.id, record.version);
            let line = record.campaign.lines.first();
            let fields = CampaignFields {
                state: record.state,
                code: record.reason.as_ref().and_then(|reason| reason.code),
                reason: record.reason.as_ref().map(|reason| reason.details.as_str()),
            };
            let event_id = format!("{id}.state.{version}");
            let event = Event {
                business: line.and_then(|line| self.campaigns.business(line)),
                campaign: Some(id),
                external_id: record.campaign.external_id.as_deref(),
                ..Event::new(event_id, EventType::CampaignState, record.changed_at, fields)
            };
            self.append(store, &[event.to_json()]).await?;
            store.set_told_version(id, version).await?;
        }
        Ok(())
    }

    async fn tell_parts(&mut self, store: &Store, now: UnixMs, noted: &[(PartId, UnixMs)]) -> Result<()> {
        if noted.is_empty() {
            return Ok(());
        }
        let parts: Vec<PartId> = noted.iter().map(|(part, _)| *part).collect();
        let untold = store.untold_changes(&parts, CHANGES_MAX / parts.len()).await?;
        self.campaigns.read(store, parts.iter().copied()).await?;
        let (mut events, mut positions) = (Vec::new(), Vec::new());
        for (&part, untold) in parts.iter().zip(&untold) {
            self.events_of(store, part, untold, now, &mut events).await?;
            positions.push((part, untold.position));
        }
        self.append(store, &events).await?;
        store.set_told(&positions).await?;
        for (&part, untold) in parts.iter().zip(&untold).filter(|(_, untold)| untold.has_more) {
            let last = untold.changes.last().map_or(now, |last| last.at());
            self.unfinished.push((Untold::Part(part), last));
        }
        Ok(())
    }

    /// The events for changes of a part, as JSON, without publishing them.
    pub(super) async fn retell(
        &mut self,
        store: &Store,
        part: PartId,
        changes: &PartChanges,
        now: UnixMs,
    ) -> Result<Vec<String>> {
        self.campaigns.read(store, [part]).await?;
        let mut events = Vec::new();
        self.events_of(store, part, changes, now, &mut events).await?;
        Ok(events)
    }

    /// Adds the events for the changes of a part, as JSON.
    async fn events_of(
        &mut self,
        store: &Store,
        part: PartId,
        untold: &PartChanges,
        now: UnixMs,
        events: &mut Vec<String>,
    ) -> Result<()> {
        // There is no event for an open state.
        let is_told = |change: &&Change| State::of(change.byte).and_then(EventType::of_recipient).is_some();
        let changes: Vec<&Change> = untold.changes.iter().filter(is_told).collect();
        let Some(info) = self.campaigns.get(part.campaign).filter(|_| !changes.is_empty()) else { return Ok(()) };
        let Some(line) = info.lines.get(usize::from(part.number)) else { return Ok(()) };
        let (names_people, rows) = (self.campaigns.may_name_people(info, now), changes.iter().map(|change| change.row));
        let mut wamids = Wamids::default();
        if names_people {
            self.phones.read(store, part, untold.erased, rows.clone()).await?;
            wamids = store.wamids_of(part, rows).await?;
        }
        let context = PartContext {
            part,
            line,
            business: self.campaigns.business(line),
            external_id: info.external_id.as_deref(),
            phones: names_people.then_some(&self.phones),
            wamids,
            reasons: reasons(store, part, &changes).await?,
            late_sends: late_sends(store, part, &changes).await?,
        };
        events.extend(changes.into_iter().filter_map(|change| context.event(change)));
        Ok(())
    }

    async fn tell_messages(&mut self, store: &Store, line: LineId, at: UnixMs) -> Result<()> {
        let messages = store.unread_inbound(InboundReader::Feed, &line, MESSAGES_MAX).await?;
        let Some(last) = messages.last() else { return Ok(()) };
        let answered = messages.iter().filter_map(|message| message.answers.map(|(part, _)| part));
        self.campaigns.read(store, answered).await?;
        let events: Vec<String> = messages.iter().filter_map(|message| self.message_event(&line, message)).collect();
        self.append(store, &events).await?;
        store.set_inbound_read(InboundReader::Feed, &line, last.id).await?;
        if messages.len() == MESSAGES_MAX {
            self.unfinished.push((Untold::Inbound(line), at));
        }
        Ok(())
    }

    /// The event for a message; `None` if the entry is not one of ours.
    fn message_event(&self, line: &LineId, entry: &InboundEntry) -> Option<String> {
        // Meta's id and time, in ms, and whether a person wrote it.
        #[derive(Deserialize)]
        struct Head {
            id: Option<String>,
            at: Option<u64>,
            #[serde(default)]
            content: HeadContent,
        }
        #[derive(Default, Deserialize)]
        struct HeadContent {
            echo: Option<IgnoredAny>,
        }
        let message: &RawValue = serde_json::from_str(&entry.message).ok()?;
        let Head { id, at, content } = serde_json::from_str(&entry.message).ok()?;
        if content.echo.is_some() {
            return None;
        }
        let id = id.unwrap_or_else(|| entry.id.to_string());
        let at = UnixMs(at.unwrap_or(entry.id.ms));
        let campaign = entry.answers.map(|(part, _)| part.campaign);
        let info = campaign.and_then(|campaign| self.campaigns.get(campaign));
        let fields = MessageFields {
            recipient: entry.answers.map(|(part, claimed)| format!("{part}.{}", claimed.row)),
            send: entry.answers.map(|(_, claimed)| claimed.send).filter(|send| *send > 0),
            message,
        };
        let event = Event {
            business: self.campaigns.business(line),
            line: Some(line),
            campaign,
            external_id: info.and_then(|info| info.external_id.as_deref()),
            ..Event::new(format!("message:{line}:{id}"), EventType::MessageReceived, at, fields)
        };
        Some(event.to_json())
    }

    async fn append(&self, store: &Store, events: &[String]) -> Result<()> {
        store.append_to(self.partition, events).await?;
        metrics::feed_events().increment(events.len() as u64);
        Ok(())
    }
}

/// The data that the events of a part share, and the data of its rows that they need.
struct PartContext<'a> {
    part: PartId,
    line: &'a LineId,
    business: Option<&'a BusinessId>,
    external_id: Option<&'a str>,
    /// `None` if the events must not contain phone numbers.
    phones: Option<&'a Phones>,
    wamids: Wamids,
    reasons: HashMap<u16, RowReason>,
    /// By row: the send numbers that are too large for a state byte.
    late_sends: HashMap<u16, u8>,
}

impl PartContext<'_> {
    /// The event for a change, as JSON; `None` for a state that is not published.
    fn event(&self, change: &Change) -> Option<String> {
        let (state, row) = (State::of(change.byte)?, change.row);
        let send = self.late_sends.get(&row).copied().filter(|_| is_late(change));
        let send = send.unwrap_or(State::send_of(change.byte));
        let recipient = format!("{}.{row}", self.part);
        let reason = self.reasons.get(&row).filter(|_| has_failed(change) || is_skip(change));
        let id = format!("{recipient}.{send}.{}", state.name());
        let fields = RecipientFields {
            recipient,
            to: self.phones.and_then(|phones| phones.get(self.part, row)),
            wamid: self.wamids.of(ClaimedRow { row, send }),
            send,
            rank: state.rank(),
            code: reason.and_then(|reason| reason.code()),
            reason: reason.map(|reason| reason.title()),
        };
        let event = Event {
            business: self.business,
            line: Some(self.line),
            campaign: Some(self.part.campaign),
            external_id: self.external_id,
            ..Event::new(id, EventType::of_recipient(state)?, change.at(), fields)
        };
        Some(event.to_json())
    }
}

/// Whether a campaign changed since its version `told` was published.
fn is_untold(record: &CampaignRecord, told: Option<u64>) -> bool {
    told.is_none_or(|told| told < record.version)
}

/// Whether the new state of a change has a failure reason.
fn has_failed(change: &Change) -> bool {
    matches!(State::of(change.byte), Some(State::Failed | State::Refused | State::Unknown))
}

fn is_skip(change: &Change) -> bool {
    State::of(change.byte) == Some(State::Skipped)
}

/// Whether the number of the claim does not fit the state byte.
fn is_late(change: &Change) -> bool {
    State::send_of(change.byte) == State::SEND_OVERFLOW
}

/// Why recipients failed, were skipped or have no result, by row.
async fn reasons(store: &Store, part: PartId, changes: &[&Change]) -> Result<HashMap<u16, RowReason>> {
    let rows: Vec<u16> = changes.iter().filter(|change| has_failed(change)).map(|change| change.row).collect();
    let failures = store.reasons(part, &rows).await?;
    let failures = rows.into_iter().zip(failures).filter_map(|(row, reason)| Some((row, RowReason::Failure(reason?))));
    let mut reasons: HashMap<u16, RowReason> = failures.collect();
    let skipped: Vec<u16> = changes.iter().filter(|change| is_skip(change)).map(|change| change.row).collect();
    if !skipped.is_empty() {
        let skips = store.skips(part).await?;
        let skip = |row: u16| Some((row, RowReason::Skip(skips.get(usize::from(row)).copied()??)));
        reasons.extend(skipped.into_iter().filter_map(skip));
    }
    Ok(reasons)
}

/// The numbers of last claims that do not fit the state byte, by row.
async fn late_sends(store: &Store, part: PartId, changes: &[&Change]) -> Result<HashMap<u16, u8>> {
    let rows: Vec<u16> = changes.iter().filter(|change| is_late(change)).map(|change| change.row).collect();
    let sends = store.sends(part, &rows).await?;
    Ok(rows.into_iter().zip(sends).filter_map(|(row, send)| Some((row, send?))).collect())
}
