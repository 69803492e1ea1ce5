#!/bin/sh
# Writes .sqlx: the types of the parameters and columns of every query in src/postgres, as PostgreSQL reports them. Starts
# a server of its own for that, as the user `postgres` if the caller is root.
set -eu
for bin in /usr/lib/postgresql/*/bin; do PATH="$PATH:$bin"; done

dir=$(mktemp -d)
as_user() { "$@"; }
if [ "$(id -u)" -eq 0 ]; then
    chown postgres "$dir"
    as_user() { (cd "$dir" && exec setpriv --reuid postgres --regid postgres --init-groups "$@"); }
fi
trap 'as_user pg_ctl -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$dir"' EXIT INT TERM
as_user initdb --username pregon --auth trust --encoding UTF8 --locale C.UTF-8 --pgdata "$dir/data" >/dev/null
as_user pg_ctl -D "$dir/data" -o "-k $dir -c listen_addresses= -c fsync=off" -l "$dir/log" -w start >/dev/null
for migration in src/postgres/migrations/*.sql; do
    as_user psql --host "$dir" --username pregon --quiet --set ON_ERROR_STOP=1 postgres <"$migration"
done

rm -rf .sqlx && mkdir .sqlx
# The macros only run when the crate is compiled.
touch src/lib.rs
SQLX_OFFLINE_DIR="$PWD/.sqlx" DATABASE_URL="postgres://pregon@localhost/postgres?host=$dir" ${CARGO:-cargo} check --locked
