//! The command line for people, and with `--json` for programs.
//!
//! `campaign` and `line` talk to a running server by its HTTP API alone. The result goes to standard output, everything else to standard
//! error. Exit codes: 0 done, 1 failed, 2 usage or configuration.
//!
//! If the process dies: a campaign goes on without it; the same command again continues an upload that was cut, unless that was
//! `submit --again`.
//! Never: touches Redis or Meta on behalf of a campaign; prints a secret.

pub mod arguments;
pub mod campaign;
pub mod error;
pub mod line;
pub mod out;
pub mod progress;
pub mod source;
pub mod submit;
pub mod table;
pub mod watch;
pub mod words;

pub use arguments::Arguments;
pub use error::CommandError;
