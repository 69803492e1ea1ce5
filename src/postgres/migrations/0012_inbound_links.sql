-- Opening texts of links: who sends one to its line opens a chat for its group, with its tags.
create table inbound_links (
    id text primary key,
    business text not null,
    line text not null,
    name text not null,
    -- What people send.
    opening text not null,
    -- Null: the chat is that of every agent of the business.
    group_id text,
    tags text[] not null,
    -- How many chats it has opened.
    opened bigint not null default 0,
    created_at bigint not null
);
create index inbound_links_by_line on inbound_links (line);
