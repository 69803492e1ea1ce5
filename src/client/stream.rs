//! A connection over which a server sends events.

use std::{fmt::Display, time::Duration};

use reqwest::{Response, Url};
use tokio::time::timeout;

use super::{
    ClientError, Result,
    sse::{Event, Parser},
};

/// A stream that delivers no byte for this long counts as broken. The server sends comments to keep the stream alive.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// A response that is a stream of events.
#[derive(Debug)]
pub(super) struct Stream {
    server: Url,
    response: Response,
    parser: Parser,
}

impl Stream {
    pub(super) fn new(server: Url, response: Response) -> Self {
        Self { server, response, parser: Parser::default() }
    }

    /// The events of the next chunk, which can be none; `None` when the server ended the stream.
    ///
    /// Errors: [`ClientError::Broken`] if the connection failed, was silent for too long, or sent an event that is too
    /// long.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Event>>> {
        let chunk = timeout(SILENCE_TIMEOUT, self.response.chunk())
            .await
            .map_err(|_| self.broken(format!("no data for {} seconds", SILENCE_TIMEOUT.as_secs())))?
            .map_err(|error| ClientError::of_request(&self.server, &error))?;
        let Some(chunk) = chunk else { return Ok(None) };
        self.parser.feed(&chunk).map(Some).map_err(|error| self.broken(error.to_string()))
    }

    /// The last id that the server sent. A reconnect continues after it, once all returned events are handled.
    pub(super) fn last_id(&self) -> &str {
        self.parser.last_id()
    }

    /// The error for an event that can't be parsed.
    pub(super) fn invalid(&self, event: &Event, error: &dyn Display) -> ClientError {
        self.broken(format!("event {}: {error}", event.name))
    }

    fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken { server: self.server.clone(), reason }
    }
}
