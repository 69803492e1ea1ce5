-- People who answer chats, their groups and sessions. role: 1 agent, 2 manager, 3 admin. presence: 0 offline, 1 away,
-- 2 available. The id is in `chats.agent`, where the names of API keys are too.
create table agents (
    id text primary key,
    business text not null,
    -- In lower case. Null: the agent was removed.
    email text unique,
    name text not null,
    role smallint not null,
    capacity integer not null,
    presence smallint not null default 0,
    -- When the agent's console was last heard of.
    seen_at bigint not null default 0,
    -- When the agent was last assigned a chat.
    assigned_at bigint not null default 0,
    -- Argon2id, as a PHC string.
    password text,
    -- Logins with a wrong password in a row, and the time of the last one.
    failures integer not null default 0,
    failed_at bigint not null default 0,
    -- The SHA-256 of the token by which a password is set once, and until when.
    invitation bytea unique,
    invitation_until_at bigint,
    created_at bigint not null,
    removed_at bigint
);
create index agents_by_business on agents (business, id);

create table agent_groups (
    business text not null,
    id text not null,
    name text not null,
    created_at bigint not null,
    primary key (business, id)
);

create table agent_group_members (
    business text not null,
    group_id text not null,
    agent text not null references agents on delete cascade,
    primary key (business, group_id, agent),
    foreign key (business, group_id) references agent_groups on delete cascade
);
create index agent_group_members_by_agent on agent_group_members (agent);

create table sessions (
    -- The SHA-256 of the token in the cookie.
    digest bytea primary key,
    business text not null,
    agent text not null references agents on delete cascade,
    created_at bigint not null,
    seen_at bigint not null
);
create index sessions_by_agent on sessions (agent);

alter table chats
    -- Whose chat it is. Null: that of every agent of the business.
    add column group_id text,
    -- Whose chat it was before; empty: that of every agent. Null: it was never moved.
    add column last_group text,
    -- Since when the contact waits for an answer.
    add column waiting_since_at bigint,
    -- Until then the chat asks nobody for attention.
    add column snoozed_until_at bigint,
    -- Who was in charge before, since when not, and whether others are to get it first.
    add column last_agent text,
    add column last_agent_at bigint,
    add column avoids_last_agent boolean not null default false;
create index chats_by_agent on chats (agent, last_message) where agent is not null;
create index chats_by_group on chats (business, group_id, last_message);
-- In the order in which the chats of the queue are assigned.
create index chats_queue on chats (business, coalesce(waiting_since_at, owner_since_at), id) where owner = 1;
create index chats_unanswered on chats (owner_since_at) where owner = 2 and waiting_since_at is not null;
create index chats_snoozed on chats (snoozed_until_at) where snoozed_until_at is not null;
