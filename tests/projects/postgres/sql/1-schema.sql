create table products (
    id integer generated always as identity primary key,
    name text not null unique,
    price numeric(8, 2) not null check (price > 0)
);

create table visits (
    id bigint generated always as identity primary key,
    seen timestamptz not null default now()
);
