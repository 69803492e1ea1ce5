-- What a business and its contacts had to do with each other: counters, and the conversations of their chats.

-- What became of the messages of campaigns, as the event feed tells it. fate: 1 not sent, 2 failed, 3 received. A
-- message that is on its way has no row.
create table campaign_results (
    campaign bytea not null,
    part integer not null,
    row integer not null,
    send smallint not null,
    business text not null,
    contact bigint not null,
    line text not null,
    fate smallint not null,
    at bigint not null,
    primary key (campaign, part, row, send)
);
create index campaign_results_by_contact on campaign_results (contact, line, at);

-- What follows from the messages of chats and the results of campaigns. opened_by: 1 the contact, 2 the business. ending:
-- 1 closed, 2 finished, both by an agent; null: after 24 hours.
create table conversations (
    contact bigint not null,
    line text not null,
    opened_at bigint not null,
    business text not null,
    opened_by smallint not null,
    campaign bytea,
    ended_at bigint,
    ending smallint,
    primary key (contact, line, opened_at)
);
create index conversations_by_time on conversations (business, opened_at, contact, line);
create index conversations_by_line on conversations (line, opened_at, contact);
create index conversations_by_campaign on conversations (campaign, opened_at, contact, line) where campaign is not null;

create table contact_statistics (
    contact bigint primary key references contacts on delete cascade,
    business text not null,
    -- 0: never.
    last_interaction_at bigint not null default 0,
    conversations_by_client integer not null default 0,
    conversations_by_business integer not null default 0,
    cancelled integer not null default 0,
    received integer not null default 0,
    replies integer not null default 0,
    failures integer not null default 0,
    -- Whether everything that was stored before is counted.
    is_counted boolean not null default true
);
insert into contact_statistics (contact, business, is_counted) select id, business, false from contacts;
create index statistics_to_count on contact_statistics (contact) where not is_counted;
create index statistics_by_last_interaction on contact_statistics (business, last_interaction_at, contact);
create index statistics_by_client on contact_statistics (business, conversations_by_client, contact);
create index statistics_by_business on contact_statistics (business, conversations_by_business, contact);
create index statistics_by_cancelled on contact_statistics (business, cancelled, contact);
create index statistics_by_received on contact_statistics (business, received, contact);
create index statistics_by_replies on contact_statistics (business, replies, contact);
create index statistics_by_failures on contact_statistics (business, failures, contact);

create function begin_statistics() returns trigger language plpgsql as $$
begin
    insert into contact_statistics (contact, business) select id, business from new_contacts;
    return null;
end
$$;
create trigger contacts_begin_statistics after insert on contacts referencing new table as new_contacts
    for each statement execute function begin_statistics();

create function forget_statistics() returns trigger language plpgsql as $$
begin
    delete from campaign_results where contact in (select id from old_contacts);
    delete from conversations where contact in (select id from old_contacts);
    return null;
end
$$;
create trigger contacts_forget_statistics after delete on contacts referencing old table as old_contacts
    for each statement execute function forget_statistics();

-- How far the event feed is read.
create table feed_readers (
    reader text primary key,
    position text not null
);
