//! Meta's rules for those who send, and people's wishes, as pure functions: the time is an argument, and nothing is read or stored here.
//!
//! What each of Meta's error codes means is in [`crate::domain::policy`].

pub mod breaker;
pub mod holds;
pub mod pairs;
pub mod rate;
pub mod stop_words;
pub mod warm_up;
