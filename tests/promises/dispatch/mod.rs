//! Dispatch, from a claim to an outcome: sending, settling, and the repairs after a crash.

mod allowances;
mod broken_path;
mod ceilings;
mod chats;
pub mod codes;
mod frequency_caps;
mod holds;
mod hostile;
mod housekeeping;
mod lanes;
mod marketing;
mod messaging_limits;
mod metrics;
mod pairs;
mod pausing;
mod sending;
mod settling;
mod suppression;
mod test_sends;
mod warm_up;
mod windows;
mod withheld;
