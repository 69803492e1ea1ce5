//! A campaign's state and statistics as server-sent events.
//!
//! There are two kinds of event: `state` has the campaign's state, and `statistics` the statistics object of the API.
//! Each is sent when the stream opens and whenever its content changes. The stream reads both twice a second.
//!
//! The stream stays open after the campaign is completed, because statuses arrive for days: the client closes it. The
//! server ends it when the server stops or the campaign can no longer be read. A client that reconnects loses nothing,
//! because each stream starts with the current values.
//!
//! While Redis is unavailable, the stream sends the last statistics with `redis` as the reason in `waiting_for`.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::HeaderName,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{
    Stream,
    stream::{self, StreamExt as _},
};
use serde::Serialize;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::error;
use utoipa::ToSchema;

use super::{Shared, SharedState, extract::CampaignPath, stream_permit};
use crate::{
    api_types::{StateEvent, Statistics, WaitReason, Waiting},
    config::KeyScope,
    domain::{CampaignId, CampaignState},
    http::problem::Result,
    redis,
};

/// How often a stream reads the campaign.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How long a stream is silent before it sends a keep-alive comment.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An event of the stream.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used: `Event` writes it")]
struct StreamEvent {
    /// `state` or `statistics`.
    event: String,
    /// JSON: a `StateEvent` or `Statistics`.
    data: String,
}

/// Follow a campaign: its state and statistics, as they change.
///
/// Server-sent events of two kinds: the data of `state` is a `StateEvent`, that of `statistics` a `Statistics`. Both
/// are sent at once, and then whenever they change, at most twice a second. The stream stays open after the campaign is
/// completed, because statuses arrive for days: close it when you are done.
#[utoipa::path(
    get, path = "/v1/campaigns/{campaign}/events", tag = "campaigns", operation_id = "follow_campaign",
    security(("api_key" = [KeyScope::Read])),
    params(CampaignPath),
    responses(
        (status = 200, description = "A stream of events.", body = StreamEvent, content_type = "text/event-stream"),
    ),
    extensions(("x-problems" = json!(["too-many-streams"]))),
)]
pub(super) async fn events(State(shared): SharedState, CampaignPath(id): CampaignPath) -> Result<Response> {
    shared.campaign(id).await?;
    let mut ticks = interval(POLL_INTERVAL);
    // A slow reader receives fewer events, but no stale ones.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = shared.state.stopping.clone();
    let permit = stream_permit(&shared.event_streams, "event streams")?;
    let watch = Watch { shared, id, ticks, state: None, statistics: None, queue: VecDeque::new(), _permit: permit };
    let events = stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Some((Ok::<_, Infallible>(event), watch))
    });
    Ok(event_stream(events, stopping))
}

/// The response with `events`, until the server stops.
pub(super) fn event_stream(
    events: impl Stream<Item = std::result::Result<Event, Infallible>> + Send + 'static,
    stopping: CancellationToken,
) -> Response {
    let events = events.take_until(stopping.cancelled_owned());
    let response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Without this header nginx buffers the response.
    ([(HeaderName::from_static("x-accel-buffering"), "no")], response).into_response()
}

/// One open stream of events.
struct Watch {
    shared: Arc<Shared>,
    id: CampaignId,
    ticks: Interval,
    /// The state in the last `state` event.
    state: Option<CampaignState>,
    /// The statistics in the last `statistics` event.
    statistics: Option<Statistics>,
    /// Events not sent yet.
    queue: VecDeque<Event>,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// Waits for the next event. `None` ends the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            self.ticks.tick().await;
            match self.read().await {
                Ok(Some((state, statistics))) => self.enqueue(Some(state), statistics),
                Ok(None) => return None,
                Err(error) if error.is_transient() => {
                    if let Some(last) = self.statistics.clone() {
                        let waiting =
                            Waiting::new(WaitReason::Redis, "redis does not answer: these statistics are out of date");
                        self.enqueue(
                            None,
                            Statistics { rate_per_second: 0.0, eta: None, waiting_for: vec![waiting], ..last },
                        );
                    }
                }
                Err(error) => {
                    error!(campaign.id = %self.id, %error, "event stream ended early");
                    return None;
                }
            }
        }
    }

    /// Reads the campaign. `None` if it was deleted.
    async fn read(&self) -> redis::Result<Option<(CampaignState, Statistics)>> {
        let Some(record) = self.shared.state.store.campaign(self.id).await? else { return Ok(None) };
        let statistics = self.shared.statistics(&record).await?;
        Ok(Some((record.state, statistics)))
    }

    /// Queues a `state` and a `statistics` event, each only if its content differs from the last one.
    fn enqueue(&mut self, state: Option<CampaignState>, statistics: Statistics) {
        if let Some(state) = state.filter(|_| state != self.state) {
            self.state = Some(state);
            self.queue.push_back(event("state", &StateEvent { state }));
        }
        if self.statistics.as_ref() != Some(&statistics) {
            self.queue.push_back(event("statistics", &statistics));
            self.statistics = Some(statistics);
        }
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    let json = serde_json::to_string(data).expect("every map has string keys");
    Event::default().event(name).data(json)
}
