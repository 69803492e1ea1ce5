-- What a business knows about its contacts.
create table properties (
    business text not null,
    key text not null,
    label text not null,
    -- 1 text, 2 number, 3 date, 4 boolean, 5 choice, 6 email, 7 url
    kind smallint not null,
    -- Of a choice.
    choices text[] not null default '{}',
    created_at bigint not null,
    primary key (business, key)
);

alter table contacts
    -- The values of properties, each in its canonical form.
    add column properties jsonb not null default '{}',
    add column tags text[] not null default '{}',
    -- Whether somebody gave the name, which the profile does not change any more.
    add column is_named boolean not null default false;
create index contacts_by_creation on contacts (business, created_at, id);
create index contacts_by_name on contacts (business, coalesce(name, ''), id);
create index contacts_by_property on contacts using gin (properties jsonb_path_ops) where properties <> '{}';
create index contacts_by_tag on contacts using gin (tags) where tags <> '{}';
