//! Compares Pregón's statistics with the simulator's ledger.
//!
//! For each message the ledger has the last status that was delivered by an answered webhook. The state that the
//! recipient must have follows from it: that status; `accepted` or `unknown` if no status was delivered; `failed` or
//! `unknown` if there is no message.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::agent::Conversations;
use crate::{
    api_types::Statistics,
    domain::{LineId, Phone, State},
    sim::{Ledger, MessageRecord},
    terminal::{CommandError, table::table},
};

/// The factor by which the requests of one second may exceed the rate, for jitter of the network and of this machine.
const RATE_TOLERANCE: f64 = 1.05;

/// The result of the comparison.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    /// Recipients without a message in the ledger whose state is neither `failed` nor `unknown`, plus the difference
    /// between the number of recipients in the statistics and in the report.
    lost: u64,
    /// Recipients with more than one message in the ledger.
    twice: u64,
    /// The number of recipients whose state differs from the one that follows from the ledger.
    differing: u64,
    /// For each state, the number of recipients in the statistics, and the number that follows from the ledger.
    states: BTreeMap<&'static str, (u64, u64)>,
    lines: Vec<LineRate>,
    /// What became of the chats; `None` without PostgreSQL.
    pub(super) conversations: Option<Conversations>,
}

#[derive(Debug, Serialize)]
struct LineRate {
    line: LineId,
    messages_per_second: u32,
    worst_second: usize,
    mean_per_second: f64,
}

/// Parses the state of each recipient from the CSV report.
pub(super) fn states(report: &[u8]) -> Result<HashMap<Phone, String>, CommandError> {
    let unreadable = || CommandError::Failed("the report can't be read".into());
    let text = std::str::from_utf8(report).map_err(|_| unreadable())?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().ok_or_else(unreadable)?.split(',').collect();
    let column = |name: &str| header.iter().position(|column| *column == name).ok_or_else(unreadable);
    let (to, state) = (column("to")?, column("state")?);
    lines
        .map(|line| {
            // Numbers and states contain no commas, and precede the columns that may contain some.
            let fields: Vec<&str> = line.split(',').collect();
            let phone = fields.get(to).and_then(|to| to.trim_matches(|c| c == '"' || c == '\'').parse().ok());
            Ok((phone.ok_or_else(unreadable)?, fields.get(state).ok_or_else(unreadable)?.to_string()))
        })
        .collect()
}

impl Verdict {
    pub(super) fn of(
        statistics: &Statistics,
        ours: &HashMap<Phone, String>,
        messages: &[MessageRecord],
        ledger: &Ledger,
        rates: &[(LineId, u32)],
    ) -> Self {
        // If the answer was lost and no status carried the token, Pregón cannot match the message to its recipient, so
        // its statuses do not count.
        let state = |message: &MessageRecord| if message.named { message.state } else { State::Accepted };
        let of_campaign = messages.iter().filter(|message| message.template.is_some());
        let by_phone: HashMap<Phone, State> = of_campaign.map(|message| (message.to, state(message))).collect();
        let (mut lost, mut differing) = (0, 0);
        let mut states: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
        for (phone, state) in ours {
            let (expected, is_lost) = expected(by_phone.get(phone).copied(), state);
            lost += u64::from(is_lost);
            differing += u64::from(expected != state);
            states.entry(expected).or_default().1 += 1;
        }
        for (name, n) in statistics.by_state.each() {
            let name = name.replace(' ', "_");
            if let Some(state) = State::ALL.into_iter().find(|state| state.name() == name)
                && (n > 0 || states.contains_key(state.name()))
            {
                states.entry(state.name()).or_default().0 = n;
            }
        }
        lost += statistics.recipients.abs_diff(ours.len() as u64);
        let lines = rates.iter().filter_map(|(line, messages_per_second)| {
            let rates = ledger.lines.get(line.as_str())?.rates.as_ref()?;
            Some(LineRate {
                line: line.clone(),
                messages_per_second: *messages_per_second,
                worst_second: rates.requests_in_1s_max,
                mean_per_second: rates.requests_per_second_mean.unwrap_or(0.0),
            })
        });
        let (twice, lines) = (ledger.total.duplicated_recipients, lines.collect());
        Self { lost, twice, differing, states, lines, conversations: None }
    }

    /// Whether nothing was lost, nothing was sent twice, no rate was exceeded, every count is equal and the chats are
    /// whole.
    pub(super) fn is_good(&self) -> bool {
        let within_rate =
            |line: &LineRate| line.worst_second as f64 <= f64::from(line.messages_per_second) * RATE_TOLERANCE;
        let equal = self.states.values().all(|(ours, theirs)| ours == theirs);
        let of_chats = self.conversations.as_ref().is_none_or(Conversations::is_good);
        self.lost == 0
            && self.twice == 0
            && self.differing == 0
            && equal
            && self.lines.iter().all(within_rate)
            && of_chats
    }

    pub(super) fn table(&self) -> String {
        let states = self.states.iter().map(|(name, (ours, theirs))| {
            let verdict = if ours == theirs { "equal" } else { "DIFFERS" };
            [(*name).to_owned(), ours.to_string(), theirs.to_string(), verdict.to_owned()]
        });
        let states = table(["state", "statistics", "ledger", ""], states);
        let lines = self.lines.iter().map(|line| {
            let mean = format!("{:.1}", line.mean_per_second);
            [line.line.to_string(), line.messages_per_second.to_string(), mean, line.worst_second.to_string()]
        });
        let lines = table(["line", "allowed/s", "mean/s", "worst second"], lines);
        let equal =
            if self.differing == 0 { "statistics equal the ledger" } else { "STATISTICS DIFFER FROM THE LEDGER" };
        let verdict = if self.is_good() { "good" } else { "NOT GOOD" };
        let chats = self.conversations.as_ref().map_or_else(String::new, |chats| format!("{}\n\n", chats.table()));
        format!(
            "{states}\n\n{lines}\n\n{chats}lost {} · twice {} · {equal} · verdict: {verdict}",
            self.lost, self.twice
        )
    }
}

/// The state that a recipient must have in Pregón, and whether the recipient is lost. `ledger` is the state of the
/// recipient's message in the ledger. For some ledger states two states are correct: then `ours`, the state in Pregón,
/// is returned if it is one of the two.
fn expected(ledger: Option<State>, ours: &str) -> (&'static str, bool) {
    let either = |one: &'static str, other: &'static str| if ours == other { other } else { one };
    match ledger {
        // No status was delivered. If the answer was lost too, Pregón cannot know of the message.
        Some(State::Accepted) => (either("accepted", "unknown"), false),
        Some(state) => (state.name(), false),
        None => (either("failed", "unknown"), ours != "failed" && ours != "unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_counted_as_sent_without_a_message_is_lost() {
        assert_eq!(expected(None, "delivered"), ("failed", true));
        assert_eq!(expected(None, "pending"), ("failed", true));
        assert_eq!(expected(None, "unknown"), ("unknown", false));
        assert_eq!(expected(None, "failed"), ("failed", false));
    }

    #[test]
    fn a_delivered_status_must_be_counted() {
        assert_eq!(expected(Some(State::Read), "delivered"), ("read", false));
        assert_eq!(expected(Some(State::Accepted), "unknown"), ("unknown", false));
        assert_eq!(expected(Some(State::Accepted), "sent"), ("accepted", false));
    }
}
