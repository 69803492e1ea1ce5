//! An incremental parser of server-sent events (WHATWG HTML, section 9.2; read 2026-11-22).
//!
//! Owns: the bytes of the incomplete line and event, at most [`EVENT_BYTES_MAX`].
//! Never: keeps `retry`. The callers decide when they reconnect.

use std::mem;

/// The longest event, in bytes. Statistics take a few kilobytes.
pub(super) const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// The value of `event:`, or `message` without one.
    pub name: String,
    /// The values of the `data:` lines, joined with line feeds.
    pub data: String,
    /// The last value of `id:`, in this event or before it. Empty if there was none.
    pub id: String,
}

/// The event is longer than [`EVENT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
pub(super) struct EventTooLong;

/// Parses a stream of chunks into events. A chunk may end anywhere.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    /// Whether the last byte was a carriage return. A line feed after it belongs to the same line break.
    after_return: bool,
    name: String,
    data: String,
    has_data: bool,
    id: String,
    /// The last id of a complete block, with or without data.
    last_id: String,
    /// Whether the first line is complete. Only the first line may begin with a byte order mark.
    began: bool,
}

impl Parser {
    /// Parses `chunk` and returns the events that it completes.
    ///
    /// Errors: [`EventTooLong`]. The parser cannot be used after that.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Result<Vec<Event>, EventTooLong> {
        let mut events = Vec::new();
        for &byte in chunk {
            let second_of_pair = mem::replace(&mut self.after_return, byte == b'\r') && byte == b'\n';
            match byte {
                b'\n' if second_of_pair => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                byte => {
                    if self.line.len() + self.data.len() >= EVENT_BYTES_MAX {
                        return Err(EventTooLong);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    /// The last id that the stream sent, with an event or alone. A reconnect continues after it, once every parsed
    /// event is handled. Empty if there was none.
    pub(super) fn last_id(&self) -> &str {
        &self.last_id
    }

    /// Handles a complete line: an empty line ends the event, any other line is a field of it.
    fn end_line(&mut self) -> Option<Event> {
        let bytes = mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let line = match mem::replace(&mut self.began, true) {
            true => &*text,
            false => text.strip_prefix('\u{feff}').unwrap_or(&text),
        };
        if line.is_empty() {
            return self.end_event();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            // A comment, which the server sends to keep the connection alive, or an unused field.
            _ => {}
        }
        None
    }

    fn end_event(&mut self) -> Option<Event> {
        let (name, data) = (mem::take(&mut self.name), mem::take(&mut self.data));
        let name = if name.is_empty() { "message".to_owned() } else { name };
        self.id.clone_into(&mut self.last_id);
        mem::take(&mut self.has_data).then(|| Event { name, data, id: self.id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into(), id: String::new() }
    }

    fn whole(text: &str) -> Vec<Event> {
        Parser::default().feed(text.as_bytes()).expect("short events")
    }

    #[test]
    fn events_are_parsed_according_to_the_standard() {
        assert_eq!(whole("event: statistics\ndata: {\"a\":1}\n\n"), [event("statistics", "{\"a\":1}")]);
        assert_eq!(whole("data: a\ndata:b\ndata\n\n"), [event("message", "a\nb\n")]);
        assert_eq!(whole(": keep-alive\n\nretry: 100\ndata: x\n\n"), [event("message", "x")]);
        assert_eq!(whole("\u{feff}data:  two blanks\r\n\r\n"), [event("message", " two blanks")]);
        assert_eq!(whole("event: a\n\ndata: b\n\n"), [event("message", "b")], "a name without data is dropped");
        assert_eq!(whole("data: a\r\rdata: b\n\r\n"), [event("message", "a"), event("message", "b")]);
        assert_eq!(whole("data: half of an event\n"), []);
    }

    #[test]
    fn an_id_is_kept_with_an_event_and_alone() {
        let mut parser = Parser::default();
        let events = parser.feed(b"id: 7\ndata: a\n\ndata: b\n\nid: 8\n\nid: 9\ndata: cut off").expect("short events");
        let ids: Vec<_> = events.iter().map(|event| (event.data.as_str(), event.id.as_str())).collect();
        assert_eq!(ids, [("a", "7"), ("b", "7")]);
        assert_eq!(parser.last_id(), "8", "an incomplete event does not count");
    }

    #[test]
    fn an_event_above_the_limit_is_an_error() {
        let mut parser = Parser::default();
        let chunk = [b'x'; 1 << 16];
        let accepted = (0..100).take_while(|_| parser.feed(&chunk).is_ok()).count();
        assert_eq!(accepted, EVENT_BYTES_MAX / chunk.len());

        let mut parser = Parser::default();
        let line = format!("data: {}\n", "x".repeat(1 << 16));
        assert!(
            (0..100).any(|_| parser.feed(line.as_bytes()) == Err(EventTooLong)),
            "the limit counts all lines of an event"
        );
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_chunk_boundaries(
            events in vec(("[a-z]{1,8}", vec("[^\r\n]{0,20}", 1..4)), 0..6),
            line_end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
            cuts in vec(any::<Index>(), 0..40),
        ) {
            let mut text = String::new();
            for (name, lines) in &events {
                text += &format!(": comment{line_end}event: {name}{line_end}");
                lines.iter().for_each(|line| text += &format!("data: {line}{line_end}"));
                text += line_end;
            }
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();

            let mut parser = Parser::default();
            let mut read = Vec::new();
            for pair in cuts.windows(2) {
                read.extend(parser.feed(&bytes[pair[0]..pair[1]]).expect("short events"));
            }
            let wanted: Vec<Event> = events.iter().map(|(name, lines)| event(name, &lines.join("\n"))).collect();
            prop_assert_eq!(read, wanted);
        }
    }
}
