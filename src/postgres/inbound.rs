//! Stores what people write: one transaction for each batch of a line.
//!
//! The reader of a line holds the line's row in `line_readers` for the time of its transaction. So the batches of two
//! readers, one of which lost its lease without knowing, follow each other, and the second finds the messages of the
//! first by Meta's ids. Whoever forgets a person holds all of these rows, so a batch is stored before that, and its
//! messages are deleted with the person, or is read again after it, when they are no longer on the stream.

mod contacts;
mod merge;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Value, json};
use sqlx::PgConnection;

pub use self::contacts::Author;
pub(super) use self::contacts::{contacts_of_numbers, resolve};
use super::{
    Database, DatabaseError, Result,
    campaign_chats::{self, Answer, KnownRoutes},
    inbound_links::{self, Opening},
    media::{ReceivedFile, add_received, remove_of_messages},
    millis,
    statistics::{self, Deed, What},
    tags,
};
use crate::{
    domain::{
        BusinessId, CampaignId, ChatMessageId, InboundLinkId, LineId, State, TagId, UnixMs, campaign::ReplyRoute,
        chat::Owner,
    },
    rules::{
        inbound_links::followed,
        tagging::{Happened, TagEvent, TagRules, retag},
    },
};

/// How far back a message is looked up that Meta delivers again, or that Redis returns again: longer than either may
/// take.
const KNOWN_FOR_US: i64 = 40 * 24 * 3600 * 1_000_000;

/// The kind of a message of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// From the contact.
    Inbound = 1,
    /// To the contact.
    Outbound = 2,
    /// A note of an agent, which the contact does not see.
    Note = 3,
    /// What happened to the chat.
    Activity = 4,
}

impl MessageKind {
    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Note => "note",
            Self::Activity => "activity",
        }
    }

    /// The kind with this number.
    pub(super) fn of(code: i16) -> Self {
        let kinds = [Self::Inbound, Self::Outbound, Self::Note];
        kinds.into_iter().find(|kind| *kind as i16 == code).unwrap_or(Self::Activity)
    }
}

/// A message from a person, ready to be stored.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// Meta's id, or another text that identifies the message.
    pub wamid: String,
    /// Meta's time.
    pub at: UnixMs,
    /// Who wrote it.
    pub person: Author,
    /// The message, a JSON object.
    pub body: String,
    /// Whether the business wrote it to the person, in the WhatsApp Business app.
    pub is_echo: bool,
    /// The campaign that it answers. `body` names the recipient then.
    pub answers: Option<AnsweredCampaign>,
    /// What it does to an earlier message.
    pub mark: Option<Mark>,
    /// Its file. `body` names the id.
    pub file: Option<ReceivedFile>,
}

/// The campaign that a message answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredCampaign {
    /// The campaign.
    pub id: CampaignId,
    /// What the answer does.
    pub route: Option<ReplyRoute>,
}

/// What a message does to an earlier one.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Meta's id of the earlier message.
    pub message: String,
    /// The JSON object that is merged into the earlier message's marks.
    pub marks: String,
    /// Whether the content of the earlier message is removed.
    pub removes_content: bool,
}

/// What a batch changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredBatch {
    /// Messages that were stored. The others were stored before.
    pub messages: usize,
    /// Contacts that were created.
    pub contacts: usize,
    /// Chats that were created.
    pub chats: usize,
    /// Chats that went to the queue.
    pub queued: usize,
}

/// A chat that is locked for the transaction.
struct Chat {
    id: i64,
    owner: Owner,
    last_message: i64,
    last_inbound_at: Option<i64>,
    unread: i32,
    waiting_since_at: Option<i64>,
    is_attended: bool,
    group: Option<String>,
    tags: Vec<TagId>,
    has_new_owner: bool,
}

/// Rows to insert into `messages`, by columns.
#[derive(Default)]
struct Rows {
    ids: Vec<i64>,
    chats: Vec<i64>,
    at: Vec<i64>,
    kinds: Vec<i16>,
    states: Vec<i16>,
    wamids: Vec<Option<String>>,
    bodies: Vec<String>,
}

impl Database {
    /// How often people were forgotten, as far as the line knows. To be read before the messages of the line are.
    pub async fn forgettings(&self, line: &LineId) -> Result<i64> {
        let failed = DatabaseError::of("read how often people were forgotten");
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        lock_line(&mut connection, line).await.map_err(&failed)
    }

    /// Stores messages of a line, in their order, each once. Creates the contacts and chats that are missing. `now` is
    /// the time of storage, and `forgettings` the number of [`Database::forgettings`] before the messages were read;
    /// `None`: nobody is forgotten meanwhile.
    ///
    /// Returns `None` if people were forgotten since then: the messages may be theirs, and have to be read again.
    pub async fn store_inbound(
        &self,
        line: &LineId,
        business: &BusinessId,
        messages: &[ReceivedMessage],
        forgettings: Option<i64>,
        now: UnixMs,
    ) -> Result<Option<StoredBatch>> {
        let failed = DatabaseError::of("store messages");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let newest = lock_line(&mut transaction, line).await.map_err(&failed)?;
        if forgettings.is_some_and(|known| known != newest) {
            transaction.rollback().await.map_err(&failed)?;
            return Ok(None);
        }
        let new = unknown(&mut transaction, messages, now).await.map_err(&failed)?;
        if new.is_empty() {
            transaction.rollback().await.map_err(&failed)?;
            return Ok(Some(StoredBatch::default()));
        }
        let batch = Batch { line, business, now };
        let people: Vec<&Author> = new.iter().map(|message| &message.person).collect();
        let resolved = resolve(&mut transaction, business, &people, now).await.map_err(&failed)?;
        let (chats, created) = batch.lock_chats(&mut transaction, &resolved.contacts).await.map_err(&failed)?;
        let queued = batch.write(&mut transaction, &new, &resolved.contacts, chats).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(Some(StoredBatch { messages: new.len(), contacts: resolved.created, chats: created, queued }))
    }
}

/// Locks the row of the line until the end of the transaction. Returns how often people were forgotten.
pub(super) async fn lock_line(connection: &mut PgConnection, line: &LineId) -> sqlx::Result<i64> {
    let locked = sqlx::query_scalar!("select forgotten from line_readers where line = $1 for update", line.as_str());
    if let Some(forgotten) = locked.fetch_optional(&mut *connection).await? {
        return Ok(forgotten);
    }
    // Locks the row, as the insert of another reader does.
    sqlx::query_scalar!(
        "insert into line_readers (line) values ($1) on conflict (line) do update set line = excluded.line
         returning forgotten",
        line.as_str()
    )
    .fetch_one(connection)
    .await
}

/// The messages that are not stored yet, each once.
async fn unknown<'a>(
    connection: &mut PgConnection,
    messages: &'a [ReceivedMessage],
    now: UnixMs,
) -> sqlx::Result<Vec<&'a ReceivedMessage>> {
    let wamids: Vec<String> = messages.iter().map(|message| message.wamid.clone()).collect();
    let known = sqlx::query_scalar!(
        r#"select wamid as "wamid!" from messages where wamid = any($1) and id > $2 and kind in (1, 2)"#,
        &wamids,
        micros(now) - KNOWN_FOR_US
    )
    .fetch_all(connection)
    .await?;
    let mut known: HashSet<String> = known.into_iter().collect();
    Ok(messages.iter().filter(|message| known.insert(message.wamid.clone())).collect())
}

/// The id of the next message of a chat whose newest is `last`, stored at `now`.
pub(super) fn next_message(last: i64, now: UnixMs) -> i64 {
    micros(now).max(last + 1)
}

/// Meta's id of a message. Other texts stand for a missing one.
pub(super) fn meta_id(wamid: Option<String>) -> Option<String> {
    wamid.filter(|wamid| wamid.starts_with("wamid."))
}

pub(super) fn micros(at: UnixMs) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000)
}

/// The batch that is stored.
struct Batch<'a> {
    line: &'a LineId,
    business: &'a BusinessId,
    now: UnixMs,
}

impl Batch<'_> {
    /// Locks the chats of contacts on the line, and creates those that are missing. Returns them by contact, and how many
    /// were created.
    async fn lock_chats(
        &self,
        connection: &mut PgConnection,
        contacts: &[i64],
    ) -> sqlx::Result<(BTreeMap<i64, Chat>, usize)> {
        let wanted: BTreeSet<i64> = contacts.iter().copied().collect();
        let mut chats = self.lock_existing(connection, &wanted.iter().copied().collect::<Vec<_>>()).await?;
        let missing: Vec<i64> = wanted.into_iter().filter(|contact| !chats.contains_key(contact)).collect();
        if missing.is_empty() {
            return Ok((chats, 0));
        }
        let created = sqlx::query!(
            "insert into chats (business, line, contact, owner, owner_since_at, created_at, last_message)
             select $1, $2, contact, $3, $4, $4, $5 from unnest($6::bigint[]) as new (contact)
             on conflict (contact, line) do nothing",
            self.business.as_str(),
            self.line.as_str(),
            Owner::Nobody.code(),
            millis(self.now),
            micros(self.now),
            &missing
        )
        .execute(&mut *connection)
        .await?;
        chats.extend(self.lock_existing(connection, &missing).await?);
        Ok((chats, created.rows_affected() as usize))
    }

    /// Locks the chats that contacts have on the line. Returns them by contact.
    async fn lock_existing(
        &self,
        connection: &mut PgConnection,
        contacts: &[i64],
    ) -> sqlx::Result<BTreeMap<i64, Chat>> {
        let found = sqlx::query!(
            "select id, contact, owner, last_message, last_inbound_at, unread, waiting_since_at, attended, group_id,
                tags
             from chats
             where line = $1 and contact = any($2) order by id for update",
            self.line.as_str(),
            contacts
        )
        .fetch_all(connection)
        .await?;
        let chats = found.into_iter().map(|row| {
            let chat = Chat {
                id: row.id,
                owner: Owner::of(row.owner).unwrap_or(Owner::Queue),
                last_message: row.last_message,
                last_inbound_at: row.last_inbound_at,
                unread: row.unread,
                waiting_since_at: row.waiting_since_at,
                is_attended: row.attended,
                group: row.group_id,
                tags: row.tags.iter().map(|tag| tag.as_str().into()).collect(),
                has_new_owner: false,
            };
            (row.contact, chat)
        });
        Ok(chats.collect())
    }

    /// Writes the messages, what they do to earlier ones, and the chats. Returns how many chats went to the queue.
    async fn write(
        &self,
        connection: &mut PgConnection,
        messages: &[&ReceivedMessage],
        contacts: &[i64],
        mut chats: BTreeMap<i64, Chat>,
    ) -> sqlx::Result<usize> {
        let rules = tags::rules_of(&mut *connection, self.business.as_str()).await?;
        let (links, mut followed) = (inbound_links::of_line(&mut *connection, self.line).await?, Vec::new());
        let (mut rows, mut files, mut deeds, mut answered) = (Rows::default(), Vec::new(), Vec::new(), Vec::new());
        let routes = messages.iter().filter_map(|message| message.answers.as_ref()?.route.as_ref());
        let routes = KnownRoutes::read(&mut *connection, self.business, routes).await?;
        let ids: Vec<i64> = chats.values().filter(|_| !routes.tags.is_empty()).map(|chat| chat.id).collect();
        let mut known_answers = campaign_chats::known(connection, &ids).await?;
        for (message, contact) in messages.iter().zip(contacts) {
            let Some(chat) = chats.get_mut(contact) else { continue };
            let kind = if message.is_echo { MessageKind::Outbound } else { MessageKind::Inbound };
            let id = chat.next_id(self.now);
            rows.push(id, chat.id, message.at, kind, Some(&message.wamid), message.body.clone());
            files.extend(message.file.as_ref().map(|file| (chat.id, file)));
            if message.is_echo {
                // Whoever answers in the app has read the chat there.
                (chat.unread, chat.waiting_since_at, chat.is_attended) = (0, None, true);
                continue;
            }
            let what = What::Wrote { is_reply: message.answers.is_some() };
            deeds.push(Deed { contact: *contact, line: self.line.as_str(), at: millis(message.at), what });
            let owner = chat.owner.after_inbound();
            let is_opened = owner != chat.owner;
            if is_opened {
                let routed = message.answers.as_ref().filter(|answers| answers.route.is_some());
                let activity = match routed {
                    Some(answers) => {
                        chat.join(answers, &routes);
                        json!({ "owner": owner.name(), "group": chat.group, "why": "campaign", "campaign": answers.id })
                    }
                    None => match chat.follow(&links, &message.body) {
                        None => json!({ "owner": owner.name(), "why": "inbound" }),
                        Some(link) => {
                            followed.push(link);
                            json!({ "owner": owner.name(), "group": chat.group, "why": "link", "link": link })
                        }
                    },
                };
                let activity = activity.to_string();
                rows.push(chat.next_id(self.now), chat.id, self.now, MessageKind::Activity, None, activity);
                (chat.owner, chat.has_new_owner) = (owner, true);
            }
            if let Some(answers) = &message.answers {
                answered.push((answers.id, *contact, is_opened));
                // The tags of an answer stay removed once somebody has removed them.
                if known_answers.insert((answers.id, chat.id))
                    && let Some(activity) = chat.tag_for(answers, &routes)
                {
                    rows.push(chat.next_id(self.now), chat.id, self.now, MessageKind::Activity, None, activity);
                }
            }
            chat.unread = chat.unread.saturating_add(1);
            chat.last_inbound_at = chat.last_inbound_at.max(Some(millis(message.at)));
            chat.waiting_since_at.get_or_insert(millis(self.now));
            chat.is_attended = false;
            if let Some(activity) = chat.retag(&rules, self.line, &message.body, is_opened) {
                rows.push(chat.next_id(self.now), chat.id, self.now, MessageKind::Activity, None, activity);
            }
        }
        let queued = chats.values().filter(|chat| chat.has_new_owner).count();
        rows.insert(connection, self.business).await?;
        let answers = answered.into_iter().filter_map(|(campaign, contact, is_opened)| {
            let chat = chats.get(&contact)?;
            let is_assigned = chat.owner == Owner::Agent;
            Some(Answer { campaign, chat: chat.id, is_opened, is_assigned, is_attended: chat.is_attended })
        });
        campaign_chats::store(connection, self.business, answers.collect()).await?;
        add_received(connection, self.line, self.business, &files, self.now).await?;
        self.update_chats(connection, chats.into_values().collect()).await?;
        inbound_links::count(connection, &followed).await?;
        statistics::count(connection, self.business.as_str(), &deeds).await?;
        for mark in messages.iter().filter_map(|message| message.mark.as_ref()) {
            if mark.removes_content {
                self.remove_content(connection, &mark.message).await?;
            }
            sqlx::query!(
                "update messages set marks = coalesce(marks, '{}'::jsonb) || $2::text::jsonb
                 where wamid = $1 and business = $3",
                mark.message,
                mark.marks,
                self.business.as_str()
            )
            .execute(&mut *connection)
            .await?;
        }
        Ok(queued)
    }

    /// Removes what a message and its edits say, with their files. `message`: Meta's id.
    async fn remove_content(&self, connection: &mut PgConnection, message: &str) -> sqlx::Result<()> {
        let found = sqlx::query!(
            "select said.chat, said.id from messages original
             join messages said on said.chat = original.chat and said.id >= original.id
                and (said.id = original.id or edited_message(said.body) = $1)
             where original.wamid = $1 and original.business = $2",
            message,
            self.business.as_str()
        )
        .fetch_all(&mut *connection)
        .await?;
        let said: Vec<_> = found.iter().map(|row| ChatMessageId { chat: row.chat, message: row.id }).collect();
        remove_of_messages(&mut *connection, &said).await?;
        let (chats, ids): (Vec<i64>, Vec<i64>) = said.iter().map(|id| (id.chat, id.message)).unzip();
        sqlx::query!(
            "update messages set body = jsonb_strip_nulls(jsonb_build_object('recipient', body -> 'recipient')),
                marks = marks - 'edited'
             where (chat, id) in (select * from unnest($1::bigint[], $2::bigint[]))",
            &chats,
            &ids
        )
        .execute(connection)
        .await
        .map(drop)
    }

    async fn update_chats(&self, connection: &mut PgConnection, chats: Vec<Chat>) -> sqlx::Result<()> {
        let ids: Vec<i64> = chats.iter().map(|chat| chat.id).collect();
        let owners: Vec<i16> = chats.iter().map(|chat| chat.owner.code()).collect();
        let new_owner: Vec<bool> = chats.iter().map(|chat| chat.has_new_owner).collect();
        let inbound: Vec<Option<i64>> = chats.iter().map(|chat| chat.last_inbound_at).collect();
        let last: Vec<i64> = chats.iter().map(|chat| chat.last_message).collect();
        let unread: Vec<i32> = chats.iter().map(|chat| chat.unread).collect();
        let attended: Vec<bool> = chats.iter().map(|chat| chat.is_attended).collect();
        let groups: Vec<Option<String>> = chats.iter().map(|chat| chat.group.clone()).collect();
        let tags: Vec<String> = chats.iter().map(|chat| json!(chat.tags).to_string()).collect();
        let waiting: Vec<Option<i64>> = chats.iter().map(|chat| chat.waiting_since_at).collect();
        sqlx::query!(
            "update chats set owner = new.owner, last_inbound_at = new.inbound, last_message = new.last,
                unread = new.unread, revision = revision + 1, waiting_since_at = new.waiting, attended = new.attended,
                group_id = new.group_id, tags = array(select jsonb_array_elements_text(new.tags::jsonb)),
                owner_since_at = case when new.has_new_owner then $7 else owner_since_at end,
                snoozed_until_at = case when new.waiting is null then snoozed_until_at end
             from unnest($1::bigint[], $2::smallint[], $3::bool[], $4::bigint[], $5::bigint[], $6::int[], $8::bigint[],
                $9::bool[], $10::text[], $11::text[])
                as new (id, owner, has_new_owner, inbound, last, unread, waiting, attended, tags,
                    group_id)
             where chats.id = new.id",
            &ids,
            &owners,
            &new_owner,
            &inbound as &[Option<i64>],
            &last,
            &unread,
            millis(self.now),
            &waiting as &[Option<i64>],
            &attended,
            &tags,
            &groups as &[Option<String>]
        )
        .execute(connection)
        .await
        .map(drop)
    }
}

impl Chat {
    /// Gives the chat, which a message with this body opens, the group and the tags of the link that its text begins with.
    fn follow(&mut self, links: &[Opening], body: &str) -> Option<InboundLinkId> {
        if links.is_empty() {
            return None;
        }
        let openings = links.iter().map(|link| (link.id, link.text.clone())).collect();
        let followed = followed(&text_of(body), &openings)?;
        let link = links.iter().find(|link| link.id == followed)?;
        if link.group.is_some() {
            self.group.clone_from(&link.group);
        }
        for tag in &link.tags {
            if !self.tags.contains(tag) {
                self.tags.push(tag.clone());
            }
        }
        Some(followed)
    }

    /// Gives the chat, which an answer to a campaign opens, the group of the campaign, unless it is there no longer.
    fn join(&mut self, answers: &AnsweredCampaign, known: &KnownRoutes) {
        let group = answers.route.as_ref().and_then(|route| route.group.as_ref());
        if let Some(group) = group.filter(|group| known.groups.contains(group)) {
            self.group = Some(group.to_string());
        }
    }

    /// Adds the tags of the campaign that a message answers. Returns the activity of that, if they change.
    fn tag_for(&mut self, answers: &AnsweredCampaign, known: &KnownRoutes) -> Option<String> {
        let before = self.tags.clone();
        for tag in answers.route.iter().flat_map(|route| &route.tags).filter(|tag| known.tags.contains(tag)) {
            if !self.tags.contains(tag) {
                self.tags.push(tag.clone());
            }
        }
        let mut activity = tags::activity(&before, &self.tags, self.owner, None)?;
        activity["campaign"] = json!(answers.id);
        Some(activity.to_string())
    }

    /// Changes the tags as the rules say after a message with this body. Returns the activity of that, if they change.
    fn retag(&mut self, rules: &TagRules, line: &LineId, body: &str, is_opened: bool) -> Option<String> {
        if rules.is_empty() {
            return None;
        }
        let (text, before) = (text_of(body), self.tags.clone());
        let events = [is_opened.then_some(TagEvent::Opened), Some(TagEvent::Message)];
        for event in events.into_iter().flatten() {
            retag(&mut self.tags, rules, Happened { event, line, text: &text });
        }
        tags::activity(&before, &self.tags, self.owner, None).map(|activity| activity.to_string())
    }

    /// The id of the next message of the chat, which is stored at `now`.
    fn next_id(&mut self, now: UnixMs) -> i64 {
        self.last_message = next_message(self.last_message, now);
        self.last_message
    }
}

/// The text of a message, its caption, or what was chosen; empty if there is none.
fn text_of(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let places = ["text", "media/caption", "button_reply/title", "list_reply/title", "tap/text"];
    let text = places.into_iter().find_map(|place| body.pointer(&format!("/content/{place}"))?.as_str());
    text.unwrap_or_default().to_owned()
}

impl Rows {
    fn push(&mut self, id: i64, chat: i64, at: UnixMs, kind: MessageKind, wamid: Option<&str>, body: String) {
        self.ids.push(id);
        self.chats.push(chat);
        self.at.push(millis(at));
        self.kinds.push(kind as i16);
        let state = if kind == MessageKind::Outbound { State::Sent } else { State::Pending };
        self.states.push(state.code().into());
        self.wamids.push(wamid.map(str::to_owned));
        self.bodies.push(body);
    }

    async fn insert(&self, connection: &mut PgConnection, business: &BusinessId) -> sqlx::Result<()> {
        sqlx::query!(
            "insert into messages (id, chat, at, kind, state, business, wamid, body)
             select id, chat, at, kind, state, $7, wamid, body::jsonb
             from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::text[], $6::text[],
                $8::smallint[]) as new (id, chat, at, kind, wamid, body, state)",
            &self.ids,
            &self.chats,
            &self.at,
            &self.kinds,
            &self.wamids as &[Option<String>],
            &self.bodies,
            business.as_str(),
            &self.states
        )
        .execute(connection)
        .await
        .map(drop)
    }
}
