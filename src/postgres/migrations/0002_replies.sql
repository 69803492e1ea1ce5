-- What is written to the contacts. A message to a contact and its row in `outbox` are inserted together.

-- Messages that the lane of their line has not finished. `request` is what is sent, as JSON. `until_at`: free text must
-- leave before that. A read mark or a typing indicator has a negative id and no row in `messages`.
create table outbox (
    line text not null,
    message bigint not null,
    chat bigint not null,
    business text not null,
    request jsonb not null,
    until_at bigint,
    primary key (line, message, chat)
);

-- The ids by which callers repeat a request without writing a message twice.
create table client_ids (
    chat bigint not null,
    client_id text not null,
    business text not null,
    message bigint not null,
    primary key (chat, client_id)
);
