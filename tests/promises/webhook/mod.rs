//! Webhooks: which are accepted, what their statuses count, and which recipient a message id belongs to.

mod account_faults;
mod chats;
mod codes;
mod counts;
mod delivery;
mod forwarding;
mod inbound;
mod live_templates;
mod message_ids;
mod whole_ids;
mod wishes;
