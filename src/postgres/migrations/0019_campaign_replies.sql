-- The chats in which people answered a campaign, and what became of them. Stays when a chat is deleted, as it names nobody.
create table campaign_chats (
    campaign bytea not null,
    chat bigint not null,
    business text not null,
    -- Whether the answer opened the chat.
    opened boolean not null,
    -- Whether an agent has got the chat since the answer, and whether somebody has answered it.
    assigned boolean not null,
    attended boolean not null,
    primary key (campaign, chat)
);
create index campaign_chats_by_chat on campaign_chats (chat);

create function note_campaign_chat() returns trigger language plpgsql as $$
begin
    update campaign_chats set assigned = assigned or new.owner = 2, attended = attended or new.attended
    where chat = new.id and not (assigned and attended);
    return null;
end
$$;
create trigger chats_note_campaign after update on chats for each row
    when (new.owner = 2 and old.owner <> 2 or new.attended and not old.attended)
    execute function note_campaign_chat();
