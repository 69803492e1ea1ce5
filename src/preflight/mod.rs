//! Preflight: what would happen if a campaign were launched now.
//!
//! Counts the recipients that would be skipped ([`people`]), the cost of the messages ([`cost`]) and the rejected rows
//! of uploads ([`rejects`]), and lists the problems ([`problems`]). [`crate::stats`] estimates when the campaign would
//! start and end.
//!
//! Never: changes anything.

pub mod cost;
pub mod people;
pub mod problems;
pub mod rejects;
