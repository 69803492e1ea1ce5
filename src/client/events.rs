//! The event stream of a campaign: its state and its statistics, each time they change.

use std::{collections::VecDeque, time::Duration};

use reqwest::{Response, Url};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    ClientError, Known, Result,
    sse::{Event, Parser},
};
use crate::{
    api_types::{StateEvent, Statistics},
    domain::CampaignState,
};

/// A stream that delivers no byte for this long counts as broken. The server sends comments to keep the stream alive.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

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
    server: Url,
    response: Response,
    parser: Parser,
    ready: VecDeque<CampaignEvent>,
}

impl Events {
    pub(super) fn new(server: Url, response: Response) -> Self {
        Self { server, response, parser: Parser::default(), ready: VecDeque::new() }
    }

    /// The next event; `None` when the server ended the stream.
    ///
    /// Errors: [`ClientError::Broken`] if the connection failed, was silent for too long, or sent an invalid event.
    pub async fn next(&mut self) -> Result<Option<CampaignEvent>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let broken = |reason| ClientError::Broken { server: self.server.clone(), reason };
            let chunk = timeout(SILENCE_TIMEOUT, self.response.chunk())
                .await
                .map_err(|_| broken(format!("no data for {} seconds", SILENCE_TIMEOUT.as_secs())))?
                .map_err(|error| ClientError::of_request(&self.server, &error))?;
            let Some(chunk) = chunk else { return Ok(None) };
            for event in self.parser.feed(&chunk).map_err(|error| broken(error.to_string()))? {
                self.ready.extend(parse(&event).map_err(|error| broken(format!("event {}: {error}", event.name)))?);
            }
        }
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
        parse(&Event { name: name.into(), data: data.into() })
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
