-- What changes, for those who follow the chats: the transaction that wrote a row last. Null: it was before this migration.
alter table chats add column changed xid8;
alter table chats alter column changed set default pg_current_xact_id();
create index chats_by_change on chats (changed);

-- A transaction that changes a message updates its chat too.
alter table messages add column changed xid8;
alter table messages alter column changed set default pg_current_xact_id();

create function note_change() returns trigger language plpgsql as $$
begin
    new.changed := pg_current_xact_id();
    return new;
end
$$;
create trigger chats_change before update on chats for each row execute function note_change();
create trigger messages_change before update on messages for each row execute function note_change();
