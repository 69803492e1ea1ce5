//! Random histories on a real Redis and PostgreSQL, against a model: people write under every form of their identity,
//! twice and on several lines at once, agents act at the same time, hours pass, and readers are killed.
//!
//! The model decides who a person is ([`People`]), and whether the log of a chat is legal ([`Log`]).
//! `PREGON_HISTORIES=10` multiplies the number of histories.

use std::collections::{BTreeMap, BTreeSet};

use pregon::{
    domain::{
        Fingerprint, Inbound, Person, UnixMs,
        chat::{Owner, content::ReplyContent},
        inbound::{Content, SystemNotice},
    },
    postgres::{
        Database,
        chats::{ActionDone, ActionOn, ActionRefused, ChatAction, NewMessage},
        inbound::MessageKind,
        read::{Chat, ChatMessage},
    },
    redis::inbound::NewInbound,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{Office, Reader, chats, message};
use crate::support::{seed, until, world};

const LINES: [&str; 2] = ["3001", "3002"];
const AGENTS: [&str; 3] = ["ana", "luis", "eva"];
const PEOPLE: usize = 5;
const STEPS: usize = 10;
const HISTORIES: u64 = 3;
const HOUR: u64 = 3_600_000;
/// How long before the window closes the last free text is possible.
const MARGIN: u64 = 60_000;

/// How Meta names a person in a message.
#[derive(Clone, Debug, Default)]
struct Naming {
    number: Option<u64>,
    user_id: Option<String>,
}

/// The model of the contacts: what each message adds to them.
#[derive(Default)]
struct People {
    n: usize,
    by_number: BTreeMap<Person, usize>,
    by_id: BTreeMap<String, usize>,
    has_id: BTreeSet<usize>,
    /// Messages by contact and line.
    written: BTreeMap<(usize, &'static str), BTreeSet<u64>>,
}

/// What is known of a contact: the number, the id, and the messages by line.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    person: Option<Person>,
    user_id: Option<String>,
    written: BTreeMap<String, BTreeSet<u64>>,
}

impl People {
    fn known(&self) -> BTreeSet<Known> {
        let mut known: BTreeMap<usize, Known> = BTreeMap::new();
        for ((contact, line), numbers) in self.written.iter().filter(|(_, numbers)| !numbers.is_empty()) {
            known.entry(*contact).or_default().written.insert((*line).to_owned(), numbers.clone());
        }
        for (contact, known) in &mut known {
            known.person = self.by_number.iter().find_map(|(person, named)| (named == contact).then_some(*person));
            known.user_id = self.by_id.iter().find_map(|(id, named)| (named == contact).then(|| id.clone()));
        }
        known.into_values().collect()
    }

    fn find(&mut self, naming: &Naming) -> usize {
        let by_id = naming.user_id.as_ref().and_then(|id| self.by_id.get(id).copied());
        let by_number = naming.person().and_then(|person| self.by_number.get(&person).copied());
        let known = by_id.or(by_number.filter(|contact| naming.user_id.is_none() || !self.has_id.contains(contact)));
        let contact = known.unwrap_or(self.n);
        self.n += usize::from(known.is_none());
        self.name(contact, naming);
        contact
    }

    /// Records how Meta names a contact. Another contact that has the same number and no id is the same person.
    fn name(&mut self, contact: usize, naming: &Naming) {
        if let Some(id) = &naming.user_id {
            self.by_id.insert(id.clone(), contact);
            self.has_id.insert(contact);
        }
        if let Some(person) = naming.person()
            && let Some(other) = self.by_number.insert(person, contact)
            && other != contact
            && !self.has_id.contains(&other)
        {
            self.by_number.values_mut().filter(|named| **named == other).for_each(|named| *named = contact);
            for line in LINES {
                let moved = self.written.remove(&(other, line)).unwrap_or_default();
                self.written.entry((contact, line)).or_default().extend(moved);
            }
        }
    }

    /// The person has a new number, and a new id.
    fn rename(&mut self, old: &Naming, new: &Naming) -> usize {
        let contact = self.find(old);
        self.by_number.retain(|person, _| old.person() != Some(*person));
        self.by_id.retain(|id, _| old.user_id.as_ref() != Some(id));
        self.name(contact, new);
        contact
    }
}

impl Naming {
    /// How much it tells.
    fn rank(&self) -> usize {
        usize::from(self.number.is_some()) + usize::from(self.user_id.is_some())
    }

    fn person(&self) -> Option<Person> {
        self.number.and_then(pregon::domain::Phone::from_digits).map(Person::from)
    }
}

/// The state of a chat as its log tells it.
struct Log {
    owner: Owner,
    agent: Option<String>,
    last_inbound_at: Option<UnixMs>,
    /// A message to the closed chat came last: the next row has to say who is in charge.
    reopens: bool,
}

impl Log {
    /// Reads a log, the oldest row first.
    ///
    /// Errors: a row that must not follow those before it.
    fn read(rows: &[ChatMessage]) -> Result<Self, String> {
        // The rows of chats that were merged are in the order of their times, which is the order of neither log.
        let merged = rows.iter().rposition(|row| row.body["why"] == "merged");
        let mut log = Self { owner: Owner::Nobody, agent: None, last_inbound_at: None, reopens: false };
        for (place, row) in rows.iter().enumerate() {
            if row.kind == MessageKind::Inbound {
                log.last_inbound_at = log.last_inbound_at.max(Some(row.at));
            }
            if merged.is_none_or(|merged| place >= merged) {
                log.add(row).map_err(|problem| format!("{problem}: {row:?}"))?;
            }
        }
        if log.reopens { Err("the chat is not opened".to_owned()) } else { Ok(log) }
    }

    fn add(&mut self, row: &ChatMessage) -> Result<(), String> {
        let why = row.body["why"].as_str().unwrap_or_default();
        if std::mem::take(&mut self.reopens) && why != "inbound" {
            return Err("the chat is not opened".to_owned());
        }
        let is_in_charge = self.owner == Owner::Agent && self.agent == row.author;
        match row.kind {
            MessageKind::Inbound => self.reopens = self.owner == Owner::Nobody,
            MessageKind::Note => {}
            MessageKind::Outbound if !is_in_charge => return Err(format!("{:?} is in charge", self.agent)),
            MessageKind::Outbound => {
                let is_open = self.last_inbound_at.is_some_and(|last| row.at.0 < last.0 + 24 * HOUR - MARGIN);
                if row.body["content"]["type"] != "template" && !is_open {
                    return Err("the window is closed".to_owned());
                }
            }
            MessageKind::Activity => {
                let owner = Owner::ALL.into_iter().find(|owner| row.body["owner"] == owner.name());
                let (owner, agent) = (owner.ok_or("no owner")?, row.body["agent"].as_str().map(str::to_owned));
                let is_free = self.owner != Owner::Agent || is_in_charge;
                let is_legal = match why {
                    "inbound" => owner == Owner::Queue && self.owner == Owner::Nobody && row.author.is_none(),
                    "taken" | "reply" => is_free && owner == Owner::Agent && agent == row.author && agent.is_some(),
                    "released" => is_free && owner == Owner::Queue && row.author.is_some(),
                    "closed" | "finished" => is_free && owner == Owner::Nobody && row.author.is_some(),
                    "merged" => row.author.is_none(),
                    _ => false,
                };
                if !is_legal || (why != "merged" && (owner, &agent) == (self.owner, &self.agent)) {
                    return Err(format!("not legal after {:?} {:?}", self.owner, self.agent));
                }
                (self.owner, self.agent) = (owner, agent);
            }
        }
        Ok(())
    }
}

/// A history that is being played.
struct History<'a> {
    random: StdRng,
    office: &'a Office,
    database: &'a Database,
    readers: Vec<Reader>,
    /// The people who write, each by the namings that a message of theirs may have.
    known: Vec<Vec<Naming>>,
    people: People,
    /// Every message with its line.
    written: Vec<(&'static str, Inbound)>,
    /// How far the agents' clock is ahead, in ms.
    ahead: u64,
    done: Done,
    /// When it began.
    began: UnixMs,
    /// The last number that was used for a message, a person or a text.
    last: u64,
}

/// What the calls of agents have changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    /// By agent and reason: how many activities.
    activities: BTreeMap<(String, String), usize>,
    /// The texts of messages to contacts.
    sent: BTreeSet<String>,
}

impl History<'_> {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Somebody new, whose messages may have both forms of the number and, at times, an id instead or in addition.
    fn somebody(&mut self) -> Vec<Naming> {
        let n = self.next();
        let id = self.random.random_bool(0.5).then(|| format!("AR.{n}"));
        namings(5_491_155_500_000 + n, id)
    }

    fn inbound(&mut self, line: &'static str, naming: &Naming, content: Content) -> Inbound {
        // Some are so old that the window is about to close, or has closed.
        let ago = [0, 0, HOUR, 24 * HOUR - MARGIN / 2, 30 * HOUR][self.random.random_range(0..5)];
        let mut new = message(format!("{line}.{}", self.next()), "", content);
        new.sender.number = naming.number.map(|number| number.to_string());
        new.sender.user_id.clone_from(&naming.user_id);
        new.at = Some(UnixMs(self.office.clock.now().0 - ago));
        self.written.push((line, new.clone()));
        new
    }

    /// Messages from anybody to a line, and some that come again.
    fn batch(&mut self, line: &'static str) -> Vec<Inbound> {
        let mut batch = Vec::new();
        for _ in 0..self.random.random_range(0..25) {
            if self.random.random_bool(0.2) && !self.written.is_empty() {
                let (of, again) = self.written[self.random.random_range(0..self.written.len())].clone();
                batch.extend((of == line).then_some(again));
                continue;
            }
            let namings = &self.known[self.random.random_range(0..PEOPLE)];
            let naming = namings[self.random.random_range(0..namings.len())].clone();
            let contact = self.people.find(&naming);
            let new = self.inbound(line, &naming, Content::Text("Hola".to_owned()));
            self.people.written.entry((contact, line)).or_default().insert(number_of(&new));
            batch.push(new);
        }
        batch
    }

    /// Puts messages on the stream of a line, also those that are on it already, as after a loss of what Redis has seen.
    async fn put(&self, line: &str, batch: &[Inbound]) {
        let new = batch.iter().map(|message| NewInbound {
            fingerprint: Fingerprint::of(&rand::random::<u64>().to_string()),
            message: serde_json::to_string(message).expect("JSON"),
            answers: None,
        });
        let kept = self.office.store.keep_inbound(&[(line.into(), new.collect())], world::INBOUND).await;
        assert!(kept.expect("redis").iter().all(Result::is_ok));
    }

    /// Somebody gets another number, or somebody else the number of a person.
    async fn change_identity(&mut self) {
        let (place, line) = (self.random.random_range(0..PEOPLE), LINES[self.random.random_range(0..2)]);
        let namings_before = self.known[place].clone();
        // The one with all that is known of the person.
        let Some(old) = namings_before.iter().max_by_key(|naming| naming.rank()).cloned() else { return };
        let n = self.next();
        let id = format!("AR.{n}");
        let (contact, new) = match old.number {
            Some(_) if self.random.random_bool(0.5) => {
                let number = 5_491_155_500_000 + n;
                let new = Naming { number: Some(number), user_id: old.user_id.as_ref().map(|_| id.clone()) };
                let notice = SystemNotice {
                    kind: Some("user_changed_number".into()),
                    number: Some(number.to_string()),
                    user_id: new.user_id.clone(),
                    previous_user_id: old.user_id.clone(),
                    ..SystemNotice::default()
                };
                let contact = self.people.rename(&old, &new);
                self.known[place] = namings(number, new.user_id);
                (contact, self.inbound(line, &old, Content::System(Box::new(notice))))
            }
            Some(number) if old.user_id.is_some() => {
                let new = Naming { number: Some(number), user_id: Some(id.clone()) };
                self.known[place] = namings(number, Some(id));
                (self.people.find(&new), self.inbound(line, &new, Content::Text("I am new".to_owned())))
            }
            _ => return,
        };
        self.people.written.entry((contact, line)).or_default().insert(number_of(&new));
        self.put(line, &[new]).await;
    }

    /// Agents act on any chats at the same time.
    async fn act(&mut self) {
        let chats: Vec<i64> = self.chats().await.iter().map(|chat| chat.id).collect();
        if chats.is_empty() {
            return;
        }
        let now = self.office.clock.now().after(std::time::Duration::from_millis(self.ahead));
        let seeds: [(u64, u64); 3] = std::array::from_fn(|_| (self.random.random(), self.next() * 1_000));
        let [ana, luis, eva] = AGENTS;
        let agent = async |agent, (seed, text)| act_on(self.database, (agent, now), &chats, seed, text).await;
        let (first, second, third) = tokio::join!(agent(ana, seeds[0]), agent(luis, seeds[1]), agent(eva, seeds[2]));
        for done in [first, second, third] {
            self.done.sent.extend(done.sent);
            for (what, n) in done.activities {
                *self.done.activities.entry(what).or_default() += n;
            }
        }
    }

    /// The chats of this history.
    async fn chats(&self) -> Vec<Chat> {
        let ours = |chat: &Chat| chat.contact.created_at >= self.began;
        chats(self.database).await.into_iter().filter(ours).collect()
    }

    /// Waits until every message is stored, and compares everything with the model.
    async fn check(&self) {
        let expected: usize = self.people.written.values().map(BTreeSet::len).sum();
        until("every message is stored", async || {
            let mut stored = BTreeSet::new();
            for chat in self.chats().await {
                stored.extend(super::inbound_of(self.database, chat.id).await.into_iter().map(|row| row.wamid));
            }
            stored.len() == expected
        })
        .await;
        let mut found: BTreeMap<i64, Known> = BTreeMap::new();
        let mut done = Done::default();
        for chat in self.chats().await {
            let mut rows = self.database.messages(chat.id, None, 100_000).await.expect("messages");
            rows.reverse();
            let log = Log::read(&rows).unwrap_or_else(|problem| panic!("{problem}, in {rows:#?}"));
            assert_eq!(
                (log.owner, &log.agent, log.last_inbound_at),
                (chat.owner, &chat.agent, chat.last_inbound_at),
                "{rows:#?}"
            );
            let inbound = rows.iter().filter(|row| row.kind == MessageKind::Inbound);
            let numbers = inbound.map(|row| number_of_id(row.wamid.as_deref().unwrap_or_default()));
            let numbers: Vec<u64> = numbers.collect();
            let is_merged = rows.iter().any(|row| row.body["why"] == "merged");
            assert!(is_merged || numbers.is_sorted(), "out of order: {numbers:?}");
            let known = found.entry(chat.contact.id).or_default();
            known.person = chat.contact.number.map(Person::from);
            known.user_id.clone_from(&chat.contact.user_id);
            let before = known.written.insert(chat.line.to_string(), numbers.into_iter().collect());
            assert_eq!(before, None, "one chat for each contact and line");
            for row in &rows {
                let why = row.body["why"].as_str().filter(|why| COUNTED.contains(why));
                if let (Some(agent), Some(why)) = (&row.author, why) {
                    *done.activities.entry((agent.clone(), why.to_owned())).or_default() += 1;
                }
                let text = row.body["content"]["body"].as_str().or(row.body["content"]["name"].as_str());
                done.sent.extend(text.filter(|_| row.kind == MessageKind::Outbound).map(str::to_owned));
            }
        }
        assert_eq!(done, self.done, "what the calls have changed");
        assert_eq!(found.into_values().collect::<BTreeSet<_>>(), self.people.known(), "who wrote what");
    }
}

/// The reasons whose activities are counted: each call that changes something writes one. A reply may take the chat.
const COUNTED: [&str; 4] = ["taken", "released", "closed", "finished"];

/// What an agent does with chats, one call after the other.
async fn act_on(database: &Database, (agent, now): (&str, UnixMs), chats: &[i64], seed: u64, first_text: u64) -> Done {
    let (mut random, mut done) = (StdRng::seed_from_u64(seed), Done::default());
    for n in 0..8 {
        let chat = chats[random.random_range(0..chats.len())];
        let call = async |revision, action| {
            database.act(ActionOn { chat, agent, visible: None, revision, now }, action).await.expect("PostgreSQL")
        };
        let said = (first_text + n).to_string();
        let text = ReplyContent::Text { body: said.clone(), preview_url: false };
        let template = ReplyContent::Template { name: said.clone(), language: "es_AR".into(), components: Vec::new() };
        let send = |content| ChatAction::Send(NewMessage { client_id: Some(said.clone()), context: None, content });
        let (action, why) = match random.random_range(0..9) {
            0..2 => (ChatAction::Take, Some("taken")),
            2 => (ChatAction::Release, Some("released")),
            3 => (ChatAction::Close, Some("closed")),
            4 => (ChatAction::Finish(random.random_bool(0.5).then(|| said.clone())), Some("finished")),
            5 => (ChatAction::Read, None),
            6 => (ChatAction::Note("calls back".to_owned()), None),
            7 => (send(template), None),
            _ => (send(text), None),
        };
        let writes = matches!(&action, ChatAction::Send(_) | ChatAction::Finish(Some(_)));
        let is_send = matches!(&action, ChatAction::Send(_));
        match call(None, action.clone()).await {
            Ok(ActionDone { changed, message, .. }) => {
                if let Some(why) = why.filter(|_| changed) {
                    *done.activities.entry((agent.to_owned(), why.to_owned())).or_default() += 1;
                }
                done.sent.extend(writes.then_some(said));
                if is_send {
                    // The caller repeats what it has got no answer to, whatever has happened to the chat meanwhile.
                    match call(Some(-1), action).await {
                        Ok(again) => assert_eq!((again.message, again.changed), (message, false)),
                        refused => assert_eq!(refused, Err(ActionRefused::NoChat), "it was merged into another chat"),
                    }
                }
            }
            Err(ActionRefused::OtherAgent(other)) => assert_ne!(other, agent),
            Err(ActionRefused::WindowClosed(_)) => assert!(writes),
            // A reader has merged it into another chat meanwhile.
            Err(ActionRefused::NoChat) => {}
            Err(refused) => panic!("{refused:?}"),
        }
    }
    done
}

/// The number of a message, which rises with each.
fn number_of(inbound: &Inbound) -> u64 {
    number_of_id(inbound.id.as_ref().expect("an id").as_str())
}

fn number_of_id(id: &str) -> u64 {
    id.rsplit('.').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// The namings of a person with this number.
fn namings(number: u64, id: Option<String>) -> Vec<Naming> {
    // Without the 9 that mobile numbers of Argentina have abroad.
    let domestic = 540_000_000_000 + number % 10_000_000_000;
    let mut namings: Vec<Naming> =
        [number, domestic].map(|number| Naming { number: Some(number), user_id: None }).into();
    if id.is_some() {
        namings.push(Naming { number: None, user_id: id.clone() });
        namings.push(Naming { number: Some(number), user_id: id });
    }
    namings
}

#[tokio::test]
async fn random_histories_keep_one_contact_for_a_person_and_one_owner_for_a_chat() {
    let seed = seed();
    let multiplier: u64 = std::env::var("PREGON_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let office = Office::start().await;
    let database = office.database().await;
    for n in 0..HISTORIES * multiplier {
        println!("history {n}");
        let mut history = History {
            random: StdRng::seed_from_u64(seed ^ n),
            office: &office,
            database: &database,
            readers: vec![office.reader(&format!("{n}.0")), office.reader(&format!("{n}.1"))],
            known: Vec::new(),
            people: People::default(),
            written: Vec::new(),
            ahead: 0,
            done: Done::default(),
            last: n * 30_000,
            began: office.clock.now(),
        };
        history.known = (0..PEOPLE).map(|_| history.somebody()).collect();
        for step in 0..STEPS {
            let batches = LINES.map(|line| (line, history.batch(line)));
            for (line, batch) in &batches {
                // Both lines have messages before any is stored.
                history.put(line, batch).await;
            }
            history.act().await;
            if history.random.random_bool(0.3) {
                let killed = history.random.random_range(0..history.readers.len());
                history.readers.swap_remove(killed).kill().await;
                history.readers.push(office.reader(&format!("{n} after {step}")));
            }
            history.check().await;
            history.change_identity().await;
            history.check().await;
            history.ahead += history.random.random_range(0..6 * HOUR);
            history.act().await;
            history.check().await;
        }
        for reader in history.readers {
            reader.stop().await;
        }
    }
}
