//! Contacts and chats: who a person is, and who is in charge of what the person writes.

pub mod content;

use super::{ChatMessageId, MetaCode, Person, Phone, State, UnixMs, Wamid};

/// How long after a person's last message free text may be sent.
///
/// Source: Meta's customer service window.
pub const WINDOW: std::time::Duration = std::time::Duration::from_hours(24);

/// By what Meta identifies the person who wrote a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The number as Meta writes it. `None` if Meta does not tell it.
    pub number: Option<Phone>,
    /// The id of the person in the business portfolio. Another id on the same number is another person.
    pub user_id: Option<String>,
}

/// Maximum length of a user id, in bytes. Meta's are up to 131 characters.
const USER_ID_BYTES_MAX: usize = 256;

impl Identity {
    /// From the number as Meta writes it and the user id. What cannot be either counts as missing.
    pub fn new(digits: Option<&str>, user_id: Option<&str>) -> Self {
        let is_usable = |id: &&str| (1..=USER_ID_BYTES_MAX).contains(&id.len()) && !id.contains(char::is_control);
        Self { number: digits.and_then(number), user_id: user_id.filter(is_usable).map(str::to_owned) }
    }

    /// The person behind the number, whose number Meta may write in two forms.
    pub fn person(&self) -> Option<Person> {
        self.number.map(Person::from)
    }
}

/// A number as Meta writes it: without the plus.
fn number(digits: &str) -> Option<Phone> {
    let digits = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?;
    digits.and_then(Phone::from_digits)
}

/// A message to a contact, or a mark, on its way from the outbox to Meta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The message.
    pub id: ChatMessageId,
    /// It must leave before that.
    pub until: Option<UnixMs>,
    /// What is to be sent: a [`content::ChatRequest`] as JSON.
    pub request: String,
}

/// What became of a message to a contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatStatus {
    /// The message. `None`: Meta named it only by its own id, and it may be another app's.
    pub id: Option<ChatMessageId>,
    /// The number of the send; 0 without `id`.
    pub send: u32,
    /// Its state.
    pub state: State,
    /// Since when.
    pub at: UnixMs,
    /// Meta's id of the message, if it is known.
    pub wamid: Option<Wamid>,
    /// Why it failed or is tried again.
    pub code: Option<MetaCode>,
    /// Meta's error text; may be empty.
    pub details: String,
}

/// Who is in charge of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody: the chat is closed.
    Nobody,
    /// The queue: the chat waits for an agent.
    Queue,
    /// An agent.
    Agent,
}

impl Owner {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nobody, Self::Queue, Self::Agent];

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Queue => "queue",
            Self::Agent => "agent",
        }
    }

    /// The number that is stored.
    pub const fn code(self) -> i16 {
        match self {
            Self::Nobody => 0,
            Self::Queue => 1,
            Self::Agent => 2,
        }
    }

    /// The inverse of [`Owner::code`].
    pub fn of(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|owner| owner.code() == code)
    }

    /// Who is in charge after the person has written: a closed chat goes to the queue.
    pub fn after_inbound(self) -> Self {
        match self {
            Self::Nobody => Self::Queue,
            other => other,
        }
    }
}

/// How long before the end of the window the last free text leaves: it is on its way for a while.
const MARGIN: std::time::Duration = std::time::Duration::from_mins(1);

/// Until when free text may be sent to a person who last wrote at `last_inbound_at`.
pub fn free_text_until(last_inbound_at: UnixMs) -> UnixMs {
    last_inbound_at.after(WINDOW - MARGIN)
}

/// When the window of a chat closes whose person last wrote at `last_inbound_at`.
pub fn window_until(last_inbound_at: UnixMs) -> UnixMs {
    last_inbound_at.after(WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_an_id_counts_as_missing() {
        let user_id = |text: &str| Identity::new(None, Some(text)).user_id;
        assert_eq!(user_id("AR.1A2b").as_deref(), Some("AR.1A2b"));
        assert_eq!([user_id(""), user_id("AR.\0"), user_id(&"A".repeat(300))], [None, None, None]);
    }

    #[test]
    fn both_forms_of_a_number_are_one_person() {
        let person = |digits| Identity::new(Some(digits), None).person().expect("a person");
        assert_eq!(person("5491155550001"), person("541155550001"));
        assert_eq!(number("+5491155550001"), None, "Meta writes no plus");
        assert_eq!(number("MX.1234"), None);
    }

    #[test]
    fn an_owner_is_read_as_it_was_stored() {
        for owner in Owner::ALL {
            assert_eq!(Owner::of(owner.code()), Some(owner));
        }
        assert_eq!(Owner::of(9), None);
    }
}
