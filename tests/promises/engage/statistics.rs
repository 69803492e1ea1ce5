//! What is counted for each contact equals a recount of its messages and of the results of campaigns, in whatever order
//! they are stored.

use std::{collections::BTreeMap, num::NonZeroU16, time::Duration};

use pregon::{
    domain::{
        CampaignId, ChatMessageId, MessageFate, PartId, Person, Settled, State, UnixMs,
        chat::{ChatStatus, Identity, content::ReplyContent},
    },
    postgres::{
        Database,
        campaign_results::CampaignResult,
        chats::{ActionOn, ChatAction, NewMessage},
        contacts::{ContactFilter, ContactOrder, ContactRecord},
        inbound::{AnsweredCampaign, Author, MessageKind, ReceivedMessage},
        read::ChatMessage,
        statistics::ContactStatistics,
    },
    redis::feed::FeedLimits,
    rules::conversations::{Conversation, Ending, OpenedBy, Turn, conversations},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Map, json};
use ulid::Ulid;

use super::{Office, Reader, chats};
use crate::support::{
    hooks::{Hooks, Message},
    meta_code,
    postgres::TestPostgres,
    seed, until,
};

const BUSINESS: &str = "1001";
const LINES: [&str; 2] = ["3001", "3002"];
const BEGAN: UnixMs = UnixMs(1_796_000_000_000);
const PEOPLE: u64 = 5;

fn number(n: u64) -> String {
    format!("549115555{n:04}")
}

/// What happened, as a model remembers it: the newest result of each message of a campaign.
type Results = BTreeMap<(u32, u8), CampaignResult>;

/// A history of contacts, agents and campaigns.
struct History {
    database: Database,
    results: Results,
    now: UnixMs,
}

impl History {
    async fn step(&mut self, draw: &mut StdRng) {
        self.now = self.now.after(Duration::from_mins(draw.random_range(1..300)));
        match draw.random_range(0..10) {
            0..4 => self.write(draw).await,
            4..6 => self.tell(draw).await,
            6 => self.act(draw, template()).await,
            7 => {
                let end = if draw.random() { ChatAction::Close } else { ChatAction::Finish(None) };
                self.act(draw, end).await;
            }
            _ => self.report(draw).await,
        }
    }

    /// A person writes, now or a while ago, by the number, the id, or both.
    async fn write(&self, draw: &mut StdRng) {
        let n = draw.random_range(0..PEOPLE);
        let (by_number, by_id) = *[(true, false), (false, true), (true, true)].choose(draw).expect("three");
        let (phone, id) = (number(n), format!("AR.{n}"));
        let identity = Identity::new(by_number.then_some(&phone), by_id.then_some(&id));
        let answers = draw.random::<bool>().then(|| CampaignId(Ulid(draw.random_range(1..3))));
        let answers = answers.map(|id| AnsweredCampaign { id, route: None });
        let mut body = json!({ "content": { "text": "hola" } });
        if let Some(answers) = &answers {
            body["recipient"] = json!(format!("{}.0.7.1", answers.id));
        }
        let message = ReceivedMessage {
            wamid: format!("wamid.{}", draw.random::<u64>()),
            at: self.now.before(Duration::from_mins(draw.random_range(0..200))),
            person: Author { identity, ..Author::default() },
            body: body.to_string(),
            is_echo: false,
            answers,
            mark: None,
            file: None,
        };
        let line = *LINES.choose(draw).expect("two");
        let stored = self.database.store_inbound(&line.into(), &BUSINESS.into(), &[message], None, self.now).await;
        stored.expect("PostgreSQL").expect("nobody is forgotten");
    }

    /// The feed tells what became of some messages of campaigns, some of it late or again.
    async fn tell(&mut self, draw: &mut StdRng) {
        let results: Vec<CampaignResult> = (0..draw.random_range(1..4))
            .map(|_| {
                let n = draw.random_range(0..PEOPLE);
                let row = u32::try_from(n).expect("small") + 10 * draw.random_range(0..3_u32);
                let campaign = CampaignId(Ulid(u128::from(row / 10 + 1)));
                CampaignResult {
                    part: PartId { campaign, number: 0 },
                    row,
                    send: draw.random_range(0..3),
                    business: BUSINESS.into(),
                    line: LINES[row as usize % 2].into(),
                    to: Some(format!("+{}", number(n)).parse().expect("a number")),
                    fate: *[MessageFate::NotSent, MessageFate::Failed, MessageFate::Received]
                        .choose(draw)
                        .expect("three"),
                    at: self.now.before(Duration::from_mins(draw.random_range(0..4_000))),
                }
            })
            .collect();
        for result in &results {
            let known = self.results.entry((result.row, result.send)).or_insert_with(|| result.clone());
            if result.fate > known.fate {
                *known = result.clone();
            }
        }
        let place = self.database.feed_place().await.expect("PostgreSQL");
        let position = draw.random::<u64>().to_string();
        self.database.store_results(&place, &results, &position, self.now).await.expect("PostgreSQL");
        // Another process that has read the same events stores nothing.
        self.database.store_results(&place, &results, "0", self.now).await.expect("PostgreSQL");
    }

    async fn act(&self, draw: &mut StdRng, action: ChatAction) {
        let Some(chat) = chats(&self.database).await.choose(draw).map(|chat| chat.id) else { return };
        let on = ActionOn { chat, agent: "ana", visible: None, revision: None, now: self.now };
        self.database.act(on, action).await.expect("PostgreSQL").expect("done");
    }

    /// Meta reports what became of a message to a contact.
    async fn report(&self, draw: &mut StdRng) {
        let Some(chat) = chats(&self.database).await.choose(draw).cloned() else { return };
        let messages = self.database.messages(chat.id, None, 1_000).await.expect("PostgreSQL");
        let outbound: Vec<&ChatMessage> =
            messages.iter().filter(|message| message.kind == MessageKind::Outbound).collect();
        let Some(message) = outbound.choose(draw) else { return };
        let states = [State::Accepted, State::Sent, State::Delivered, State::Read, State::Failed, State::Cancelled];
        let news = ChatStatus {
            id: Some(ChatMessageId { chat: chat.id, message: message.id }),
            send: 1,
            state: *states.choose(draw).expect("six"),
            at: self.now,
            wamid: None,
            code: None,
            details: String::new(),
        };
        self.database.store_message_news(&chat.line, &[news]).await.expect("PostgreSQL");
    }

    /// Compares what is counted with a recount.
    async fn check(&self) {
        let chats = chats(&self.database).await;
        for contact in contacts(&self.database).await {
            let (mut expected, mut found) = (ContactStatistics::default(), Vec::new());
            let of_contact = |result: &&CampaignResult| {
                result.to.map(Person::from) == contact.number.map(Person::from) && contact.number.is_some()
            };
            for line in LINES {
                let chat = chats.iter().find(|chat| chat.contact.id == contact.id && chat.line.as_str() == line);
                let messages = match chat {
                    Some(chat) => self.database.messages(chat.id, None, 10_000).await.expect("PostgreSQL"),
                    None => Vec::new(),
                };
                let results = self.results.values().filter(of_contact).filter(|result| result.line.as_str() == line);
                found.extend(recount(&mut expected, &messages, results));
            }
            let by = |by| found.iter().filter(|one: &&Conversation| one.opened_by == by).count() as u32;
            expected.conversations_by_client = by(OpenedBy::Client);
            expected.conversations_by_business = by(OpenedBy::Business);
            assert_eq!(contact.statistics, expected, "{contact:?}\n{found:#?}");
        }
    }
}

/// The contacts, the oldest first.
async fn contacts(database: &Database) -> Vec<ContactRecord> {
    let filter = ContactFilter {
        business: BUSINESS.into(),
        search: None,
        tag: None,
        properties: Map::new(),
        order: ContactOrder::Created,
        is_descending: false,
        after: None,
    };
    database.contacts(&filter, 1_000).await.expect("PostgreSQL")
}

fn template() -> ChatAction {
    let template = json!({ "type": "template", "name": "order_update", "language": "es_AR" });
    let content: ReplyContent = serde_json::from_value(template).expect("a template");
    ChatAction::Send(NewMessage { client_id: None, context: None, content })
}

/// Counts the messages and results of a contact on a line, one by one. Returns the conversations.
fn recount<'a>(
    counted: &mut ContactStatistics,
    messages: &[ChatMessage],
    results: impl Iterator<Item = &'a CampaignResult>,
) -> Vec<Conversation> {
    let mut turns = Vec::new();
    let mut note = |counted: &mut ContactStatistics,
                    fate: Option<MessageFate>,
                    at: UnixMs,
                    campaign,
                    is_template: bool| match fate {
        Some(MessageFate::NotSent) => counted.cancelled += 1,
        Some(MessageFate::Failed) => counted.failures += 1,
        Some(MessageFate::Received) => {
            counted.received += 1;
            counted.last_interaction = counted.last_interaction.max(Some(at));
            turns.extend(is_template.then_some((at, Turn::Opens { by: OpenedBy::Business, campaign })));
        }
        None => {}
    };
    for result in results {
        note(counted, Some(result.fate), result.at, Some(result.part.campaign), true);
    }
    for message in messages.iter().filter(|message| message.kind == MessageKind::Outbound) {
        let is_template = message.body["content"]["type"] == "template";
        note(counted, message.state.and_then(MessageFate::of), message.at, None, is_template);
    }
    for message in messages {
        match (message.kind, message.body["why"].as_str()) {
            (MessageKind::Inbound, _) => {
                counted.last_interaction = counted.last_interaction.max(Some(message.at));
                let campaign =
                    message.body["recipient"].as_str().map(|recipient| recipient[..26].parse().expect("an id"));
                counted.replies += u32::from(campaign.is_some());
                turns.push((message.at, Turn::Opens { by: OpenedBy::Client, campaign }));
            }
            (MessageKind::Activity, Some("closed")) => turns.push((message.at, Turn::Ends(Ending::Closed))),
            (MessageKind::Activity, Some("finished")) => turns.push((message.at, Turn::Ends(Ending::Finished))),
            _ => {}
        }
    }
    conversations(turns)
}

#[tokio::test]
async fn what_is_counted_equals_a_recount_through_late_results_repeats_and_merges() {
    let postgres = TestPostgres::start().await;
    let database = postgres.database(BEGAN).await;
    let mut history = History { database, results: Results::new(), now: BEGAN };
    let mut draw = StdRng::seed_from_u64(seed());
    for step in 0..400 {
        history.step(&mut draw).await;
        if step % 10 == 9 {
            history.check().await;
        }
    }
    // Counted anew, as after the migration that brought the counters.
    postgres.execute("update contact_statistics set is_counted = false, received = 99, replies = 99").await;
    assert!(!history.database.count_earlier().await.expect("PostgreSQL"), "all at once");
    history.check().await;
    postgres.execute("delete from conversations; update contact_statistics set is_counted = false").await;
    history.database.count_earlier().await.expect("PostgreSQL");
    history.check().await;
}

const CAMPAIGN: CampaignId = CampaignId(Ulid(7));

/// An event about the message to person `n`.
fn event(n: u64, state: &str) -> String {
    let recipient = format!("{CAMPAIGN}.0.{n}");
    json!({
        "id": format!("{recipient}.1.{state}"), "type": format!("recipient.{state}"), "at": "2026-12-01T10:00:00Z",
        "business": BUSINESS, "line": "3001", "campaign": CAMPAIGN, "recipient": recipient,
        "to": format!("+{}", number(n)), "send": 1, "rank": 1,
    })
    .to_string()
}

/// Waits until the events that follow are read.
async fn until_reading(database: &Database) {
    let is_reading = |position: String| !position.is_empty();
    let position = async || database.feed_place().await.expect("PostgreSQL").position;
    until("it reads", async || position().await.is_some_and(is_reading)).await;
}

#[tokio::test]
async fn a_campaign_is_counted_from_the_event_feed_once_for_each_contact() {
    let office = Office::start().await;
    let database = office.database().await;
    let feed = FeedLimits { partitions: NonZeroU16::MIN, retention: Duration::from_hours(1), length_max: 1_000 };
    let store = office.store.clone().with_feed(Some(feed));
    let reader = || Reader::start("r", &store, office.postgres.connect(), &office.clock);
    let first = reader();
    until_reading(&database).await;
    let tell = async |events: &[String]| store.append_events(Some(CAMPAIGN), events).await.expect("Redis");
    tell(&[event(1, "accepted"), event(2, "accepted"), event(3, "skipped"), event(1, "delivered")]).await;
    let counted = async || {
        let all = contacts(&database).await.into_iter();
        let counts = all.map(|contact| {
            let statistics = contact.statistics;
            (contact.number.expect("a number").digits() % 10, statistics.received, statistics.cancelled)
        });
        let mut counts: Vec<_> = counts.collect();
        counts.sort_unstable();
        counts
    };
    until("the campaign is counted", async || counted().await == [(1, 1, 0), (3, 0, 1)]).await;
    first.stop().await;
    // The relay repeats its last events after a crash, and tells what happened meanwhile.
    tell(&[event(3, "skipped"), event(1, "delivered"), event(1, "read"), event(2, "delivered")]).await;
    let second = reader();
    until("the rest is counted", async || counted().await == [(1, 1, 0), (2, 1, 0), (3, 0, 1)]).await;

    // Who is forgotten stays so, although a reader has the events in memory.
    let place = database.feed_place().await.expect("PostgreSQL");
    let person = Person::from(format!("+{}", number(1)).parse::<pregon::domain::Phone>().expect("a number"));
    database.forget(&[BUSINESS.into()], person).await.expect("PostgreSQL").commit().await.expect("PostgreSQL");
    let result = CampaignResult {
        part: PartId { campaign: CAMPAIGN, number: 0 },
        row: 1,
        send: 2,
        business: BUSINESS.into(),
        line: "3001".into(),
        to: Some(person.phone()),
        fate: MessageFate::Received,
        at: office.clock.now(),
    };
    database.store_results(&place, &[result], "9-9", office.clock.now()).await.expect("PostgreSQL");
    assert_eq!(counted().await, [(2, 1, 0), (3, 0, 1)]);
    second.stop().await;
}

#[tokio::test]
async fn a_campaign_whose_events_were_removed_before_they_were_counted_is_counted_from_its_history() {
    let feed = FeedLimits { partitions: NonZeroU16::MIN, retention: Duration::from_hours(1), length_max: 1_000 };
    let (hooks, postgres) = tokio::join!(Hooks::start_with(Some(feed)), TestPostgres::start());
    let database = postgres.database(hooks.clock.now()).await;
    let reader = || Reader::start("r", &hooks.store, postgres.connect(), &hooks.clock);
    let first = reader();
    until_reading(&database).await;
    first.stop().await;
    let (_, messages) = hooks.campaign(&["3001"], 30).await;
    let refused = |message: &Message| (*message, Settled::Refused { reason: meta_code(131_026) });
    hooks.settle(messages[&"3001".into()].iter().map(refused)).await;
    // No relay has told them, and so many other events that the first of these are removed.
    let others: Vec<String> = (0..3_000).map(|n| event(n, "accepted")).collect();
    hooks.store.append_events(Some(CAMPAIGN), &others).await.expect("Redis");
    let second = reader();
    let failed = async || contacts(&database).await.iter().filter(|contact| contact.statistics.failures == 1).count();
    until("it is counted", async || failed().await == 30).await;
    second.stop().await;
    hooks.stop().await;
}
