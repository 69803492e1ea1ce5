#!/usr/bin/env python3
"""Keeps a table with the newest state of every recipient, from the event feed in Redis, by a consumer group.

    REDIS_URL=redis://127.0.0.1:6379 examples/events_redis.py   # follows the feed until it is stopped
    examples/events_redis.py --report CAMPAIGN                  # prints how many recipients are in each state

Several consumers can share the work and the table: give each a name in PREGON_CONSUMER. Entries of a consumer that
died are taken over by the others. Stop it, kill it, or restart Redis at any time.
Several consumers finish entries in any order, so an event counts if it is newer in the stream than what the table has.
Needs Python 3.9 or newer and the package redis.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import sys
import time
from typing import Iterator

import redis
from redis import exceptions

URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
# With feed.partitions above 1 there are several streams: run one consumer for each.
STREAM = os.environ.get("PREGON_STREAM", "pregon:events")
GROUP = os.environ.get("PREGON_GROUP", "example")
# A restarted consumer with the same name first finishes the entries that it had received.
CONSUMER = os.environ.get("PREGON_CONSUMER", socket.gethostname())
# Entries that a consumer has held for this long without finishing them are taken over.
DEAD_AFTER_MS = int(os.environ.get("PREGON_DEAD_AFTER_MS", "60000"))
DATABASE = os.environ.get("PREGON_EVENTS_DB", "events-redis.db")

BATCH = 100
BLOCK_MS = 5000

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS recipients (
    recipient TEXT PRIMARY KEY, campaign TEXT NOT NULL, state TEXT NOT NULL, code INTEGER, at TEXT NOT NULL,
    entry_ms INTEGER NOT NULL, entry_number INTEGER NOT NULL -- the position in the stream
);
"""

UPSERT = """
INSERT INTO recipients VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (recipient) DO UPDATE
SET state = excluded.state, code = excluded.code, at = excluded.at,
    entry_ms = excluded.entry_ms, entry_number = excluded.entry_number
WHERE (excluded.entry_ms, excluded.entry_number) > (entry_ms, entry_number)
"""

Entry = tuple[str, dict]


def follow(database: sqlite3.Connection) -> None:
    # Longer than the time for which a read blocks, so that only a dead connection times out.
    server = redis.Redis.from_url(URL, decode_responses=True, socket_timeout=2 * BLOCK_MS / 1000)
    while True:
        try:
            create_group(server)
            for entries in batches(server):
                # In this order: a crash in between repeats the entries, which has no effect.
                store(database, entries)
                server.xack(STREAM, GROUP, *[entry for entry, _ in entries])
        except exceptions.AuthenticationError as error:
            sys.exit(f"error: {error}")
        except (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError) as error:
            print(f"{URL}: {error}", file=sys.stderr)
            time.sleep(1)
        except exceptions.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                sys.exit(f"error: {error}")


def create_group(server: redis.Redis) -> None:
    """Creates the group at the oldest entry. If Redis lost the group, the entries are read again."""
    try:
        server.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    except exceptions.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


def batches(server: redis.Redis) -> Iterator[list[Entry]]:
    """Entries to finish: first those that this consumer had received, then those of dead consumers, and new ones."""
    while entries := read(server, "0"):
        yield entries
    claim_at = time.monotonic()
    while True:
        if time.monotonic() >= claim_at:
            yield from taken_over(server)
            claim_at = time.monotonic() + DEAD_AFTER_MS / 1000
        warn_of_gap(server)
        if entries := read(server, ">"):
            yield entries


def read(server: redis.Redis, after: str) -> list[Entry]:
    reply = server.xreadgroup(GROUP, CONSUMER, {STREAM: after}, count=BATCH, block=min(BLOCK_MS, DEAD_AFTER_MS))
    return reply[0][1] if reply else []


def taken_over(server: redis.Redis) -> Iterator[list[Entry]]:
    start = "0-0"
    while True:
        start, entries, removed = server.xautoclaim(STREAM, GROUP, CONSUMER, DEAD_AFTER_MS, start, count=BATCH)
        if entries:
            yield entries
        if removed:
            print(f"warning: {len(removed)} events were removed before they were finished", file=sys.stderr)
        if start == "0-0":
            return


def warn_of_gap(server: redis.Redis) -> None:
    """Entries are numbered by the second half of their ids, so a number left out shows that entries were removed."""
    oldest = server.xrange(STREAM, count=1)
    group = next(group for group in server.xinfo_groups(STREAM) if group["name"] == GROUP)
    delivered = group["last-delivered-id"]
    if oldest and delivered != "0-0" and number(oldest[0][0]) > number(delivered) + 1:
        # To repair the table, read report.csv of the campaigns that ran since.
        print(f"warning: events after {delivered} and before {oldest[0][0]} are missed", file=sys.stderr)


def number(entry: str) -> int:
    return int(entry.split("-")[1])


def store(database: sqlite3.Connection, entries: list[Entry]) -> None:
    with database:  # one transaction
        for entry, fields in entries:
            if not fields:
                print(f"warning: the event {entry} was removed before it was finished", file=sys.stderr)
                continue
            event = json.loads(fields["event"])
            kind, _, state = event["type"].partition(".")
            if kind == "recipient":
                ms = int(entry.split("-")[0])
                row = (event["recipient"], event["campaign"], state, event.get("code"), event["at"], ms, number(entry))
                database.execute(UPSERT, row)


def report(database: sqlite3.Connection, campaign: str) -> None:
    counts = "SELECT state, count(*) FROM recipients WHERE campaign = ? GROUP BY state ORDER BY state"
    for state, n in database.execute(counts, [campaign]):
        print(state, n)


def main() -> None:
    # Several consumers write to the table in turn.
    database = sqlite3.connect(DATABASE, timeout=60)
    database.executescript(SCHEMA)
    if sys.argv[1:2] == ["--report"] and len(sys.argv) == 3:
        report(database, sys.argv[2])
    elif len(sys.argv) == 1:
        follow(database)
    else:
        sys.exit("usage: events_redis.py [--report CAMPAIGN]")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
