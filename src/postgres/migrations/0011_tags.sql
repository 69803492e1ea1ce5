-- Tags of chats, and texts that agents write often.
create table tags (
    business text not null,
    id text not null,
    name text not null,
    -- `#rrggbb`
    colour text not null,
    -- When it is set and removed by itself, as JSON: docs/api.md.
    rules jsonb not null,
    created_at bigint not null,
    primary key (business, id)
);

alter table chats
    add column tags text[] not null default '{}',
    -- Whether somebody has answered what the contact wrote last.
    add column attended boolean not null default false;
create index chats_by_tag on chats using gin (tags) where tags <> '{}';
create index chats_waiting on chats (business, last_message) where waiting_since_at is not null;

create table canned_replies (
    id text primary key,
    business text not null,
    -- What an agent types to find it.
    shortcut text not null,
    title text not null,
    body text not null,
    -- Whose it is. Null: that of every agent of the business.
    group_id text,
    created_at bigint not null,
    unique (business, shortcut)
);
