-- How often people were forgotten since the row exists. A reader that has messages in memory reads them again if it rises.
alter table line_readers add column forgotten bigint not null default 0;

-- The messages to contacts that were written in a chat that is now part of another one. What becomes of them is reported
-- under the chat and the id that they had.
create table merged_messages (
    chat bigint not null,
    message bigint not null,
    business text not null,
    into_chat bigint not null,
    into_message bigint not null,
    primary key (chat, message)
);
create index merged_messages_into on merged_messages (into_chat, into_message);
