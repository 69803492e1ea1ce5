//! The agent of the demonstration: answers and closes every chat of the queue, through the public API.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    api_types::{ChatMessageView, NewChatMessage},
    client::Client,
    domain::{State, chat::content::ReplyContent},
    sim::Sim,
    terminal::{CommandError, table::table},
};

/// How long to wait until everything that people wrote is in the chats, and every answer has ended.
const CHATS_WAIT: Duration = Duration::from_secs(90);

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What became of the chats.
#[derive(Debug, Default, Serialize)]
pub(super) struct Conversations {
    /// Messages that people wrote to the simulator's lines.
    written: u64,
    /// Those that are in no chat.
    missing: u64,
    /// Those that are in the chats more than once.
    shown_twice: u64,
    /// Answers of the agent.
    answers: u64,
    /// Those that Meta has not got, although they are not `failed` or `unknown`.
    answers_lost: u64,
    /// Those that Meta has got more than once.
    answers_twice: u64,
    /// Those that are neither sent nor failed after all the time.
    answers_open: u64,
}

/// Answers people until nobody writes any more, and compares the chats with what the simulator has sent and received.
pub(super) async fn converse(client: &Client, sim: &Sim) -> Result<Conversations, CommandError> {
    let deadline = Instant::now() + CHATS_WAIT;
    let mut answers = Vec::new();
    loop {
        let has_answered = answer_queue(client, &mut answers).await?;
        let is_quiet = !has_answered && tokio::time::timeout(LOOK_EVERY, sim.idle()).await.is_ok();
        let is_late = Instant::now() >= deadline;
        if is_quiet || is_late {
            let found = Conversations::of(&all_messages(client).await?, &answers, sim);
            if found.is_settled() || is_late {
                return Ok(found);
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Answers and closes the chats that wait in the queue. Returns whether there were any.
async fn answer_queue(client: &Client, answers: &mut Vec<String>) -> Result<bool, CommandError> {
    let chats = client.chats(Some("queue"), None).await?.rows;
    for chat in &chats {
        let body = format!("Gracias por escribir. Su consulta tiene el número {}.", answers.len() + 1);
        let content = ReplyContent::Text { body: body.clone(), preview_url: false };
        let answer = NewChatMessage { client_id: Some(chat.revision.to_string()), context: None, content };
        client.send_chat_message(&chat.id, &answer).await?;
        client.close_chat(&chat.id).await?;
        answers.push(body);
    }
    Ok(!chats.is_empty())
}

/// The messages of every chat.
async fn all_messages(client: &Client) -> Result<Vec<ChatMessageView>, CommandError> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let chats = client.chats(None, cursor.as_deref()).await?;
        for chat in &chats.rows {
            let mut before = None;
            loop {
                let page = client.chat_messages(&chat.id, before.as_deref()).await?;
                all.extend(page.rows.into_iter().map(|message| (*message).clone()));
                before = page.next;
                if before.is_none() {
                    break;
                }
            }
        }
        cursor = chats.next;
        if cursor.is_none() {
            return Ok(all);
        }
    }
}

impl Conversations {
    fn of(messages: &[ChatMessageView], answers: &[String], sim: &Sim) -> Self {
        let mut shown: HashMap<&str, u64> = HashMap::new();
        for message in messages.iter().filter(|message| message.kind == "inbound") {
            *shown.entry(message.wamid.as_deref().unwrap_or_default()).or_default() += 1;
        }
        let written = sim.written();
        let times = |id: &String| shown.get(id.as_str()).copied().unwrap_or_default();
        let mut found = Self {
            written: written.len() as u64,
            missing: written.iter().filter(|id| times(id) == 0).count() as u64,
            shown_twice: written.iter().filter(|id| times(id) > 1).count() as u64,
            answers: answers.len() as u64,
            ..Self::default()
        };
        let mut arrived: HashMap<String, u64> = HashMap::new();
        for text in sim.messages().into_iter().filter_map(|message| message.text) {
            *arrived.entry(text).or_default() += 1;
        }
        let states: HashMap<&str, State> = messages
            .iter()
            .filter_map(|message| {
                let text = message.body["content"]["body"].as_str()?;
                let state = State::ALL.into_iter().find(|state| Some(state.name()) == message.state.as_deref())?;
                Some((text, state))
            })
            .collect();
        for answer in answers {
            let state = states.get(answer.as_str()).copied();
            match arrived.get(answer).copied().unwrap_or_default() {
                _ if state.is_some_and(State::is_open) => found.answers_open += 1,
                0 if !matches!(state, Some(State::Failed | State::Unknown)) => found.answers_lost += 1,
                0 | 1 => {}
                _ => found.answers_twice += 1,
            }
        }
        found
    }

    /// Whether nothing more will change.
    fn is_settled(&self) -> bool {
        self.missing == 0 && self.answers_open == 0
    }

    /// Whether every message is in exactly one chat, and every answer was sent once.
    pub(super) fn is_good(&self) -> bool {
        self.is_settled() && self.shown_twice == 0 && self.answers_lost == 0 && self.answers_twice == 0
    }

    pub(super) fn table(&self) -> String {
        let row = |what: &str, n: u64, lost: u64, twice: u64| {
            [what.to_owned(), n.to_string(), lost.to_string(), twice.to_string()]
        };
        table(
            ["chats", "", "lost", "twice"],
            [
                row("messages from people", self.written, self.missing, self.shown_twice),
                row("answers of the agent", self.answers, self.answers_lost + self.answers_open, self.answers_twice),
            ],
        )
    }
}
