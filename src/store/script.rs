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
    CREATE "create", CHANGE "change", APPLIED "applied",
    BEGIN_UPLOAD "begin_upload", RESERVE "reserve", ADMIT "admit", SPLIT "split", FIND "find",
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
fn with_states(script: &str) -> String {
    let mut head = String::from("local STATE, NAME, RANK, OPEN = {}, {}, { [0] = 0 }, {}\n");
    let mut in_flight = String::new();
    for state in State::ALL {
        let (name, code) = (counter(state), state.code());
        let _ = writeln!(head, "STATE.{name}, NAME[{code}], RANK[{code}] = {code}, '{name}', {}", state.rank());
        if state.is_open() {
            let _ = writeln!(head, "OPEN[#OPEN + 1] = '{name}'");
        }
    }
    for send in 0..16u8 {
        let _ = write!(in_flight, "\\{:03}", send * 16 + State::InFlight.code());
    }
    let _ = writeln!(head, "local IN_FLIGHT = '[{in_flight}]'");
    head + include_str!("scripts/prelude.lua") + script
}
