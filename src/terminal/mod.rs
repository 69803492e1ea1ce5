//! The command line: arguments, and output for people or, with `--json`, for programs.
//!
//! `agent`, `campaign`, `event`, `group`, `hold`, `job`, `line`, `person`, `suppression`, `template`, `top`, `worker`, `pause` and
//! `resume` only call the HTTP API of a running server. Results go to standard output, everything else to standard
//! error. Exit codes: 0 done, 1 failed, 2 usage or configuration.
//!
//! If the process dies: a campaign continues without it. Repeating the command resumes an interrupted upload, except
//! for `submit --again`.
//! Never: accesses Redis or Meta for a campaign; prints a secret.

pub mod agent;
pub mod arguments;
pub mod ask;
pub mod business;
pub mod campaign;
mod download;
mod each;
pub mod error;
mod find;
pub mod group;
pub mod health;
pub mod hold;
pub mod install;
pub mod job;
pub mod line;
pub mod out;
mod pages;
pub mod pause;
pub mod person;
mod preflight;
pub mod progress;
pub mod reconnect;
mod remedy;
mod screen;
pub mod source;
pub mod submit;
pub mod suppression;
pub mod table;
pub mod tail;
pub mod template;
pub mod top;
mod upload;
pub mod watch;
pub mod words;
pub mod worker;

pub use arguments::Arguments;
pub use error::CommandError;
