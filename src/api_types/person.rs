//! The response to a call that forgets a person.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::EntryId;

/// What was removed of a person.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ForgottenPerson)]
pub struct ForgottenView {
    /// The campaigns that had the person as a recipient.
    pub campaigns: u64,
    /// The recipients of these campaigns.
    pub recipients: u64,
    /// Those of the recipients who were still to be sent to. They are skipped.
    pub skipped: u64,
    /// Messages from the person.
    pub messages: u64,
    /// Messages in chats of the person.
    #[serde(default)]
    #[schema(required)]
    pub chat_messages: u64,
    /// Events about the person.
    pub events: u64,
    /// The businesses that suppress the person. They still do.
    pub suppressions: u64,
    /// The dead letters that name the person. They are left: retry or delete them.
    pub dead_letters: Vec<EntryId>,
}
