//! The outbox: messages to contacts that are not finished, and what becomes of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use super::{
    Database, DatabaseError, Result,
    statistics::{self, Deed, What},
};
use crate::domain::{
    ChatMessageId, LineId, MessageFate, State, UnixMs,
    chat::{ChatStatus, Outgoing},
};

/// A message that changes.
struct Changed {
    business: String,
    contact: i64,
    at: i64,
    is_template: bool,
    before: State,
    state: State,
    wamid: Option<String>,
    marks: Map<String, Value>,
}

impl Database {
    /// At most `limit` rows of the outbox of a line that are not among `known`, the oldest messages first. A message
    /// whose file is not at Meta yet, and the later ones of its chat, are left out: also those that were written in
    /// different chats which are now one.
    pub async fn outbox(&self, line: &LineId, known: &HashSet<ChatMessageId>, limit: usize) -> Result<Vec<Outgoing>> {
        let (chats, messages): (Vec<i64>, Vec<i64>) = known.iter().map(|id| (id.chat, id.message)).unzip();
        let rows = sqlx::query!(
            r#"with waiting as (
                select coalesce(into_chat, chat) as chat, coalesce(into_message, message) as message
                from outbox left join merged_messages using (chat, message) where line = $1 and media is not null)
             select chat as "chat!", message as "message!", request::text as "request!", until_at
             from outbox left join merged_messages using (chat, message)
             where line = $1 and (chat, message) not in (select * from unnest($2::bigint[], $3::bigint[]))
                and not exists (select from waiting where waiting.chat = coalesce(into_chat, outbox.chat)
                    and waiting.message <= coalesce(into_message, outbox.message))
             order by message limit $4"#,
            line.as_str(),
            &chats,
            &messages,
            i64::try_from(limit).unwrap_or(i64::MAX)
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("read the outbox"))?;
        let rows = rows.into_iter().map(|row| Outgoing {
            id: ChatMessageId { chat: row.chat, message: row.message },
            request: row.request,
            until: row.until_at.map(|at| UnixMs(at.unsigned_abs())),
        });
        Ok(rows.collect())
    }

    /// When the oldest message of the outbox of a line was written, without marks.
    pub async fn oldest_waiting(&self, line: &LineId) -> Result<Option<UnixMs>> {
        let oldest =
            sqlx::query_scalar!("select min(message) from outbox where line = $1 and message > 0", line.as_str())
                .fetch_one(&self.pool)
                .await
                .map_err(DatabaseError::of("read the outbox"))?;
        Ok(oldest.map(|id| UnixMs(id.unsigned_abs() / 1_000)))
    }

    /// Stores what is known about messages of a line, in one transaction, in any order and any number of times. Removes
    /// those that have ended from the outbox, and returns them. Ignores those that are not in PostgreSQL.
    pub async fn store_message_news(&self, line: &LineId, news: &[ChatStatus]) -> Result<Vec<ChatMessageId>> {
        let failed = DatabaseError::of("store what became of messages");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let named = named(&mut transaction, line, news).await.map_err(&failed)?;
        let id = |news: &ChatStatus| news.id.or_else(|| named.get(news.wamid.as_ref()?.as_str()).copied());
        let news: Vec<(ChatMessageId, &ChatStatus)> = news.iter().filter_map(|news| Some((id(news)?, news))).collect();
        let ended: BTreeSet<ChatMessageId> =
            news.iter().filter(|(_, news)| !news.state.is_open()).map(|(id, _)| *id).collect();
        let ids: BTreeSet<ChatMessageId> = news.iter().map(|(id, _)| *id).collect();
        let mut changed = lock_messages(&mut transaction, ids.iter().copied()).await.map_err(&failed)?;
        // A read mark is no message, and has a negative id.
        let missing = ids.into_iter().filter(|id| id.message > 0 && !changed.contains_key(id));
        let moved = merged_messages(&mut transaction, missing).await.map_err(&failed)?;
        changed.extend(lock_messages(&mut transaction, moved.values().copied()).await.map_err(&failed)?);
        for (id, news) in &news {
            if let Some(message) = changed.get_mut(moved.get(id).unwrap_or(id)) {
                message.learn(news);
            }
        }
        let column = |of: fn(&ChatMessageId) -> i64| changed.keys().map(of).collect::<Vec<i64>>();
        sqlx::query!(
            "update messages set state = new.state, wamid = coalesce(messages.wamid, new.wamid),
                marks = case when new.marks = '{}' then messages.marks
                    else coalesce(messages.marks, '{}'::jsonb) || new.marks::jsonb end
             from unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::text[], $5::text[])
                as new (chat, id, state, wamid, marks)
             where messages.chat = new.chat and messages.id = new.id",
            &column(|id| id.chat),
            &column(|id| id.message),
            &changed.values().map(|message| i16::from(message.state.code())).collect::<Vec<i16>>(),
            &changed.values().map(|message| message.wamid.clone()).collect::<Vec<_>>() as &[Option<String>],
            &changed.values().map(|message| Value::from(message.marks.clone()).to_string()).collect::<Vec<_>>()
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        let deeds: Vec<Deed<'_>> = changed.values().filter_map(|message| message.deed(line)).collect();
        if let Some(message) = changed.values().next() {
            statistics::count(&mut transaction, &message.business, &deeds).await.map_err(&failed)?;
        }
        let (chats, ids): (Vec<i64>, Vec<i64>) = ended.iter().map(|id| (id.chat, id.message)).unzip();
        sqlx::query!(
            "delete from outbox
             where line = $1 and (chat, message) in (select * from unnest($2::bigint[], $3::bigint[]))",
            line.as_str(),
            &chats,
            &ids
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(ended.into_iter().collect())
    }
}

/// The messages of a line that the news name only by Meta's ids, by these ids.
async fn named(
    connection: &mut PgConnection,
    line: &LineId,
    news: &[ChatStatus],
) -> sqlx::Result<HashMap<String, ChatMessageId>> {
    let unnamed = news.iter().filter(|news| news.id.is_none()).filter_map(|news| news.wamid.as_ref());
    let wamids: Vec<String> = unnamed.map(|wamid| wamid.as_str().to_owned()).collect();
    if wamids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"select messages.id, chat, wamid as "wamid!" from messages join chats on chats.id = chat
         where wamid = any($1) and kind = 2 and line = $2"#,
        &wamids,
        line.as_str()
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.wamid, ChatMessageId { chat: row.chat, message: row.id })).collect())
}

/// Locks messages and, before them, their chats, as everybody does. The chats count as changed, for those who follow them.
/// Messages that do not exist are missing in the result.
async fn lock_messages(
    connection: &mut PgConnection,
    ids: impl Iterator<Item = ChatMessageId>,
) -> sqlx::Result<BTreeMap<ChatMessageId, Changed>> {
    let (chats, ids): (Vec<i64>, Vec<i64>) = ids.map(|id| (id.chat, id.message)).unzip();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    sqlx::query!(
        "with locked as (select id from chats where id = any($1) order by id for update)
         update chats set changed = default from locked where chats.id = locked.id",
        &chats
    )
    .execute(&mut *connection)
    .await?;
    let rows = sqlx::query!(
        r#"select chat, messages.id, state, at, contact, coalesce(body #>> '{content,type}' = 'template', false) as "is_template!", chats.business
         from messages join chats on chats.id = chat
         where (chat, messages.id) in (select * from unnest($1::bigint[], $2::bigint[]))
         order by chat, messages.id for update of messages"#,
        &chats,
        &ids
    )
    .fetch_all(connection)
    .await?;
    let changed = rows.into_iter().map(|row| {
        let state = u8::try_from(row.state).ok().and_then(State::of).unwrap_or(State::Pending);
        let id = ChatMessageId { chat: row.chat, message: row.id };
        let changed = Changed {
            business: row.business,
            contact: row.contact,
            at: row.at,
            is_template: row.is_template,
            before: state,
            state,
            wamid: None,
            marks: Map::new(),
        };
        (id, changed)
    });
    Ok(changed.collect())
}

/// Where messages are that were written in chats which are now part of others.
async fn merged_messages(
    connection: &mut PgConnection,
    ids: impl Iterator<Item = ChatMessageId>,
) -> sqlx::Result<BTreeMap<ChatMessageId, ChatMessageId>> {
    let (chats, ids): (Vec<i64>, Vec<i64>) = ids.map(|id| (id.chat, id.message)).unzip();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query!(
        "select chat, message, into_chat, into_message from merged_messages
         where (chat, message) in (select * from unnest($1::bigint[], $2::bigint[]))",
        &chats,
        &ids
    )
    .fetch_all(connection)
    .await?;
    let moved = rows.into_iter().map(|row| {
        let into = ChatMessageId { chat: row.into_chat, message: row.into_message };
        (ChatMessageId { chat: row.chat, message: row.message }, into)
    });
    Ok(moved.collect())
}

impl Changed {
    /// What counts about it, if its fate changes.
    fn deed<'a>(&self, line: &'a LineId) -> Option<Deed<'a>> {
        let (before, now) = (MessageFate::of(self.before), MessageFate::of(self.state));
        let what = What::Became { before, now, is_template: self.is_template };
        (before != now).then_some(Deed { contact: self.contact, line: line.as_str(), at: self.at, what })
    }

    /// A state of a higher rank wins. Of each state, the first time is kept by the column, which is merged.
    fn learn(&mut self, news: &ChatStatus) {
        if self.wamid.is_none() {
            self.wamid = news.wamid.as_ref().map(|wamid| wamid.as_str().to_owned());
        }
        let time = match news.state {
            State::Accepted => Some("accepted_at"),
            State::Sent => Some("sent_at"),
            State::Delivered => Some("delivered_at"),
            State::Read => Some("read_at"),
            State::Failed | State::Refused => Some("failed_at"),
            _ => None,
        };
        self.marks.extend(time.map(|name| (name.to_owned(), json!(news.at.to_string()))));
        if news.state.rank() <= self.state.rank() {
            return;
        }
        self.state = news.state;
        if news.code.is_some() || !news.details.is_empty() {
            let error = json!({ "code": news.code.map(|code| code.0), "details": news.details.replace('\0', "") });
            self.marks.insert("error".to_owned(), error);
        }
    }
}
