//! The event feed as server-sent events.
//!
//! A stream reads the feed ten times a second, and at once while there is more. Each event has the position after it as
//! its `id`. A reader that gets few events, because of a filter, gets a position on its own from time to time, so that
//! it does not start far behind when it reconnects.
//!
//! Events are read when the client takes them: a slow client delays its own stream and uses no more memory. All streams
//! of a process share one connection to Redis, so a stream that catches up can delay other streams, but nothing else.
//!
//! While Redis is unavailable, the stream stays open and silent. It ends when the server stops.

use std::{collections::VecDeque, convert::Infallible, mem, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{Response, sse},
};
use futures_util::stream;
use serde::Deserialize;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tracing::error;
use utoipa::{IntoParams, ToSchema};

use super::{Shared, SharedState, access::Access, events::event_stream, stream_permit};
use crate::{
    config::KeyScope,
    domain::{CampaignId, EntryId, EventType, event::EventHead},
    http::{
        page::non_empty,
        problem::{Problem, Result},
        request::{Params, bad_query},
    },
    redis::{
        self,
        feed::{FeedLimits, StoredEvent, gap, just_before},
        position::Position,
    },
};

/// How often an idle stream looks for events.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How often a reader is sent a position without an event, if the events since the last one were filtered out.
const POSITION_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of events that a stream reads at once, from all partitions together: about 350 kB.
const EVENTS_AT_ONCE: usize = 1_000;

/// The header in which a client that reconnects sends the last `id`.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FeedParams {
    /// Start after this `id`. For clients that can't send `Last-Event-ID`, which overrides it. 0 starts with the oldest
    /// event that is kept. Without either, the stream starts with new events.
    #[param(nullable = false, example = "1795984075312-17")]
    after: Option<String>,
    /// Only events of these types, separated by commas.
    #[param(nullable = false, example = "recipient.read,message.received")]
    types: Option<String>,
    /// Only events of this campaign.
    #[param(value_type = Option<CampaignId>, nullable = false)]
    campaign: Option<String>,
}

/// An event of the feed, as the stream sends it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used: `sse::Event` writes it")]
struct FeedEvent {
    /// The position after the event. An `id` can also come without an event.
    id: String,
    /// The type of the event. Missing if this server is older than the type.
    event: Option<String>,
    /// JSON: the event. docs/events.md describes it.
    data: String,
}

/// Follow the event feed: everything that happens.
///
/// Server-sent events. `id` is the position after the event: send the last one as `Last-Event-ID` to continue there.
/// `event` is the type, and `data` the event as JSON. `feed.gap` means that events were removed before they were read.
/// An event can be repeated, with the same `id` in its JSON.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", operation_id = "follow_events",
    security(("api_key" = [KeyScope::Read])),
    params(
        FeedParams,
        (
            "Last-Event-ID" = Option<String>, Header, nullable = false,
            description = "The last `id` of an earlier stream: this one starts after it.",
        ),
    ),
    responses(
        (status = 200, description = "A stream of events.", body = FeedEvent, content_type = "text/event-stream"),
    ),
    extensions(("x-problems" = json!(["invalid-position", "feed-disabled", "too-many-streams"]))),
)]
pub(super) async fn feed(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<FeedParams>,
    headers: HeaderMap,
) -> Result<Response> {
    let feed = shared.feed.feed().ok_or_else(disabled)?;
    let filter = Filter::parse(access, &params)?;
    let given = match headers.get(LAST_EVENT_ID) {
        // A client that reconnects repeats the query of its first request, so the header is newer.
        Some(id) => Some(id.to_str().map_err(|_| bad_position("is not text"))?),
        None => params.after.as_deref(),
    };
    let permit = stream_permit(&shared.feed_streams, "event streams")?;
    let position = match non_empty(given) {
        Some(text) => Position::parse(text, feed).map_err(|error| bad_position(&format!("is {text}; {error}")))?,
        None => shared.feed.newest_position(feed).await?,
    };
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = shared.state.stopping.clone();
    let reader = Reader {
        shared,
        feed,
        filter,
        position,
        is_position_due: true,
        position_due_at: Instant::now(),
        queue: VecDeque::new(),
        has_more: false,
        ticks,
        _permit: permit,
    };
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    Ok(event_stream(events, stopping))
}

fn disabled() -> Problem {
    let detail = "no events are written, because feed.enabled is false in the configuration of this server";
    Problem::new(StatusCode::CONFLICT, "feed-disabled", detail)
}

pub(super) fn bad_position(fault: &str) -> Problem {
    Problem::bad_request("invalid-position", format!("the position {fault}"))
}

/// Which events a reader gets.
struct Filter {
    access: Access,
    /// Empty: all.
    types: Vec<EventType>,
    campaign: Option<CampaignId>,
}

impl Filter {
    fn parse(access: Access, params: &FeedParams) -> Result<Self> {
        let types = non_empty(params.types.as_deref()).into_iter().flat_map(|types| types.split(','));
        let campaign = non_empty(params.campaign.as_deref());
        Ok(Self {
            access,
            types: types.map(event_type).collect::<Result<_>>()?,
            campaign: campaign
                .map(|id| id.parse().map_err(|_| bad_query(format!("campaign is {id}; it is the id of a campaign"))))
                .transpose()?,
        })
    }

    /// Whether the reader gets the event. The only place that decides this.
    fn admits(&self, event: &EventHead) -> bool {
        if !self.access.allows(event.business.as_ref()) {
            return false;
        }
        let is_selected = self.types.is_empty() || event.r#type.is_some_and(|kind| self.types.contains(&kind));
        is_selected && self.campaign.is_none_or(|campaign| event.campaign == Some(campaign))
    }
}

fn event_type(name: &str) -> Result<EventType> {
    name.parse().map_err(|_| {
        let names: Vec<_> = EventType::ALL.iter().map(|kind| kind.name()).collect();
        bad_query(format!("types has {name}; the types of events are {}", names.join(", ")))
    })
}

/// An open stream of events.
struct Reader {
    shared: Arc<Shared>,
    feed: FeedLimits,
    filter: Filter,
    /// Behind the last event that was read. The events in the queue have the positions behind them.
    position: Position,
    /// Whether the last event that was read was filtered out, so that no event has the position as its id.
    is_position_due: bool,
    position_due_at: Instant,
    /// Events not sent yet.
    queue: VecDeque<sse::Event>,
    /// Whether the last read did not reach the end of the feed.
    has_more: bool,
    ticks: Interval,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// Waits for the next event. `None` ends the stream.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.is_position_due && Instant::now() >= self.position_due_at {
                return Some(self.position_alone());
            }
            if !mem::take(&mut self.has_more) {
                self.ticks.tick().await;
            }
            match self.read().await {
                Ok(()) => {}
                Err(error) if error.is_transient() => {}
                Err(error) => {
                    error!(%error, "event stream ended early");
                    return None;
                }
            }
        }
    }

    /// A position without an event. Clients keep the `id` of such a block, and report no event.
    fn position_alone(&mut self) -> sse::Event {
        self.is_position_due = false;
        self.position_due_at = Instant::now() + POSITION_INTERVAL;
        sse::Event::default().id(self.position.to_string())
    }

    /// Reads the next events of each partition into the queue.
    async fn read(&mut self) -> redis::Result<()> {
        let limit = EVENTS_AT_ONCE / usize::from(self.feed.partitions.get());
        for partition in self.feed.partitions() {
            let events = self.shared.feed.events_after(partition, self.position.of(partition), limit).await?;
            self.has_more |= events.len() == limit;
            events.iter().for_each(|event| self.enqueue(partition, event));
        }
        Ok(())
    }

    fn enqueue(&mut self, partition: u16, stored: &StoredEvent) {
        if self.position.misses_events_before(partition, stored.id) {
            self.enqueue_gap(partition, stored.id);
        }
        self.position.advance(partition, stored.id);
        let head: EventHead = match serde_json::from_str(&stored.event) {
            Ok(head) => head,
            Err(error) => {
                error!(entry = %stored.id, partition, %error, "an entry of the event feed is not an event");
                self.is_position_due = true;
                return;
            }
        };
        if self.filter.admits(&head) {
            self.push(head.r#type, &stored.event);
        } else {
            self.is_position_due = true;
        }
    }

    /// Tells the reader that the events before `next` were removed. The position of that event is just before `next`,
    /// so a reader that continues there is not told again.
    fn enqueue_gap(&mut self, partition: u16, next: EntryId) {
        let gap = gap(partition, self.position.of(partition), next);
        self.position.advance(partition, just_before(next));
        self.push(Some(EventType::FeedGap), &gap.to_json());
    }

    fn push(&mut self, kind: Option<EventType>, json: &str) {
        let event = sse::Event::default().id(self.position.to_string()).data(json);
        self.queue.push_back(match kind {
            Some(kind) => event.event(kind.name()),
            None => event,
        });
        self.is_position_due = false;
    }
}
