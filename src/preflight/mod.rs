//! Preflight: what would happen if a campaign were launched now.
//!
//! Counts who would be skipped ([`people`]), what the messages would cost ([`cost`]) and what the uploads rejected
//! ([`rejects`]), and says what is wrong ([`problems`]). When the campaign would start and end is the estimate of
//! [`crate::stats`].
//!
//! Never: changes anything.

pub mod cost;
pub mod people;
pub mod problems;
pub mod rejects;
