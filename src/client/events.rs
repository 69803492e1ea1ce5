//! The event stream of a campaign: its state and its statistics, each time they change.

use std::collections::VecDeque;

use serde::de::DeserializeOwned;

use super::{Known, Result, sse::Event, stream::Stream};
use crate::{
    api_types::{StateEvent, Statistics},
    domain::CampaignState,
};

/// An event of a campaign.
#[derive(Clone, Debug)]
pub enum CampaignEvent {
    /// The campaign is now in this state.
    State(CampaignState),
    /// The campaign now has these statistics.
    Statistics(Box<Known<Statistics>>),
}

/// The events of one campaign over one connection: first its state and statistics, then each change.
#[derive(Debug)]
pub struct Events {
    stream: Stream,
    ready: VecDeque<CampaignEvent>,
}

impl Events {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, ready: VecDeque::new() }
    }

    /// The next event; `None` when the server ended the stream.
    ///
    /// Errors: [`ClientError::Broken`](super::ClientError::Broken) if the connection failed, was silent for too long,
    /// or sent an invalid event.
    pub async fn next(&mut self) -> Result<Option<CampaignEvent>> {
        while self.ready.is_empty() {
            let Some(events) = self.stream.next().await? else { return Ok(None) };
            for event in events {
                self.ready.extend(parse(&event).map_err(|error| self.stream.invalid(&event, &error))?);
            }
        }
        Ok(self.ready.pop_front())
    }
}

/// Parses `event`. Returns `None` for a kind that this version does not know.
fn parse(event: &Event) -> serde_json::Result<Option<CampaignEvent>> {
    fn read<T: DeserializeOwned>(event: &Event) -> serde_json::Result<T> {
        serde_json::from_str(&event.data)
    }
    Ok(match event.name.as_str() {
        "state" => Some(CampaignEvent::State(read::<StateEvent>(event)?.state)),
        "statistics" => Some(CampaignEvent::Statistics(read(event)?)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, data: &str) -> serde_json::Result<Option<CampaignEvent>> {
        parse(&Event { name: name.into(), data: data.into(), ..Event::default() })
    }

    #[test]
    fn an_event_has_a_state_or_statistics() {
        let paused = of("state", r#"{"state":"paused"}"#).expect("good");
        assert!(matches!(paused, Some(CampaignEvent::State(CampaignState::Paused))), "{paused:?}");
        let Some(CampaignEvent::Statistics(statistics)) =
            of("statistics", r#"{"recipients":3,"by_state":{"pending":1,"read":2}}"#).expect("good")
        else {
            panic!("statistics")
        };
        assert_eq!((statistics.recipients, statistics.open(), statistics.done()), (3, 1, 2));
        assert!(of("message", "hello").expect("an unknown kind is ignored").is_none());
        assert!(of("statistics", "half").is_err());
        assert!(of("state", r#"{"state":"melting"}"#).is_err());
    }
}
