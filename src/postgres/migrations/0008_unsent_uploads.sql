-- The `next_at` of a file that an agent uploaded: when to look whether a message has named it. 0: it was looked at.
update media set next_at = created_at + 86400000 where state = 1 and line is null;
create index media_unsent on media (next_at) where state = 1 and next_at > 0;

-- The file that a contact sent, or the business in the WhatsApp Business app, by the body of the message.
create function received_file(body jsonb) returns text language sql immutable parallel safe as $$
    select coalesce(body #>> '{content,media,media}', body #>> '{content,edit,content,media,media}',
        body #>> '{content,echo,content,media,media}')
$$;

-- The message that an edit changes: Meta's id.
create function edited_message(body jsonb) returns text language sql immutable parallel safe as $$
    select coalesce(body #>> '{content,edit,original}', body #>> '{content,echo,content,edit,original}')
$$;
