//! `pregon event tail`: prints the events of the feed as they happen, until a signal ends it.

use std::{fmt::Write as _, io};

use serde_json::{Map, Value, value::RawValue};

use super::{CommandError, arguments::TailOptions, find, out, reconnect::Reconnect, words};
use crate::{
    client::{Client, FeedQuery, FeedReader},
    domain::UnixMs,
};

/// Fields that the line for people leaves out: they are shown at its beginning, or follow from other fields.
const OMITTED: [&str; 6] = ["id", "type", "at", "business", "rank", "wamid"];

/// Prints events until `stop` is ready or the reader closes the pipe. If the connection breaks, reconnects and
/// continues after the last event.
///
/// Errors: the server refused the call; it never answered, or has not answered for five minutes.
pub async fn tail(client: &Client, options: TailOptions, stop: impl Future<Output = ()>) -> Result<(), CommandError> {
    let TailOptions { types, campaign, after, output } = options;
    let campaign = match campaign {
        Some(name) => Some(find::campaign(client, &name).await?),
        None => None,
    };
    let query = FeedQuery { types, campaign, after };
    let mut tail = Tail { client, query, json: output.json, feed: None, reconnect: Reconnect::default() };
    let ended = tokio::select! {
        ended = tail.follow() => ended,
        () = stop => {
            if let Some(position) = tail.position() {
                eprintln!("pregon: to continue from here: --after {position}");
            }
            Ok(())
        }
    };
    match ended {
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    }
}

struct Tail<'a> {
    client: &'a Client,
    /// The query of the last connection.
    query: FeedQuery,
    json: bool,
    /// The last connection.
    feed: Option<FeedReader>,
    reconnect: Reconnect,
}

impl Tail<'_> {
    async fn follow(&mut self) -> Result<(), CommandError> {
        loop {
            let before = self.position();
            match self.listen().await {
                Ok(()) => {}
                Err(CommandError::Client(error)) if self.reconnect.can_follow(&error) => {}
                Err(failure) => return Err(failure),
            }
            let has_progressed = self.position() != before;
            self.reconnect.wait(has_progressed).await;
        }
    }

    /// Prints events over one connection, until the server ends the stream.
    async fn listen(&mut self) -> Result<(), CommandError> {
        self.query.after = self.position();
        let feed = self.feed.insert(self.client.feed(&self.query).await?);
        self.reconnect.heard();
        loop {
            let event = feed.next().await;
            self.reconnect.heard();
            match event? {
                Some(event) if self.json => out::json(&event)?,
                Some(event) => out::line(&line(&event))?,
                None => return Ok(()),
            }
        }
    }

    /// Where the next connection begins. `None`: with new events.
    fn position(&self) -> Option<String> {
        let read = self.feed.as_ref().and_then(FeedReader::position).map(str::to_owned);
        read.or_else(|| self.query.after.clone())
    }
}

/// An event in one line: its time, its type, and its other fields.
fn line(event: &RawValue) -> String {
    let Ok(fields) = serde_json::from_str::<Map<String, Value>>(event.get()) else {
        return printable(event.get());
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let at = fields.get("at").and_then(|at| serde_json::from_value::<UnixMs>(at.clone()).ok());
    let mut line = format!("{} {:<19}", at.map_or_else(|| text("at").to_owned(), words::time), text("type"));
    for (name, value) in &fields {
        // The id of a recipient contains that of its campaign.
        if OMITTED.contains(&name.as_str()) || (name == "campaign" && fields.contains_key("recipient")) {
            continue;
        }
        let value = match value {
            Value::String(text) if !text.contains(char::is_whitespace) => text.clone(),
            value => value.to_string(),
        };
        let _ = write!(line, " {name}={value}");
    }
    printable(&line)
}

/// The text with non-printable characters escaped, because events contain text from strangers.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_graphic() || c == ' ' {
            printable.push(c);
        } else {
            printable.extend(c.escape_debug());
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> String {
        line(&serde_json::from_str::<Box<RawValue>>(json).expect("JSON"))
    }

    #[test]
    fn a_line_has_what_people_look_for() {
        let read = r#"{"id":"01J.0.7.1.read","type":"recipient.read","at":"2026-11-22T18:00:00.123Z","business":"1001",
            "line":"3001","campaign":"01J","recipient":"01J.0.7","to":"+5491155550001","send":1,"rank":11}"#;
        let expected = "2026-11-22T18:00:00Z recipient.read      line=3001 recipient=01J.0.7 send=1 to=+5491155550001";
        assert_eq!(of(read), expected);
        let state = r#"{"id":"x","type":"campaign.state","at":"2026-11-22T18:00:00Z","campaign":"01J","state":"paused",
            "details":"by request"}"#;
        let expected = r#"2026-11-22T18:00:00Z campaign.state      campaign=01J details="by request" state=paused"#;
        assert_eq!(of(state), expected);
    }

    #[test]
    fn what_people_write_cannot_control_the_terminal() {
        let message =
            "{\"type\":\"message.received\",\"at\":\"?\",\"message\":{\"text\":\"\\u001b[2J \u{9b}2J \u{202e}olá\"}}";
        let expected = "? message.received    message={\"text\":\"\\u001b[2J \\u{9b}2J \\u{202e}olá\"}";
        assert_eq!(of(message), expected);
        assert_eq!(of("[\"\u{9b}\"]"), "[\"\\u{9b}\"]");
        assert_eq!(of("{\"type\":\"\u{7f}\"}"), " \\u{7f}                  ");
    }
}
