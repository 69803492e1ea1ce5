//! Meta's rules for those who send, people's wishes, and what campaigns set for themselves, as pure functions: the time is
//! an argument, and nothing is read or stored here.
//!
//! What each of Meta's error codes means is in [`crate::domain::policy`].

pub mod breaker;
pub mod ceiling;
pub mod contact_hours;
pub mod holds;
pub mod hours;
pub mod pairs;
pub mod rate;
pub mod stop_words;
pub mod warm_up;
pub mod windows;
pub mod zones;
