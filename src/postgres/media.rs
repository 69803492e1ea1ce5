//! Files of chats: which there are, which have to be fetched from Meta, uploaded to it or removed from the store.
//!
//! Whoever works on a file moves its `next_at` into the future, and again while the work goes on. So two processes never
//! fetch the same file at the same time, and a file whose process died is taken up by another one.

use std::collections::HashMap;

use sqlx::{PgConnection, PgTransaction};

use super::{Database, DatabaseError, Result, millis};
use crate::domain::{
    BusinessId, ChatMessageId, LineId, MediaId, UnixMs,
    agent::Visibility,
    media::{FileState, GoneReason, KEPT_BY_META},
};

/// What is known about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Its id.
    pub id: MediaId,
    /// The business that it belongs to.
    pub business: BusinessId,
    /// Where it is.
    pub state: FileState,
    /// Its type, as Meta or the caller names it.
    pub mime_type: String,
    /// Its name.
    pub filename: Option<String>,
    /// Its size in bytes, if it is stored.
    pub size: Option<u64>,
    /// Why it is gone.
    pub reason: Option<String>,
}

/// A file that an agent uploads.
#[derive(Clone, Debug)]
pub struct NewFile<'a> {
    /// Its id.
    pub id: MediaId,
    /// The business that it belongs to.
    pub business: &'a BusinessId,
    /// Its type.
    pub mime_type: &'a str,
    /// Its name.
    pub filename: Option<&'a str>,
}

/// A file that a person sent.
#[derive(Clone, Debug)]
pub struct ReceivedFile {
    /// Its id.
    pub id: MediaId,
    /// Meta's id.
    pub meta_id: String,
    /// Its type.
    pub mime_type: String,
    /// Its name.
    pub filename: Option<String>,
}

/// A file that has to be fetched from Meta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueFetch {
    /// The file.
    pub id: MediaId,
    /// The line to which it was sent.
    pub line: LineId,
    /// Meta's id.
    pub meta_id: String,
    /// Until when Meta keeps the file.
    pub until: UnixMs,
    /// How often it was tried already.
    pub failures: u32,
}

/// A file that has to be uploaded to Meta for a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueUpload {
    /// The file.
    pub id: MediaId,
    /// The line.
    pub line: LineId,
    /// Its type.
    pub mime_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// Since when a message waits for it.
    pub asked_at: UnixMs,
    /// How often it was tried already.
    pub failures: u32,
}

impl Database {
    /// The file `id`, if it belongs to one of `businesses` (`None`: of any), and is in a chat that an agent sees or in none
    /// yet.
    pub async fn file(
        &self,
        id: MediaId,
        businesses: Option<&[String]>,
        visible: Option<&Visibility>,
    ) -> Result<Option<FileRecord>> {
        let file = self.files(&[id]).await?.remove(&id);
        let is_own = |file: &FileRecord| {
            businesses.is_none_or(|own| own.iter().any(|business| business == file.business.as_str()))
        };
        let Some(file) = file.filter(is_own) else { return Ok(None) };
        let failed = DatabaseError::of("read a file");
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        let is_seen = is_seen(&mut connection, id, visible).await.map_err(&failed)?;
        Ok(is_seen.then_some(file))
    }

    /// Those of `ids` that exist.
    pub async fn files(&self, ids: &[MediaId]) -> Result<HashMap<MediaId, FileRecord>> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let rows = sqlx::query!(
            "select id, business, state, mime_type, filename, size, reason from media where id = any($1)",
            &ids
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("read files"))?;
        let files = rows.into_iter().filter_map(|row| {
            let id = row.id.parse().ok()?;
            let file = FileRecord {
                id,
                business: row.business.as_str().into(),
                state: FileState::of(row.state).unwrap_or(FileState::Gone),
                mime_type: row.mime_type,
                filename: row.filename,
                size: row.size.map(i64::unsigned_abs),
                reason: row.reason,
            };
            Some((id, file))
        });
        Ok(files.collect())
    }

    /// Announces a file that is being uploaded. Unless [`Database::file_uploaded`] follows by `until`, what there is of
    /// it is removed.
    pub async fn announce_file(&self, new: &NewFile<'_>, now: UnixMs, until: UnixMs) -> Result<()> {
        sqlx::query!(
            "insert into media (id, business, state, mime_type, filename, next_at, created_at)
             values ($1, $2, $3, $4, $5, $6, $7)",
            new.id.to_string(),
            new.business.as_str(),
            FileState::Removed.code(),
            new.mime_type,
            new.filename,
            millis(until),
            millis(now)
        )
        .execute(&self.pool)
        .await
        .map_err(DatabaseError::of("announce a file"))
        .map(drop)
    }

    /// The file is in the store. Unless a message names it by `until`, it is removed. Returns false if it was given up.
    pub async fn file_uploaded(&self, id: MediaId, size: u64, until: UnixMs) -> Result<bool> {
        let stored = sqlx::query!(
            "update media set state = 1, size = $2, next_at = $3 where id = $1 and state = 3",
            id.to_string(),
            i64::try_from(size).unwrap_or(i64::MAX),
            millis(until)
        )
        .execute(&self.pool)
        .await
        .map_err(DatabaseError::of("store a file"))?;
        Ok(stored.rows_affected() > 0)
    }

    /// Marks at most `limit` uploads for removal that no message has named in time.
    pub async fn remove_unsent(&self, limit: usize, now: UnixMs) -> Result<()> {
        let failed = DatabaseError::of("remove unsent files");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        // A file that a message is naming is locked, and is looked at the next time.
        let ids = sqlx::query_scalar!(
            "select id from media where state = 1 and next_at > 0 and next_at <= $1 order by next_at limit $2
             for update skip locked",
            millis(now),
            i64::try_from(limit).unwrap_or(i64::MAX)
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        if ids.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "with looked as (select id, exists (select from chat_media where media = id) as is_sent from media
                where id = any($1))
             update media set next_at = 0, state = case when is_sent then 1 else 3 end,
                filename = case when is_sent then filename end
             from looked where media.id = looked.id",
            &ids
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }

    /// The file was fetched into the store. Returns false if it is not wanted any more.
    pub async fn file_fetched(&self, id: MediaId, size: u64) -> Result<bool> {
        self.end_fetch(id, FileState::Stored, Some(size), None).await
    }

    /// Stores how a fetch ended, for which the message of the file counts as changed. Returns false if the file is not
    /// wanted any more.
    async fn end_fetch(
        &self,
        id: MediaId,
        state: FileState,
        size: Option<u64>,
        reason: Option<GoneReason>,
    ) -> Result<bool> {
        let failed = DatabaseError::of("store how a fetch ended");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        touch_message(&mut transaction, id).await.map_err(&failed)?;
        let stored = sqlx::query!(
            "update media set state = $2, size = $3, reason = $4, next_at = 0 where id = $1 and state = 0",
            id.to_string(),
            state.code(),
            size.map(|size| i64::try_from(size).unwrap_or(i64::MAX)),
            reason.map(GoneReason::name)
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(stored.rows_affected() > 0)
    }

    /// At most `limit` files that people sent to `lines` and that have to be fetched. They are the caller's until
    /// `until`.
    pub async fn claim_fetches(
        &self,
        lines: &[LineId],
        limit: usize,
        now: UnixMs,
        until: UnixMs,
    ) -> Result<Vec<DueFetch>> {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let rows = sqlx::query!(
            r#"update media set next_at = $3 where id in (
                select id from media where state = 0 and next_at <= $2 and line = any($1)
                order by next_at limit $4 for update skip locked)
             returning id, line as "line!", meta_id as "meta_id!", failures, created_at"#,
            &lines,
            millis(now),
            millis(until),
            i64::try_from(limit).unwrap_or(i64::MAX)
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("find files to fetch"))?;
        let fetches = rows.into_iter().filter_map(|row| {
            Some(DueFetch {
                id: row.id.parse().ok()?,
                line: row.line.as_str().into(),
                meta_id: row.meta_id,
                until: UnixMs(row.created_at.unsigned_abs()).after(KEPT_BY_META),
                failures: row.failures.unsigned_abs(),
            })
        });
        Ok(fetches.collect())
    }

    /// A file that is being fetched stays the caller's until `until`. Returns false if it is not wanted any more.
    pub async fn keep_fetch(&self, id: MediaId, until: UnixMs) -> Result<bool> {
        let kept =
            sqlx::query!("update media set next_at = $2 where id = $1 and state = 0", id.to_string(), millis(until))
                .execute(&self.pool)
                .await
                .map_err(DatabaseError::of("keep a file"))?;
        Ok(kept.rows_affected() > 0)
    }

    /// A file could not be fetched. It is tried again at `next_at`.
    pub async fn retry_fetch(&self, id: MediaId, next_at: UnixMs) -> Result<()> {
        sqlx::query!(
            "update media set failures = failures + 1, next_at = $2 where id = $1 and state = 0",
            id.to_string(),
            millis(next_at)
        )
        .execute(&self.pool)
        .await
        .map_err(DatabaseError::of("retry a file"))
        .map(drop)
    }

    /// A file cannot be fetched.
    pub async fn give_up_fetch(&self, id: MediaId, reason: GoneReason) -> Result<()> {
        self.end_fetch(id, FileState::Gone, None, Some(reason)).await.map(drop)
    }

    /// At most `limit` files that have to be uploaded to Meta for `lines`. They are the caller's until `until`.
    pub async fn claim_uploads(
        &self,
        lines: &[LineId],
        limit: usize,
        now: UnixMs,
        until: UnixMs,
    ) -> Result<Vec<DueUpload>> {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let rows = sqlx::query!(
            "update line_media set next_at = $3 where (media, line) in (
                select media, line from line_media where meta_id is null and next_at <= $2 and line = any($1)
                order by next_at limit $4 for update skip locked)
             returning media, line, failures, asked_at, (select mime_type from media where id = line_media.media),
                (select size from media where id = line_media.media)",
            &lines,
            millis(now),
            millis(until),
            i64::try_from(limit).unwrap_or(i64::MAX)
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("find files to upload"))?;
        let uploads = rows.into_iter().filter_map(|row| {
            Some(DueUpload {
                id: row.media.parse().ok()?,
                line: row.line.as_str().into(),
                // A file that was removed has none, and cannot be read.
                mime_type: row.mime_type.unwrap_or_default(),
                size: row.size.unwrap_or_default().unsigned_abs(),
                asked_at: UnixMs(row.asked_at.unsigned_abs()),
                failures: row.failures.unsigned_abs(),
            })
        });
        Ok(uploads.collect())
    }

    /// An upload stays the caller's until `until`. Returns false if it is not wanted any more.
    pub async fn keep_upload(&self, upload: &DueUpload, until: UnixMs) -> Result<bool> {
        let kept = sqlx::query!(
            "update line_media set next_at = $3 where media = $1 and line = $2 and meta_id is null",
            upload.id.to_string(),
            upload.line.as_str(),
            millis(until)
        )
        .execute(&self.pool)
        .await
        .map_err(DatabaseError::of("keep an upload"))?;
        Ok(kept.rows_affected() > 0)
    }

    /// A file could not be uploaded. It is tried again at `next_at`.
    pub async fn retry_upload(&self, upload: &DueUpload, next_at: UnixMs) -> Result<()> {
        sqlx::query!(
            "update line_media set failures = failures + 1, next_at = $3 where media = $1 and line = $2",
            upload.id.to_string(),
            upload.line.as_str(),
            millis(next_at)
        )
        .execute(&self.pool)
        .await
        .map_err(DatabaseError::of("retry an upload"))
        .map(drop)
    }

    /// A file is at Meta under `meta_id`, which is used until `until`. The messages that waited for it can leave.
    pub async fn file_at_meta(&self, upload: &DueUpload, meta_id: &str, until: UnixMs) -> Result<()> {
        let failed = DatabaseError::of("store an upload");
        let (media, line) = (upload.id.to_string(), upload.line.as_str());
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        // First, because the row is locked by a transaction that is adding a message: this one then waits for it, and
        // finds its row in the outbox.
        sqlx::query!(
            "update line_media set meta_id = $3, until_at = $4 where media = $1 and line = $2",
            media,
            line,
            meta_id,
            millis(until)
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        sqlx::query!(
            "update outbox set media = null,
                request = jsonb_set(request #- '{message,content,media}', '{message,content,id}', to_jsonb($3::text))
             where media = $1 and line = $2",
            media,
            line,
            meta_id
        )
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }

    /// Forgets an upload that cannot succeed. Returns the messages that wait for it.
    pub async fn give_up_upload(&self, upload: &DueUpload) -> Result<Vec<ChatMessageId>> {
        let failed = DatabaseError::of("give up an upload");
        let (media, line) = (upload.id.to_string(), upload.line.as_str());
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        // First, as in `file_at_meta`. It stays the caller's: if the caller dies before the messages have failed, the
        // upload is taken up again.
        sqlx::query!("select media from line_media where media = $1 and line = $2 for update", media, line)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(&failed)?;
        let rows = sqlx::query!("select chat, message from outbox where media = $1 and line = $2", media, line)
            .fetch_all(&mut *transaction)
            .await
            .map_err(&failed)?;
        if rows.is_empty() {
            sqlx::query!("delete from line_media where media = $1 and line = $2", media, line)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(rows.into_iter().map(|row| ChatMessageId { chat: row.chat, message: row.message }).collect())
    }

    /// At most `limit` files that have to be removed from the store.
    pub async fn removed_files(&self, limit: usize, now: UnixMs) -> Result<Vec<MediaId>> {
        let ids = sqlx::query_scalar!(
            "select id from media where state = 3 and next_at <= $1 order by next_at limit $2",
            millis(now),
            i64::try_from(limit).unwrap_or(i64::MAX)
        )
        .fetch_all(&self.pool)
        .await
        .map_err(DatabaseError::of("find files to remove"))?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Forgets files that were removed from the store, unless one of them may still be written.
    pub async fn drop_files(&self, ids: &[MediaId], now: UnixMs) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        sqlx::query!(
            "with dropped as (delete from media where id = any($1) and state = 3 and next_at <= $2 returning id)
             delete from line_media using dropped where media = dropped.id and meta_id is not null",
            &ids,
            millis(now)
        )
        .execute(&self.pool)
        .await
        .map_err(DatabaseError::of("drop files"))
        .map(drop)
    }
}

/// Stores files that people sent, with their chats. They are fetched later.
pub(super) async fn add_received(
    connection: &mut PgConnection,
    line: &LineId,
    business: &BusinessId,
    files: &[(i64, &ReceivedFile)],
    now: UnixMs,
) -> sqlx::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = files.iter().map(|(_, file)| file.id.to_string()).collect();
    let mime_types: Vec<String> = files.iter().map(|(_, file)| file.mime_type.clone()).collect();
    let filenames: Vec<Option<String>> = files.iter().map(|(_, file)| file.filename.clone()).collect();
    let meta_ids: Vec<String> = files.iter().map(|(_, file)| file.meta_id.clone()).collect();
    let chats: Vec<i64> = files.iter().map(|(chat, _)| *chat).collect();
    sqlx::query!(
        "insert into media (id, business, state, mime_type, filename, line, meta_id, created_at)
         select id, $5, 0, mime_type, filename, $6, meta_id, $7
         from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as new (id, mime_type, filename, meta_id)",
        &ids,
        &mime_types,
        &filenames as &[Option<String>],
        &meta_ids,
        business.as_str(),
        line.as_str(),
        millis(now)
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into chat_media (chat, media, business)
         select chat, media, $3 from unnest($1::bigint[], $2::text[]) as new (chat, media)",
        &chats,
        &ids,
        business.as_str()
    )
    .execute(connection)
    .await
    .map(drop)
}

/// A file that a message to a contact names, locked against its removal.
pub(super) struct NamedFile {
    pub(super) state: FileState,
    pub(super) mime_type: String,
}

/// Whether a file is in a chat that an agent sees (`None`: all are), or in none yet.
pub(super) async fn is_seen(
    connection: &mut PgConnection,
    id: MediaId,
    visible: Option<&Visibility>,
) -> sqlx::Result<bool> {
    let Some(Visibility { agent, groups }) = visible else { return Ok(true) };
    sqlx::query_scalar!(
        r#"select count(*) = 0 or coalesce(bool_or(agent = $2 or group_id is null or group_id = any($3)), false)
            as "is_seen!"
         from chat_media join chats on chats.id = chat_media.chat where media = $1"#,
        id.to_string(),
        agent,
        groups
    )
    .fetch_one(connection)
    .await
}

/// The file `id` of a business.
pub(super) async fn named(
    connection: &mut PgConnection,
    business: &str,
    id: MediaId,
) -> sqlx::Result<Option<NamedFile>> {
    let row = sqlx::query!(
        "select state, mime_type from media where id = $1 and business = $2 for share",
        id.to_string(),
        business
    )
    .fetch_optional(connection)
    .await?;
    Ok(row
        .map(|row| NamedFile { state: FileState::of(row.state).unwrap_or(FileState::Gone), mime_type: row.mime_type }))
}

/// A message of a chat on a line names a file. Returns Meta's id of the file if it is at Meta already; otherwise it is
/// uploaded.
pub(super) async fn wanted(
    connection: &mut PgConnection,
    (business, line, chat): (&str, &str, i64),
    id: MediaId,
    now: UnixMs,
) -> sqlx::Result<Option<String>> {
    let id = id.to_string();
    sqlx::query!(
        "insert into chat_media (chat, media, business) values ($1, $2, $3) on conflict do nothing",
        chat,
        id,
        business
    )
    .execute(&mut *connection)
    .await?;
    // Locks the row until the message is added, for `file_at_meta`. An id that has expired is replaced.
    sqlx::query_scalar!(
        "insert into line_media (media, line, business, next_at, asked_at) values ($1, $2, $3, $4, $4)
         on conflict (media, line) do update set
            meta_id = case when line_media.until_at > $4 then line_media.meta_id end,
            failures = case when line_media.until_at <= $4 then 0 else line_media.failures end,
            asked_at = case when line_media.meta_id is null then line_media.asked_at else $4 end
         returning meta_id",
        id,
        line,
        business,
        millis(now)
    )
    .fetch_one(connection)
    .await
}

/// Removes the files of chats that are in no other chat. Returns them.
pub(super) async fn remove_of_chats(transaction: &mut PgTransaction<'_>, chats: &[i64]) -> sqlx::Result<Vec<MediaId>> {
    let media = sqlx::query_scalar!("delete from chat_media where chat = any($1) returning media", chats)
        .fetch_all(&mut **transaction)
        .await?;
    // A message of another chat that is being written holds its file: it is waited for, and seen by the next statement.
    sqlx::query!("select id from media where id = any($1) order by id for update", &media)
        .fetch_all(&mut **transaction)
        .await?;
    let removed = sqlx::query_scalar!(
        "update media set state = 3, filename = null, meta_id = null
         where id = any($1) and not exists (select from chat_media where chat_media.media = media.id) returning id",
        &media
    )
    .fetch_all(&mut **transaction)
    .await?;
    Ok(removed.iter().filter_map(|id| id.parse().ok()).collect())
}

/// Removes the files that people sent before a time, whose messages are gone.
pub(super) async fn remove_received(connection: &mut PgConnection, before: UnixMs) -> sqlx::Result<()> {
    sqlx::query!(
        "with removed as (
            update media set state = 3, filename = null, meta_id = null
            where line is not null and created_at < $1 and state <> 3 returning id)
         delete from chat_media using removed where chat_media.media = removed.id",
        millis(before)
    )
    .execute(connection)
    .await
    .map(drop)
}

/// The message of a file that a person sent counts as changed, and its chat, which is locked before it.
async fn touch_message(transaction: &mut PgTransaction<'_>, id: MediaId) -> sqlx::Result<()> {
    let id = id.to_string();
    loop {
        let touched = sqlx::query_scalar!(
            "with locked as (
                select id from chats where id in (select chat from chat_media where media = $1) order by id for update)
             update chats set changed = default from locked where chats.id = locked.id returning chats.id",
            id
        )
        .fetch_all(&mut **transaction)
        .await?;
        // A chat that became part of another one while its lock was awaited has passed the file on.
        let is_elsewhere = sqlx::query_scalar!(
            r#"select exists (select from chat_media join chats on chats.id = chat
                where media = $1 and chat <> all($2)) as "is_elsewhere!""#,
            id,
            &touched
        );
        if !is_elsewhere.fetch_one(&mut **transaction).await? {
            // No message is older than its file.
            return sqlx::query!(
                "update messages set changed = default from media
                 where media.id = $1 and chat = any($2) and messages.id >= media.created_at * 1000
                    and received_file(body) = $1",
                id,
                &touched
            )
            .execute(&mut **transaction)
            .await
            .map(drop);
        }
    }
}

/// Removes the files of messages that their author has deleted.
pub(super) async fn remove_of_messages(connection: &mut PgConnection, messages: &[ChatMessageId]) -> sqlx::Result<()> {
    let (chats, messages): (Vec<i64>, Vec<i64>) = messages.iter().map(|id| (id.chat, id.message)).unzip();
    sqlx::query!(
        "update media set state = 3, filename = null, meta_id = null from messages
         where media.id = received_file(body)
            and (chat, messages.id) in (select * from unnest($1::bigint[], $2::bigint[]))",
        &chats,
        &messages
    )
    .execute(connection)
    .await
    .map(drop)
}

/// The files of the chat `from` are in the chat `to` from now on.
pub(super) async fn move_files(connection: &mut PgConnection, from: i64, to: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "with moved as (delete from chat_media where chat = $1 returning media, business)
         insert into chat_media (chat, media, business) select $2, media, business from moved on conflict do nothing",
        from,
        to
    )
    .execute(connection)
    .await
    .map(drop)
}
