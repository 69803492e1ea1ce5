-- The words of messages and contacts, for the search in the list of chats.

-- In lower case, without the accents of Spanish and Portuguese, and with spaces for what joins words.
create function folded(value text) returns text language sql immutable parallel safe
return translate(
    lower(value),
    'áàâãäéèêëíìîïóòôõöúùûüñçÁÀÂÃÄÉÈÊËÍÌÎÏÓÒÔÕÖÚÙÛÜÑÇ.-_@/+''',
    'aaaaaeeeeiiiiooooouuuuncaaaaaeeeeiiiiooooouuuunc       '
);

-- The words of a text or a caption, of what was chosen, and of a note.
create function message_words(body jsonb) returns tsvector language sql immutable parallel safe
return to_tsvector('simple', folded(coalesce(
    body #>> '{content,text}', body #>> '{content,body}', body #>> '{content,media,caption}', body #>> '{content,caption}',
    body #>> '{content,button_reply,title}', body #>> '{content,list_reply,title}', body #>> '{content,tap,text}',
    body #>> '{content,edit,content,text}', body #>> '{content,echo,content,text}', body #>> '{text}'
)));

create function contact_words(name text, username text, number bigint) returns tsvector
language sql immutable parallel safe
return to_tsvector('simple', folded(
    coalesce(name, '') || ' ' || coalesce(username, '') || ' ' || coalesce(number::text, '')
));

-- Activities have no words.
create index messages_words on messages using gin (message_words(body)) where kind <> 4;
create index contacts_words on contacts using gin (contact_words(name, username, number));
