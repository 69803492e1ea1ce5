//! The lines that a business has at Meta, and which of them its `include` chooses.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LineId, UnixMs, WabaId};

/// A line of a business at Meta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaLine {
    /// Meta's `phone_number_id`.
    pub id: LineId,
    /// Its WABA.
    pub waba: WabaId,
    /// Whether the business owns the WABA. Otherwise another business shares it.
    pub is_owned: bool,
    /// The phone number, formatted for people.
    pub display: String,
    /// The name that people see; may be empty.
    pub verified_name: String,
}

/// The lines of a business at Meta, and when Meta was last asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaLines {
    /// When Meta was asked.
    pub at: UnixMs,
    /// The lines, in the order of their WABAs.
    pub lines: Vec<MetaLine>,
}

impl MetaLines {
    /// Whether Meta was asked less than `age` before `now`.
    pub fn is_fresh(&self, now: UnixMs, age: Duration) -> bool {
        self.at.after(age) > now
    }
}

impl MetaLine {
    /// Whether an entry of `include` chooses the line: by its id, that of its WABA, its phone number with a plus, or its
    /// verified name. `*` chooses each line of the WABAs that the business owns.
    pub fn is_chosen_by(&self, entry: &str) -> bool {
        let is_number = entry.strip_prefix('+').is_some_and(|number| digits(number) == digits(&self.display));
        entry == "*" && self.is_owned
            || entry == self.id.as_str()
            || entry == self.waba.as_str()
            || entry == self.verified_name
            || is_number
    }
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_chosen_by_its_id_waba_number_or_name() {
        let own = MetaLine {
            id: "3001".into(),
            waba: "2001".into(),
            is_owned: true,
            display: "+54 9 11 5555 0001".into(),
            verified_name: "Acme Ventas".into(),
        };
        let shared = MetaLine { is_owned: false, ..own.clone() };
        for entry in ["3001", "2001", "+5491155550001", "+54 9 11 5555-0001", "Acme Ventas"] {
            assert!(own.is_chosen_by(entry) && shared.is_chosen_by(entry), "{entry}");
        }
        assert!(own.is_chosen_by("*") && !shared.is_chosen_by("*"), "others' WABAs are named");
        for entry in ["3002", "5491155550001", "+", "+549115555000", "acme", "", "**"] {
            assert!(!own.is_chosen_by(entry), "{entry}");
        }
    }
}
