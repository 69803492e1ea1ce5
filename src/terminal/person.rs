//! `pregon person forget`.

use super::{CommandError, each::each, out, words};
use crate::{api_types::ForgottenView, client::Client, domain::Phone};

/// Forgets people, one by one. A failure does not affect the others.
pub async fn forget(client: &Client, phones: &[Phone], json: bool) -> Result<(), CommandError> {
    let call = async |phone: &Phone| client.forget(*phone).await;
    each(phones, call, |phone, removed| match json {
        true => out::json(&removed),
        false => out::line(&forgotten(*phone, &removed)),
    })
    .await
}

/// What was removed, as a sentence.
fn forgotten(phone: Phone, removed: &ForgottenView) -> String {
    let ForgottenView { campaigns, recipients, skipped, messages, chat_messages, events, suppressions, dead_letters } =
        removed;
    let nouns = [(recipients, "recipient"), (campaigns, "campaign"), (messages, "message"), (events, "event")];
    let [recipients, campaigns, messages, events] = nouns.map(|(count, noun)| words::counted(*count, noun));
    let skipped = words::count(*skipped);
    let mut sentence =
        format!("{phone} is forgotten: {recipients} in {campaigns} ({skipped} skipped), {messages}, {events}");
    if *chat_messages > 0 {
        sentence += &format!(", {} in chats", words::counted(*chat_messages, "message"));
    }
    if *suppressions > 0 {
        sentence += "; the person stays suppressed";
    }
    if !dead_letters.is_empty() {
        let ids: Vec<String> = dead_letters.iter().map(ToString::to_string).collect();
        sentence += &format!("; dead letters that still name the number, to be retried or deleted: {}", ids.join(" "));
    }
    sentence
}
