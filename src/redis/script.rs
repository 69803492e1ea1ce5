//! The Lua scripts: each is one atomic change. Their contracts stand at their heads.

use std::{fmt::Write as _, sync::LazyLock};

use crate::domain::State;

/// A script and the digest that Redis knows it by.
#[derive(Debug)]
pub struct Script {
    /// Its name, for metrics and errors.
    pub name: &'static str,
    /// What is loaded into Redis.
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
    (plain { $($plain:ident $plain_file:literal,)* } of_a_part { $($part:ident $part_file:literal,)* }) => {
        $(#[doc = concat!("`scripts/", $plain_file, ".lua`")]
        pub static $plain: LazyLock<Script> =
            LazyLock::new(|| Script::new($plain_file, include_str!(concat!("scripts/", $plain_file, ".lua")).to_owned()));)*
        $(#[doc = concat!("`scripts/", $part_file, ".lua`")]
        pub static $part: LazyLock<Script> =
            LazyLock::new(|| Script::new($part_file, with_states(include_str!(concat!("scripts/", $part_file, ".lua")))));)*

        /// Every script, to be loaded at once.
        pub fn all() -> impl Iterator<Item = &'static Script> {
            [$(&*$plain,)* $(&*$part,)*].into_iter()
        }
    };
}

scripts! {
    plain {
    ACQUIRE "acquire", RELEASE "release",
    CREATE "create", CHANGE "change", APPLIED "applied", POSTPONE "postpone", DELETE "delete", FREE_NAME "free_name",
    BEGIN_UPLOAD "begin_upload", RESERVE "reserve", ADMIT "admit", SPLIT "split",
    FIND "find", SEGMENT "segment", APPEND "append", DROP_IDS "drop_ids", INDEXED "indexed",
    FINISH_JOB "finish_job",
    }
    of_a_part {
    ACTIVATE "activate", GATE "gate", CLAIM "claim", SETTLE "settle", STATUS "status", DOUBTS "doubts", SWEEP "sweep",
    }
}

/// The name of a state's counter in the hash of a part.
pub fn counter(state: State) -> &'static str {
    match state {
        State::Refused => "refused",
        other => other.name(),
    }
}

/// Puts the states, their ranks and the shared prelude before a script, so that Lua and Rust can not differ.
///
/// All of it runs with each call: a list that is written whole costs a fraction of a table that grows, and a number nothing.
fn with_states(script: &str) -> String {
    let [mut name, mut rank, mut open, mut is_open, mut in_flight] = [const { String::new() }; 5];
    // In the order of their codes, which begin with 1 as lists do.
    for each in State::ALL {
        let counter = counter(each);
        let _ = write!(name, "'{counter}', ");
        let _ = write!(rank, "{}, ", each.rank());
        if each.is_open() {
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
    State::ALL
        .into_iter()
        .fold(text, |text, state| text.replace(&format!("STATE.{}", counter(state)), &state.code().to_string()))
}
