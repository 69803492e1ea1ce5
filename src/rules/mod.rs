//! Meta's rules for senders, people's wishes, and the limits of campaigns, as pure functions: the time is an argument,
//! and nothing is read or stored here.
//!
//! The meaning of each of Meta's error codes is in [`crate::domain::policy`].

pub mod assignment;
pub mod breaker;
pub mod ceiling;
pub mod contact_hours;
pub mod conversations;
pub mod holds;
pub mod hours;
pub mod inbound_links;
pub mod pairs;
pub mod rate;
pub mod stop_words;
pub mod tagging;
pub mod warm_up;
pub mod windows;
mod words;
pub mod zones;
