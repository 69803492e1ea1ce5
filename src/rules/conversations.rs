//! Conversations: a chat as interactions of at most 24 hours, which follow from what happens in it.
//!
//! The client opens a conversation by writing, the business by a template that arrives. What follows within 24 hours of
//! that belongs to it, unless an agent closes or finishes the chat before.
//!
//! Never: is stored as the truth. Whatever counts conversations equals what [`conversations`] derives.

use std::time::Duration;

use crate::domain::{CampaignId, UnixMs};

/// The length of a conversation that nobody ends before.
pub const CONVERSATION_LENGTH: Duration = Duration::from_hours(24);

/// Who opened a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenedBy {
    /// The contact, by writing.
    Client = 1,
    /// The business, by a template.
    Business = 2,
}

impl OpenedBy {
    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Business => "business",
        }
    }
}

/// How a conversation ended before its 24 hours were over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// An agent closed the chat.
    Closed = 1,
    /// An agent finished the chat.
    Finished = 2,
}

impl Ending {
    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Finished => "finished",
        }
    }
}

/// What happens in a chat and means something for its conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// This opens a conversation, unless one is open. `campaign`: that sent the template, or that the contact answers.
    Opens {
        /// Who writes.
        by: OpenedBy,
        /// The campaign.
        campaign: Option<CampaignId>,
    },
    /// An agent ends the conversation that is open.
    Ends(Ending),
}

/// A conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Who opened it.
    pub opened_by: OpenedBy,
    /// When.
    pub opened_at: UnixMs,
    /// The campaign that sent the template which opened it, or to which the first message is an answer.
    pub campaign: Option<CampaignId>,
    /// How and when an agent ended it.
    pub ending: Option<(Ending, UnixMs)>,
}

impl Conversation {
    /// When it ends, at the latest.
    pub fn ends_at(&self) -> UnixMs {
        self.ending.map_or_else(|| self.opened_at.after(CONVERSATION_LENGTH), |(_, at)| at)
    }

    /// Whether it is open at a time. At its opening it is.
    pub fn is_open_at(&self, at: UnixMs) -> bool {
        self.opened_at <= at && at < self.ends_at()
    }

    /// Whether a turn at this time may change it or what follows it, if it is the last one that was opened no later.
    pub fn is_changed_by(&self, at: UnixMs, turn: Turn) -> bool {
        match turn {
            Turn::Opens { .. } => at == self.opened_at || !self.is_open_at(at),
            Turn::Ends(_) => self.is_open_at(at),
        }
    }
}

/// The conversations of a chat, the oldest first, from what happened in it, in any order.
///
/// Those from the opening of one of them on follow from the turns from that time on.
pub fn conversations(turns: impl IntoIterator<Item = (UnixMs, Turn)>) -> Vec<Conversation> {
    let mut turns: Vec<(UnixMs, Turn)> = turns.into_iter().collect();
    // At the same time, what opens is before what ends, and the order among those is the same whoever reads them.
    turns.sort_by_key(|(at, turn)| {
        let (rank, campaign) = match turn {
            Turn::Opens { by, campaign } => (*by as u8, *campaign),
            Turn::Ends(ending) => (2 + *ending as u8, None),
        };
        (*at, rank, campaign)
    });
    let mut all = Vec::<Conversation>::new();
    for (at, turn) in turns {
        let open = all.last_mut().filter(|last| last.is_open_at(at));
        match (open, turn) {
            (Some(open), Turn::Ends(ending)) => open.ending = Some((ending, at)),
            (None, Turn::Opens { by, campaign }) => {
                all.push(Conversation { opened_by: by, opened_at: at, campaign, ending: None });
            }
            (Some(_), Turn::Opens { .. }) | (None, Turn::Ends(_)) => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const INBOUND: Turn = Turn::Opens { by: OpenedBy::Client, campaign: None };
    const TEMPLATE: Turn = Turn::Opens { by: OpenedBy::Business, campaign: None };
    const CLOSED: Turn = Turn::Ends(Ending::Closed);
    const FINISHED: Turn = Turn::Ends(Ending::Finished);

    fn at(hour: u64) -> UnixMs {
        UnixMs(hour * HOUR)
    }

    #[test]
    fn a_conversation_ends_when_an_agent_ends_it_or_after_24_hours() {
        use OpenedBy::{Business, Client};
        for (turns, expected) in [
            (vec![], vec![]),
            (vec![(1, INBOUND), (2, TEMPLATE)], vec![(Client, 1, 25)]),
            (vec![(1, TEMPLATE), (24, INBOUND), (25, INBOUND)], vec![(Business, 1, 25), (Client, 25, 49)]),
            (
                vec![(1, INBOUND), (2, CLOSED), (3, FINISHED), (3, TEMPLATE), (4, FINISHED)],
                vec![(Client, 1, 2), (Business, 3, 3)],
            ),
            (vec![(1, CLOSED)], vec![]),
            // What is told late counts when it happened.
            (vec![(9, INBOUND), (7, TEMPLATE)], vec![(Business, 7, 31)]),
        ] {
            let all = conversations(turns.iter().map(|(hour, turn)| (at(*hour), *turn))).into_iter();
            let told: Vec<_> = all.map(|one| (one.opened_by, one.opened_at.0 / HOUR, one.ends_at().0 / HOUR)).collect();
            assert_eq!(told, expected, "{turns:?}");
        }
    }

    #[test]
    fn a_conversation_is_of_the_campaign_that_opened_it() {
        let campaign = |n: u128| Some(CampaignId(Ulid(n)));
        let turns = [
            (1, Turn::Opens { by: OpenedBy::Business, campaign: campaign(1) }),
            (3, Turn::Opens { by: OpenedBy::Client, campaign: campaign(2) }),
        ];
        let all = conversations(turns.map(|(hour, turn)| (at(hour), turn)));
        assert_eq!(all.iter().map(|one| one.campaign).collect::<Vec<_>>(), [campaign(1)]);
    }

    fn turn() -> impl Strategy<Value = (UnixMs, Turn)> {
        let turn = prop_oneof![Just(INBOUND), Just(TEMPLATE), Just(CLOSED), Just(FINISHED)];
        (0_u64..200, turn).prop_map(|(hour, turn)| (at(hour), turn))
    }

    proptest! {
        #[test]
        fn whoever_writes_is_in_a_conversation_and_those_do_not_overlap(
            turns in proptest::collection::vec(turn(), 0..40)
        ) {
            let all = conversations(turns.iter().copied());
            prop_assert!(all.windows(2).all(|pair| pair[0].ends_at() <= pair[1].opened_at));
            for (at, turn) in &turns {
                let is_in_one = all.iter().any(|one| one.is_open_at(*at) || one.ends_at() == *at);
                prop_assert!(is_in_one || matches!(turn, Turn::Ends(_)), "{at:?}");
            }
        }

        #[test]
        fn they_can_be_derived_anew_from_any_opening_on(turns in proptest::collection::vec(turn(), 0..40)) {
            let all = conversations(turns.iter().copied());
            for (n, from) in all.iter().enumerate() {
                let later = turns.iter().copied().filter(|(at, _)| *at >= from.opened_at);
                prop_assert_eq!(&conversations(later), &all[n..]);
            }
        }

        #[test]
        fn a_turn_changes_nothing_before_its_conversation_and_nothing_at_all_unless_it_may(
            turns in proptest::collection::vec(turn(), 0..40), (at, turn) in turn()
        ) {
            let before = conversations(turns.iter().copied());
            let after = conversations(turns.iter().copied().chain([(at, turn)]));
            let last = before.iter().rposition(|one| one.opened_at <= at);
            let is_changed = last.map_or(matches!(turn, Turn::Opens { .. }), |last| before[last].is_changed_by(at, turn));
            let kept = if is_changed { last.unwrap_or(0) } else { before.len() };
            prop_assert_eq!(&before[..kept], &after[..kept]);
            prop_assert!(is_changed || before == after);
        }
    }
}
