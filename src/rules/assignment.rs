//! Which agent gets which chat of the queue.
//!
//! The chat that has waited longest comes first. It goes to the agent who had it before it was closed, or else to the
//! least busy one, and to an agent who was silent in it only if nobody else has room.

use crate::domain::{AgentId, GroupId};

/// A chat in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedChat {
    /// Its id.
    pub id: i64,
    /// Whose it is; `None`: every agent's.
    pub group: Option<GroupId>,
    /// Who had it before, and should have it again.
    pub prefers: Option<AgentId>,
    /// From whom it was taken for silence.
    pub avoids: Option<AgentId>,
}

/// An agent who is available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailableAgent {
    /// The agent.
    pub id: AgentId,
    /// How many chats the agent may have.
    pub capacity: u32,
    /// How many chats the agent has.
    pub chats: u32,
    /// When the agent was last given one. Between equally busy agents the one who has waited longest is next.
    pub assigned_at: i64,
    /// The groups.
    pub groups: Vec<GroupId>,
}

impl AvailableAgent {
    /// Whether the agent may have another chat.
    pub fn has_room(&self) -> bool {
        self.chats < self.capacity
    }

    fn can_take(&self, chat: &QueuedChat) -> bool {
        self.has_room() && chat.group.as_ref().is_none_or(|group| self.groups.contains(group))
    }
}

/// Gives chats of the queue, the first of which has waited longest, to agents, and counts them there. Returns each chat
/// that was given, with its agent. A chat remains only if no agent with room may have it.
pub fn assign(queue: &[QueuedChat], agents: &mut [AvailableAgent]) -> Vec<(i64, AgentId)> {
    let mut given = Vec::new();
    for chat in queue {
        let able = agents.iter_mut().filter(|agent| agent.can_take(chat));
        let next = able.min_by_key(|agent| {
            let (is_preferred, is_avoided) = (chat.prefers == Some(agent.id), chat.avoids == Some(agent.id));
            (!is_preferred, is_avoided, agent.chats, agent.assigned_at, agent.id)
        });
        let Some(agent) = next else { continue };
        agent.chats += 1;
        // Behind all who were given a chat in an earlier call.
        agent.assigned_at = i64::MAX;
        given.push((chat.id, agent.id));
    }
    given
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;

    fn id(number: u128) -> AgentId {
        AgentId(Ulid(number))
    }

    fn agent(number: u128, chats: u32, groups: &[&str]) -> AvailableAgent {
        let groups = groups.iter().map(|group| (*group).into()).collect();
        AvailableAgent { id: id(number), capacity: 3, chats, assigned_at: 0, groups }
    }

    fn chat(number: i64, group: Option<&str>) -> QueuedChat {
        QueuedChat { id: number, group: group.map(Into::into), prefers: None, avoids: None }
    }

    #[test]
    fn the_least_busy_agent_of_the_group_is_next() {
        let mut agents = [agent(1, 2, &["sales"]), agent(2, 0, &["help"]), agent(3, 1, &["sales", "help"])];
        let queue = [chat(10, Some("sales")), chat(11, None), chat(12, Some("vip")), chat(13, Some("sales"))];
        assert_eq!(assign(&queue, &mut agents), [(10, id(3)), (11, id(2)), (13, id(1))]);
    }

    #[test]
    fn equally_busy_agents_take_turns() {
        let mut agents = [agent(1, 0, &[]), agent(2, 0, &[]), agent(3, 0, &[])];
        agents[0].assigned_at = 9;
        let given: Vec<AgentId> = assign(&(0..4).map(|number| chat(number, None)).collect::<Vec<_>>(), &mut agents)
            .into_iter()
            .map(|(_, agent)| agent)
            .collect();
        assert_eq!(given, [id(2), id(3), id(1), id(1)]);
    }

    #[test]
    fn a_chat_returns_to_its_agent_and_leaves_a_silent_one() {
        let mut agents = [agent(1, 2, &[]), agent(2, 0, &[])];
        let again = QueuedChat { prefers: Some(id(1)), ..chat(10, None) };
        let left = QueuedChat { avoids: Some(id(2)), ..chat(11, None) };
        assert_eq!(assign(&[again, left.clone()], &mut agents), [(10, id(1)), (11, id(2))], "nobody else has room");
        let mut agents = [agent(1, 2, &[]), agent(2, 0, &[])];
        assert_eq!(assign(&[left], &mut agents), [(11, id(1))]);
    }

    const GROUPS: [&str; 3] = ["a", "b", "c"];

    fn groups() -> impl Strategy<Value = Vec<GroupId>> {
        proptest::sample::subsequence(GROUPS.map(GroupId::from).to_vec(), 0..=3)
    }

    fn any_agents() -> impl Strategy<Value = Vec<AvailableAgent>> {
        let one = (0..4_u32, 0..5_u32, 0..9_i64, groups());
        proptest::collection::vec(one, 0..6).prop_map(|all| {
            let agent = |(number, (capacity, chats, assigned_at, groups))| AvailableAgent {
                id: id(number),
                capacity,
                chats,
                assigned_at,
                groups,
            };
            (1..).zip(all).map(agent).collect()
        })
    }

    fn any_queue() -> impl Strategy<Value = Vec<QueuedChat>> {
        let agent = || proptest::option::of((1..6_u128).prop_map(id));
        let one = (proptest::option::of(proptest::sample::select(GROUPS.to_vec())), agent(), agent());
        proptest::collection::vec(one, 0..20).prop_map(|all| {
            let chat = |(id, (group, prefers, avoids)): (i64, (Option<&str>, _, _))| QueuedChat {
                id,
                group: group.map(Into::into),
                prefers,
                avoids,
            };
            (1..).zip(all).map(chat).collect()
        })
    }

    proptest! {
        #[test]
        fn no_chat_waits_that_an_agent_with_room_may_have(queue in any_queue(), before in any_agents()) {
            let mut agents = before.clone();
            let given = assign(&queue, &mut agents);
            for chat in &queue {
                let of_chat = given.iter().filter(|(id, _)| *id == chat.id).count();
                prop_assert!(of_chat <= 1, "chat {} has {of_chat} agents", chat.id);
                prop_assert!(of_chat == 1 || !agents.iter().any(|agent| agent.can_take(chat)), "{chat:?} waits");
            }
            for (earlier, agent) in before.iter().zip(&agents) {
                let got = given.iter().filter(|(_, to)| *to == agent.id).count();
                prop_assert_eq!(agent.chats as usize, earlier.chats as usize + got);
                prop_assert!(got == 0 || agent.chats <= agent.capacity);
            }
            for (chat, to) in &given {
                let chat = queue.iter().find(|queued| queued.id == *chat).expect("a chat of the queue");
                let agent = agents.iter().find(|agent| agent.id == *to).expect("an agent");
                prop_assert!(chat.group.as_ref().is_none_or(|group| agent.groups.contains(group)));
            }
        }

        #[test]
        fn who_has_waited_longest_is_not_passed_over(queue in any_queue(), before in any_agents()) {
            let mut agents = before.clone();
            let given = assign(&queue, &mut agents);
            for (place, waits) in queue.iter().enumerate() {
                if given.iter().any(|(id, _)| *id == waits.id) {
                    continue;
                }
                let later = queue[place..].iter().filter(|chat| chat.group == waits.group);
                for chat in later {
                    prop_assert!(!given.iter().any(|(id, _)| *id == chat.id), "{chat:?} is ahead of {waits:?}");
                }
            }
        }
    }
}
