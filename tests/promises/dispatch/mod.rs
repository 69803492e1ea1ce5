//! From a claim to an outcome: what is sent, how it is settled, and what is repaired after a crash.

mod broken_path;
mod hostile;
mod housekeeping;
mod sending;
mod settling;
