-- Files of chats, in the store of `media.url`, each under its id.

-- state: 0 still at Meta, 1 stored, 2 gone (`reason` says why), 3 to be removed from the store.
create table media (
    id text primary key,
    business text not null,
    state smallint not null,
    mime_type text not null,
    filename text,
    size bigint,
    reason text,
    -- Of a file that a contact sent: the line, and Meta's id.
    line text,
    meta_id text,
    failures integer not null default 0,
    -- When it is fetched or removed next. Whoever works on it moves this into the future, and so keeps others away.
    next_at bigint not null default 0,
    created_at bigint not null
);
create index media_due on media (state, next_at) where state in (0, 3);

-- The chats in which a file is. A file is removed with the last of them.
create table chat_media (
    chat bigint not null,
    media text not null,
    business text not null,
    primary key (chat, media)
);
create index chat_media_by_media on chat_media (media);

-- Files that agents send, at Meta: once for each line. meta_id is null until the file is uploaded.
create table line_media (
    media text not null,
    line text not null,
    business text not null,
    meta_id text,
    -- Until when Meta knows the id.
    until_at bigint,
    failures integer not null default 0,
    next_at bigint not null,
    asked_at bigint not null,
    primary key (media, line)
);
create index line_media_due on line_media (next_at) where meta_id is null;

-- The file that has to be at Meta before the message can leave, and until then the later ones of its chat.
alter table outbox add column media text;
create index outbox_media on outbox (line, chat, message) where media is not null;
