//! People who answer chats: what they may do, whether they are there, and their passwords.

use std::time::Duration;

use zxcvbn::{Score, zxcvbn};

use super::{GroupId, ids::is_plain};

/// What an agent may see and do, beyond the chats of the own groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentRole {
    /// Answers the chats of the own groups, and those of no group.
    Agent,
    /// Sees all chats of the business, and runs its campaigns.
    Manager,
    /// Manages the agents and groups of the business too.
    Admin,
}

impl AgentRole {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Manager, Self::Admin];

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Manager => "manager",
            Self::Admin => "admin",
        }
    }

    /// The number that is stored.
    pub const fn code(self) -> i16 {
        match self {
            Self::Agent => 1,
            Self::Manager => 2,
            Self::Admin => 3,
        }
    }

    /// The inverse of [`AgentRole::code`].
    pub fn of(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.code() == code)
    }

    /// The inverse of [`AgentRole::name`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Whether an agent is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Has no chats: they go to others.
    Offline,
    /// Keeps the chats, and gets no more.
    Away,
    /// Gets chats, up to the capacity.
    Available,
}

impl Presence {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Offline, Self::Away, Self::Available];

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Away => "away",
            Self::Available => "available",
        }
    }

    /// The number that is stored.
    pub const fn code(self) -> i16 {
        match self {
            Self::Offline => 0,
            Self::Away => 1,
            Self::Available => 2,
        }
    }

    /// The inverse of [`Presence::code`].
    pub fn of(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|presence| presence.code() == code)
    }

    /// The inverse of [`Presence::name`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|presence| presence.name() == name)
    }
}

/// What an agent sees: chats of the own groups and of no group, and those that are the agent's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visibility {
    /// The agent.
    pub agent: String,
    /// The groups.
    pub groups: Vec<String>,
}

impl Visibility {
    /// Whether a chat of this group and agent is among them.
    pub fn has(&self, group: Option<&str>, agent: Option<&str>) -> bool {
        group.is_none_or(|group| self.groups.iter().any(|own| own == group)) || agent == Some(&self.agent)
    }
}

/// When agents count as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentLimits {
    /// How long an agent whose console is not heard of stays present.
    pub offline_after: Duration,
    /// How long a contact waits for the answer of an agent before another one gets the chat; `None`: for ever.
    pub silence: Option<Duration>,
}

/// How long a session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// How long it may be idle.
    pub idle: Duration,
    /// How long it lives at most.
    pub age: Duration,
}

/// Maximum number of chats that an agent is given at once.
pub const CAPACITY_MAX: u32 = 1_000;

/// Maximum length of an email address, in bytes (RFC 5321), and of a name, in characters.
const EMAIL_BYTES_MAX: usize = 254;
const NAME_CHARS_MAX: usize = 100;

/// An email address in lower case; `None` if the text cannot be one.
pub fn email(text: &str) -> Option<String> {
    let (name, host) = text.trim().rsplit_once('@')?;
    let is_plain = |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control());
    let is_email = is_plain(name) && is_plain(host) && !name.contains('@') && text.len() <= EMAIL_BYTES_MAX;
    is_email.then(|| text.trim().to_lowercase())
}

/// The name of an agent or a group; `None` if it is empty, too long, or has control characters.
pub fn name(text: &str) -> Option<&str> {
    let name = text.trim();
    ((1..=NAME_CHARS_MAX).contains(&name.chars().count()) && !name.contains(char::is_control)).then_some(name)
}

/// The id of a group; `None` if it is not 1 to 32 of `a-z`, `0-9`, `-` and `_`.
pub fn group_id(text: &str) -> Option<GroupId> {
    is_plain(text).then(|| text.into())
}

/// The bounds of a password, in characters (OWASP ASVS 2.1.1 and 2.1.2).
const PASSWORD_CHARS_MIN: usize = 12;
const PASSWORD_CHARS_MAX: usize = 128;

/// What is wrong with a new password of somebody with these names; `None` if it is good.
pub fn password_fault(password: &str, names: &[&str]) -> Option<String> {
    let chars = password.chars().count();
    if !(PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&chars) {
        return Some(format!("a password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters"));
    }
    let parts = names.iter().flat_map(|name| name.split(['@', '.', ' ', '-', '_']));
    let names: Vec<&str> = names.iter().copied().chain(parts).collect();
    (zxcvbn(password, &names).score() < Score::Three)
        .then(|| "this password is soon guessed: take several uncommon words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_presences_are_read_as_they_were_stored() {
        for role in AgentRole::ALL {
            assert_eq!((AgentRole::of(role.code()), AgentRole::named(role.name())), (Some(role), Some(role)));
        }
        for presence in Presence::ALL {
            assert_eq!(Presence::of(presence.code()), Some(presence));
            assert_eq!(Presence::named(presence.name()), Some(presence));
        }
        assert!(AgentRole::Agent < AgentRole::Manager && AgentRole::Manager < AgentRole::Admin);
    }

    #[test]
    fn an_email_is_in_lower_case_and_has_two_parts() {
        assert_eq!(email(" Ana@Example.com ").as_deref(), Some("ana@example.com"));
        for text in ["", "ana", "@example.com", "ana@", "a b@example.com", "a@b@example.com", "ana@exa mple.com"] {
            assert_eq!(email(text), None, "{text}");
        }
        assert_eq!(email(&format!("{}@example.com", "a".repeat(250))), None);
    }

    #[test]
    fn a_password_is_long_and_not_soon_guessed() {
        for bad in
            ["short", "password1234", "ana.gomez@example.com", "aaaaaaaaaaaaaaaa", "123456789012", "qwertyuiop12"]
        {
            assert!(password_fault(bad, &["ana.gomez@example.com", "Ana Gómez"]).is_some(), "{bad}");
        }
        assert_eq!(password_fault("correcto caballo batería grapa", &[]), None);
        assert!(password_fault(&"ñandú ".repeat(30), &[]).is_some(), "too long");
    }

    #[test]
    fn a_group_is_named_by_a_plain_word() {
        assert_eq!(group_id("sales-2"), Some("sales-2".into()));
        for text in ["", "Sales", "sales 2", "ventas/1", &"a".repeat(33)] {
            assert_eq!(group_id(text), None, "{text}");
        }
        assert_eq!(name("  Ventas "), Some("Ventas"));
        assert_eq!([name(" "), name("a\nb"), name(&"a".repeat(101))], [None, None, None]);
    }
}
