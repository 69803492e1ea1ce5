//! Counts the messages of each recipient, over all lines.

use std::{
    collections::HashMap,
    hash::{Hash as _, Hasher as _},
    sync::Mutex,
};

use siphasher::sip::SipHasher13;

use super::lock;
use crate::domain::Phone;

/// A recipient as the ledger identifies it; see [`super::Tally`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RecipientKey(u64);

impl RecipientKey {
    /// `place`: the line and the number of the send on it, which no other send has.
    pub(super) fn of(callback: &str, to: Phone, template: Option<usize>, place: (u16, u64)) -> Self {
        let mut hasher = SipHasher13::new();
        match (recipient_in(callback), template) {
            (Some(recipient), _) => recipient.hash(&mut hasher),
            (None, Some(_)) => (to, template).hash(&mut hasher),
            (None, None) => place.hash(&mut hasher),
        }
        Self(hasher.finish())
    }
}

/// The part of a token before its last two fields, the number of the send and the check:
/// `p1.<campaign>.<part>.<row>.<send>.<check>` or `c1.<chat>.<message>.<send>.<check>`.
fn recipient_in(callback: &str) -> Option<&str> {
    let dots = match callback.get(..3)? {
        "p1." => 5,
        "c1." => 4,
        _ => return None,
    };
    let ours = memchr::memchr_iter(b'.', callback.as_bytes()).count() == dots;
    ours.then(|| callback.rsplitn(3, '.').last()).flatten()
}

/// The recipients of all lines, in shards: while the map of one shard grows, few requests wait for its lock.
pub(super) struct Recipients(Vec<Mutex<HashMap<RecipientKey, Seen>>>);

#[derive(Clone, Copy, Default)]
struct Seen {
    messages: u16,
    reaching: u16,
}

/// How a message changes the counts of recipients.
pub(super) struct Sighting {
    /// It is the first message of its recipient.
    pub(super) first: bool,
    /// It is the second message of its recipient.
    pub(super) second: bool,
    /// It is the second message of its recipient that does not fail.
    pub(super) second_reaching: bool,
}

const SHARDS: u64 = 64;

impl Recipients {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    /// Counts a message of the recipient. `reaches`: the message does not fail.
    pub(super) fn record(&self, key: RecipientKey, reaches: bool) -> Sighting {
        let mut shard = lock(&self.0[usize::try_from(key.0 % SHARDS).unwrap_or(0)]);
        let seen = shard.entry(key).or_default();
        seen.messages = seen.messages.saturating_add(1);
        seen.reaching = seen.reaching.saturating_add(u16::from(reaches));
        Sighting {
            first: seen.messages == 1,
            second: seen.messages == 2,
            second_reaching: reaches && seen.reaching == 2,
        }
    }

    pub(super) fn clear(&self) {
        for shard in &self.0 {
            *lock(shard) = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_two_sends_identify_the_same_recipient() {
        assert_eq!(recipient_in("p1.01J9.12.7.1.00ff"), Some("p1.01J9.12.7"));
        assert_eq!(recipient_in("p1.01J9.12.7.2.aaaa"), Some("p1.01J9.12.7"));
        assert_eq!(recipient_in("c1.01J9.44.1.00ff"), Some("c1.01J9.44"));
        for other in
            ["", "p1", "c42:r981", "ñ1.a.b", "c1.a.b.c", "c1.a.b.c.d.e", "p2.a.b.c.d.e", "p1.a.b.c.d", "p1.a.b.c.d.e.f"]
        {
            assert_eq!(recipient_in(other), None, "{other}");
        }
    }

    #[test]
    fn without_a_token_number_and_template_or_the_place_identify_the_recipient() {
        let [ana, eva] = ["+5491155550001", "+5491155550002"].map(|to| to.parse::<Phone>().expect("a number"));
        let key = |to, template| RecipientKey::of("c42", to, template, (0, 1));
        assert!(key(ana, Some(1)) == key(ana, Some(1)));
        assert!(key(ana, Some(1)) != key(eva, Some(1)));
        assert!(key(ana, Some(1)) != key(ana, Some(2)));
        assert!(key(ana, None) != RecipientKey::of("c42", ana, None, (0, 2)), "two messages without a template");
    }

    #[test]
    fn a_resend_after_a_failure_reaches_the_recipient_once() {
        let recipients = Recipients::new();
        let key = RecipientKey(7);
        assert!(recipients.record(key, false).first);
        let again = recipients.record(key, true);
        assert!(again.second && !again.second_reaching);
        let third = recipients.record(key, true);
        assert!(!third.second && third.second_reaching);
    }
}
