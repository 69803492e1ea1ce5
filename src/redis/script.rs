//! The Lua scripts. Each is one atomic change; the head of each file documents its contract.

use std::{fmt::Write as _, sync::LazyLock};

use super::wamids::BLOCK_ROWS;
use crate::domain::State;

/// A script and its digest, by which Redis calls it.
#[derive(Debug)]
pub struct Script {
    /// Its name, for metrics and errors.
    pub name: &'static str,
    /// The text that is loaded into Redis.
    pub source: String,
    /// SHA-1 of the source.
    pub digest: String,
}

impl Script {
    fn new(name: &'static str, source: String) -> Self {
        let digest = deadpool_redis::redis::Script::new(&source).get_hash().to_owned();
        Self { name, source, digest }
    }
}

macro_rules! scripts {
    (plain { $($plain:ident $plain_file:literal,)* } of_a_chat { $($chat:ident $chat_file:literal,)* } of_a_part { $($part:ident $part_file:literal,)* }) => {
        $(#[doc = concat!("`scripts/", $plain_file, ".lua`")]
        pub static $plain: LazyLock<Script> =
            LazyLock::new(|| Script::new($plain_file, include_str!(concat!("scripts/", $plain_file, ".lua")).to_owned()));)*
        $(#[doc = concat!("`scripts/", $chat_file, ".lua`")]
        pub static $chat: LazyLock<Script> =
            LazyLock::new(|| Script::new($chat_file, insert_codes(include_str!(concat!("scripts/", $chat_file, ".lua")))));)*
        $(#[doc = concat!("`scripts/", $part_file, ".lua`")]
        pub static $part: LazyLock<Script> =
            LazyLock::new(|| Script::new($part_file, with_states(include_str!(concat!("scripts/", $part_file, ".lua")))));)*

        /// All scripts.
        pub fn all() -> impl Iterator<Item = &'static Script> {
            [$(&*$plain,)* $(&*$chat,)* $(&*$part,)*].into_iter()
        }
    };
}

scripts! {
    plain {
    ACQUIRE "acquire", RELEASE "release", WARM_UP "warm_up",
    CREATE "create", CHANGE "change", AMEND "amend", RETRY "retry", FORGET "forget", SET_CATEGORY "set_category", APPLIED "applied", POSTPONE "postpone", BEGIN_DELETION "begin_deletion",
    DELETE "delete", FREE_NAME "free_name", NOTE_DETAILS "note_details",
    BEGIN_UPLOAD "begin_upload", RESERVE "reserve", ADMIT "admit", SPLIT "split",
    FIND "find", SEGMENT "segment", APPEND "append", DROP_IDS "drop_ids", INDEXED "indexed",
    NEXT_JOB "next_job", FINISH_JOB "finish_job", DEAD_LETTERS "dead_letters",
    KEEP_INBOUND "keep_inbound",
    TAKE_PLACES "take_places", NOTE_PLACES "note_places",
    SUPPRESS "suppress", UNSUPPRESS "unsuppress", ERASE_SUPPRESSED "erase_suppressed", ERASE_PLACES "erase_places",
    WITHHOLD "withhold", COUNT_MARKETING "count_marketing", UNCOUNT_MARKETING "uncount_marketing",
    APPEND_EVENTS "append_events", NEWEST_EVENT "newest_event", MARK_CHANGED "mark_changed", READ_CHANGES "read_changes",
    READ_INBOUND "read_inbound", SKIP_INBOUND "skip_inbound", TOLD "told",
    BEGIN_DELIVERY "begin_delivery", CHANGE_SUBSCRIBER "change_subscriber",
    }
    of_a_chat {
    CHAT_PUT "chat_put", CHAT_CLAIM "chat_claim", CHAT_SETTLE "chat_settle", CHAT_STATUS "chat_status", CHAT_ACK "chat_ack",
    CHAT_DROP "chat_drop",
    }
    of_a_part {
    ACTIVATE "activate", GATE "gate", CLAIM "claim", SETTLE "settle", STATUS "status", DOUBTS "doubts", SWEEP "sweep",
    FIND_RETRIABLE "find_retriable", REOPEN "reopen", ERASE "erase",
    }
}

/// The field of a state's counter in the hash of a part.
pub fn counter(state: State) -> &'static str {
    match state {
        State::Refused => "refused",
        other => other.name(),
    }
}

/// Prepends the states, their ranks and the shared prelude to a script, and replaces `STATE.name` by the state's
/// code, and `BLOCK_ROWS` by its value. So Lua and Rust always agree on them.
///
/// The prepended code runs with every call, so it only has table constructors, which cost a fraction of filling a table
/// step by step. A state's code is inserted as a number, which costs nothing.
fn with_states(script: &str) -> String {
    let [mut name, mut rank, mut open, mut is_open, mut in_flight] = [const { String::new() }; 5];
    // The states are in the order of their codes, which begin at 1 like the indexes of Lua lists.
    for state in State::ALL {
        let counter = counter(state);
        let _ = write!(name, "'{counter}', ");
        let _ = write!(rank, "{}, ", state.rank());
        if state.is_open() {
            let _ = write!(open, "'{counter}', ");
            let _ = write!(is_open, "{counter} = true, ");
        }
    }
    for send in 0..16u8 {
        let _ = write!(in_flight, "\\{:03}", send * 16 + State::InFlight.code());
    }
    let head = format!(
        "local NAME, RANK = {{ {name} }}, {{ {rank} [0] = 0 }}\n\
         local OPEN, IS_OPEN = {{ {open} }}, {{ {is_open} }}\nlocal IN_FLIGHT = '[{in_flight}]'\n"
    );
    let text = head + include_str!("scripts/prelude.lua") + script;
    insert_codes(&text.replace("BLOCK_ROWS", &BLOCK_ROWS.to_string()))
}

/// Replaces `STATE.name` by the state's code.
fn insert_codes(text: &str) -> String {
    State::ALL.into_iter().fold(text.to_owned(), |text, state| {
        text.replace(&format!("STATE.{}", counter(state)), &state.code().to_string())
    })
}
