//! The HTTP client for Meta's Graph API. The only module that knows the wire format of sending.

pub mod answer;
pub mod body;
pub mod client;
mod connections;
pub mod management;
pub mod media;
pub mod portfolio;
pub mod reply;

pub use client::{
    BadGraphConfig, BadToken, Departure, Edge, GraphClient, GraphClientConfig, LineSender, Permit, SendRequest,
};
pub use management::{GraphError, LineInfo, LineLimits, SendHealth};
pub use portfolio::{ListedLine, ListedWaba, Ownership, SubscribedApp, Subscription};
