-- Who the agent is at the provider of logins: its `sub`, since the first login there.
alter table agents add column oidc_subject text;

-- Logins at the provider that have begun. Each can end once.
create table oidc_logins (
    -- The SHA-256 of the token in the browser's cookie.
    digest bytea primary key,
    created_at bigint not null
);

-- What changes, for those who follow the agents: the transaction that wrote it last. Null: it was before this migration.
-- When an agent was heard of or assigned a chat is no change.
alter table agents add column changed xid8;
alter table agents alter column changed set default pg_current_xact_id();
create index agents_by_change on agents (changed);
create trigger agents_change before update on agents for each row
    when (old.presence <> new.presence or old.removed_at is distinct from new.removed_at)
    execute function note_change();
