//! Statistics as they change, as server-sent events.
//!
//! `state` says where the campaign stands, `statistics` is the object of the contract; both come at once when the stream
//! begins, and then whenever they have changed, looked at twice a second. The stream stays open after the campaign is
//! completed, because statuses come and count for days: a client that has seen enough closes it. It ends when the server
//! stops or the campaign can't be read any more; clients that connect again lose nothing.
//!
//! While Redis is away the last statistics stay, and wait for `redis`.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::HeaderName,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::error;

use super::{Shared, SharedState, extract::CampaignPath, place};
use crate::{
    domain::{CampaignId, CampaignState},
    http::problem::Result,
    redis,
    stats::{Statistics, WaitReason, Waiting},
};

/// How often a stream looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often a silent stream says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// `GET /v1/campaigns/{id}/events`
pub(super) async fn events(State(shared): SharedState, CampaignPath(id): CampaignPath) -> Result<Response> {
    shared.campaign(id).await?;
    let mut ticks = interval(LOOK_EVERY);
    // A client that reads slowly gets fewer events, not late ones.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopping = shared.state.stopping.clone().cancelled_owned();
    let place = place(&shared.event_streams, "streams of events")?;
    let watch = Watch { shared, id, ticks, state: None, statistics: None, news: VecDeque::new(), _place: place };
    let events = stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Some((Ok::<_, Infallible>(event), watch))
    });
    let answer = Sse::new(events.take_until(stopping)).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    // nginx collects answers unless it is told not to.
    Ok(([(HeaderName::from_static("x-accel-buffering"), "no")], answer).into_response())
}

/// A client that watches a campaign.
struct Watch {
    shared: Arc<Shared>,
    id: CampaignId,
    ticks: Interval,
    /// What was said last.
    state: Option<CampaignState>,
    statistics: Option<Statistics>,
    /// What is to be said next.
    news: VecDeque<Event>,
    _place: OwnedSemaphorePermit,
}

#[derive(Serialize)]
struct StateEvent {
    state: CampaignState,
}

impl Watch {
    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.news.pop_front() {
                return Some(event);
            }
            self.ticks.tick().await;
            match self.look().await {
                Ok(Some((state, statistics))) => self.say(Some(state), statistics),
                Ok(None) => return None,
                Err(error) if error.is_transient() => {
                    if let Some(last) = self.statistics.clone() {
                        let waiting =
                            Waiting::new(WaitReason::Redis, "redis does not answer: these are the last numbers");
                        self.say(
                            None,
                            Statistics { rate_per_second: 0.0, eta: None, waiting_for: vec![waiting], ..last },
                        );
                    }
                }
                Err(error) => {
                    error!(campaign.id = %self.id, %error, "stream of events cut");
                    return None;
                }
            }
        }
    }

    async fn look(&self) -> redis::Result<Option<(CampaignState, Statistics)>> {
        let Some(record) = self.shared.state.store.campaign(self.id).await? else { return Ok(None) };
        let statistics = self.shared.reader.statistics(&record, self.shared.now()).await?;
        Ok(Some((record.state, statistics)))
    }

    /// Queues what is new.
    fn say(&mut self, state: Option<CampaignState>, statistics: Statistics) {
        if let Some(state) = state.filter(|_| state != self.state) {
            self.state = Some(state);
            self.news.push_back(event("state", &StateEvent { state }));
        }
        if self.statistics.as_ref() != Some(&statistics) {
            self.news.push_back(event("statistics", &statistics));
            self.statistics = Some(statistics);
        }
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    let json = serde_json::to_string(data).expect("it has only numbers, strings, lists and objects with string keys");
    Event::default().event(name).data(json)
}
