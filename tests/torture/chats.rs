//! The chats of a round: people write to a line, agents answer them, and every message of both is checked.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use pregon::domain::{ChatMessageId, Token};
use serde_json::{Value, json};

use crate::{
    check::Verdict,
    meta::ChatSend,
    round::Happened,
    stage::Stage,
    support::{
        hooks::{self, inbound, signature},
        http_client,
        server::Api,
    },
};

/// How long the chats may take to catch up after the round.
const STORED_WITHIN: Duration = Duration::from_secs(60);
/// Pause before a call without an answer, or a webhook without a 200, is repeated.
const REPEATED_AFTER: Duration = Duration::from_millis(200);
/// The longest wait for a response.
const CALL_MAX: Duration = Duration::from_secs(5);
/// People who write during a round, their messages, and the pause between two.
const PEOPLE: usize = 6;
const MESSAGES: usize = 60;
const MESSAGE_EVERY: Duration = Duration::from_millis(100);
/// Replies during a round.
const REPLIES: usize = 60;
/// The beginning of the people's numbers. No recipient of a campaign has it.
const PREFIX: &str = "54911700000";

/// A message from a person.
pub struct Written {
    /// Meta's id.
    pub id: String,
    /// The person's number.
    from: String,
}

/// An answer that the API has acknowledged.
pub struct Replied {
    id: ChatMessageId,
    text: String,
}

/// What happened to the chats of a round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chats {
    /// Messages from people, those that are in no chat, and those that are shown again.
    pub inbound: u64,
    pub inbound_lost: u64,
    pub shown_twice: u64,
    /// Replies, those that are missing or have not ended, those that Meta accepted again, and those that are unknown.
    pub replies: u64,
    pub replies_lost: u64,
    pub sent_twice: u64,
    pub unknown: u64,
}

impl Chats {
    /// The sums.
    pub fn and(self, other: &Self) -> Self {
        Self {
            inbound: self.inbound + other.inbound,
            inbound_lost: self.inbound_lost + other.inbound_lost,
            shown_twice: self.shown_twice + other.shown_twice,
            replies: self.replies + other.replies,
            replies_lost: self.replies_lost + other.replies_lost,
            sent_twice: self.sent_twice + other.sent_twice,
            unknown: self.unknown + other.unknown,
        }
    }
}

/// Whether a phone number, without its plus, is of a person who writes.
pub fn is_person(number: &str) -> bool {
    number.starts_with(PREFIX)
}

/// Delivers messages from people to `line`, as Meta does: each is repeated until the answer is 200.
pub async fn people_write(webhooks: &str, line: &str) -> Vec<Written> {
    let mut written = Vec::new();
    for n in 0..MESSAGES {
        let (id, from) = (format!("wamid.PERSON{n}"), format!("{PREFIX}{:02}", n % PEOPLE));
        let at = hooks::now().seconds().to_string();
        let message = json!({"id": id, "from": from, "timestamp": at, "type": "text", "text": {"body": id}});
        let body = inbound(line, &[message]).to_string();
        let deliver = || async {
            let request = http_client().post(webhooks).header("x-hub-signature-256", signature(body.as_bytes()));
            request.body(body.clone()).send().await.is_ok_and(|answer| answer.status() == 200)
        };
        while !deliver().await {
            tokio::time::sleep(REPEATED_AFTER).await;
        }
        written.push(Written { id, from });
        tokio::time::sleep(MESSAGE_EVERY).await;
    }
    written
}

/// Answers the chats of `line` in turns. Each call is repeated until the API acknowledges it.
pub async fn agents_answer(front: &str, line: &str) -> Vec<Replied> {
    let mut replies = Vec::new();
    for n in 0..REPLIES {
        let chat = repeated(|| chat_of(front, line, n)).await;
        let text = format!("reply {n}");
        let message = repeated(|| send(front, &chat, &text)).await;
        let number = |text: &str| text.parse().expect("a number");
        replies.push(Replied { id: ChatMessageId { chat: number(&chat), message: number(&message) }, text });
        tokio::time::sleep(MESSAGE_EVERY).await;
    }
    replies
}

/// One of the chats of a line, by turns.
async fn chat_of(front: &str, line: &str, turn: usize) -> Option<String> {
    let page = Api::at(front).try_get(&format!("chats?line={line}")).await?;
    let chats = page["chats"].as_array().filter(|chats| !chats.is_empty())?;
    chats[turn % chats.len()]["id"].as_str().map(str::to_owned)
}

/// Writes to a chat. Returns the id of the message.
async fn send(front: &str, chat: &str, text: &str) -> Option<String> {
    let body = json!({"client_id": text, "type": "text", "body": text});
    let message = Api::at(front).try_post_json(&format!("chats/{chat}/messages"), &body).await?;
    message["id"].as_str().map(str::to_owned)
}

/// The result of a call that is repeated until there is one.
async fn repeated<T, F: Future<Output = Option<T>>>(call: impl Fn() -> F) -> T {
    loop {
        if let Ok(Some(result)) = tokio::time::timeout(CALL_MAX, call()).await {
            return result;
        }
        tokio::time::sleep(REPEATED_AFTER).await;
    }
}

/// The messages of a chat, the oldest first, with the number of its person.
struct Shown {
    phone: String,
    chat: i64,
    messages: Vec<Value>,
}

async fn read(api: &Api, line: &str) -> Vec<Shown> {
    let chats = api.get(&format!("chats?line={line}&limit=1000")).await;
    let mut shown = Vec::new();
    for chat in chats["chats"].as_array().expect("a list") {
        let id = text(chat, "id");
        let mut page = api.get(&format!("chats/{id}/messages?limit=1000")).await;
        let Value::Array(mut messages) = page["messages"].take() else { panic!("no list: {page}") };
        messages.reverse();
        let phone = text(&chat["contact"], "phone").trim_start_matches('+').to_owned();
        shown.push(Shown { phone, chat: id.parse().expect("an id"), messages });
    }
    shown
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// Checks that each message of a person is in the person's chat once, in order, and that each reply was sent once, or has
/// an end that says why it was not.
pub async fn check(verdict: &mut Verdict, stage: &Stage, sends: &[ChatSend], happened: &Happened) {
    let Happened { line, written, replied, .. } = happened;
    let api = Api::at(&stage.front.url());
    let key = stage.store().await.token_key().await.expect("redis").get();
    let mut accepted: HashMap<ChatMessageId, u64> = HashMap::new();
    for send in sends.iter().filter(|send| send.is_accepted) {
        match Token::read(&key, &send.token) {
            Some(Token::Chat { id, .. }) => *accepted.entry(id).or_default() += 1,
            _ => verdict.problems.push(format!("a message to {} has the token {}", send.to, send.token)),
        }
    }
    let began = Instant::now();
    let found = loop {
        let found = Found::of(&read(&api, line).await, written, replied, &accepted);
        if found.is_complete() || began.elapsed() > STORED_WITHIN {
            break found;
        }
        tokio::time::sleep(REPEATED_AFTER).await;
    };
    verdict.chats = Chats {
        inbound: written.len() as u64,
        inbound_lost: found.lost.len() as u64,
        shown_twice: found.twice.len() as u64,
        replies: replied.len() as u64,
        replies_lost: found.unsent.len() as u64,
        sent_twice: found.sent_twice.len() as u64,
        unknown: found.unknown,
    };
    for (what, examples) in [
        ("messages from people that are in no chat", &found.lost),
        ("messages from people that are shown twice", &found.twice),
        ("messages from people in the wrong chat or out of order", &found.misplaced),
        ("replies that are missing or have not ended", &found.unsent),
        ("replies that were written or sent twice", &found.sent_twice),
        ("replies whose state is not what Meta did", &found.wrong),
    ] {
        verdict.wrong(what, examples);
    }
}

/// The problems of the chats, as examples.
#[derive(Default)]
struct Found {
    lost: Vec<String>,
    twice: Vec<String>,
    misplaced: Vec<String>,
    unsent: Vec<String>,
    sent_twice: Vec<String>,
    wrong: Vec<String>,
    unknown: u64,
}

impl Found {
    fn of(shown: &[Shown], written: &[Written], replied: &[Replied], accepted: &HashMap<ChatMessageId, u64>) -> Self {
        let mut found = Self::default();
        let of_kind = |kind: &'static str| {
            move |chat: &Shown| {
                let messages = chat.messages.iter().filter(move |message| message["kind"] == kind);
                messages.cloned().map(|message| (chat.chat, message)).collect::<Vec<_>>()
            }
        };
        let inbound: Vec<(i64, Value)> = shown.iter().flat_map(of_kind("inbound")).collect();
        for Written { id, .. } in written {
            match inbound.iter().filter(|(_, message)| message["wamid"] == **id).count() {
                0 => found.lost.push(id.clone()),
                1 => {}
                n => found.twice.push(format!("{id}: {n} times")),
            }
        }
        let mut expected: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        written.iter().for_each(|message| expected.entry(&message.from).or_default().push(&message.id));
        for chat in shown {
            let ids = chat.messages.iter().filter(|message| message["kind"] == "inbound");
            let ids: Vec<&str> = ids.map(|message| text(message, "wamid")).collect();
            if expected.remove(chat.phone.as_str()).is_none_or(|expected| expected != ids) {
                found.misplaced.push(format!("the chat of {} has {ids:?}", chat.phone));
            }
        }
        let outbound: Vec<(i64, Value)> = shown.iter().flat_map(of_kind("outbound")).collect();
        for Replied { id, text: said } in replied {
            let written = outbound.iter().filter(|(_, message)| message["body"]["content"]["body"] == **said);
            let written: Vec<&Value> = written.map(|(_, message)| message).collect();
            let n_accepted = accepted.get(id).copied().unwrap_or(0);
            if written.len() > 1 || n_accepted > 1 {
                found.sent_twice.push(format!("{said}: {n_accepted} at Meta, {written:?}"));
            }
            let Some(message) = written.first() else {
                found.unsent.push(said.clone());
                continue;
            };
            let (state, has_reason) = (text(message, "state"), message["marks"]["error"].is_object());
            found.unknown += u64::from(state == "unknown");
            let is_explained = match state {
                "pending" | "retrying" | "in_flight" | "in_doubt" => {
                    found.unsent.push(message.to_string());
                    true
                }
                "sent" | "delivered" | "read" => n_accepted == 1,
                "failed" => has_reason,
                "unknown" => n_accepted == 0,
                _ => false,
            };
            if !is_explained {
                found.wrong.push(format!("{message}, {n_accepted} at Meta"));
            }
        }
        found
    }

    fn is_complete(&self) -> bool {
        self.lost.is_empty() && self.misplaced.is_empty() && self.unsent.is_empty() && self.wrong.is_empty()
    }
}
