-- Orders in which chats are listed, whatever is asked for.
create index chats_by_recency on chats (last_message, id);
create index chats_by_line on chats (line, last_message);
create index chats_by_inbound on chats (business, last_inbound_at) where owner > 0;
