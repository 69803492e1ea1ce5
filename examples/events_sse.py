#!/usr/bin/env python3
"""Keeps a table with the newest state of every recipient, from the event feed over HTTP.

    PREGON_API_KEY=... examples/events_sse.py                     # follows the feed until it is stopped
    PREGON_API_KEY=... examples/events_sse.py --report CAMPAIGN   # prints how many recipients are in each state

Stop it, kill it, or restart the server at any time: it continues where the table is.
Events of a recipient come in order. Some can come again, up to the newest one, so the last event always wins.
A refused call ends the program with a message and exit code 1. Needs Python 3.9 or newer, no packages.
"""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from typing import Iterable, Iterator

URL = os.environ.get("PREGON_SERVER", "http://127.0.0.1:8080")
KEY = os.environ.get("PREGON_API_KEY") or sys.exit("error: set PREGON_API_KEY to a key of http.api_keys")
DATABASE = os.environ.get("PREGON_EVENTS_DB", "events-sse.db")

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS recipients (
    recipient TEXT PRIMARY KEY, campaign TEXT NOT NULL, state TEXT NOT NULL, code INTEGER, at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL);
"""


def follow(database: sqlite3.Connection) -> None:
    wait_s = 1
    while True:
        try:
            with connect(database) as stream:
                for position, data in blocks(stream):
                    store(database, position, data)
                    wait_s = 1
            print(f"{URL} ended the stream", file=sys.stderr)
        except urllib.error.HTTPError as error:
            if error.code not in (408, 429, 500, 502, 503, 504):
                sys.exit(f"error: {refusal(error)}")
            print(refusal(error), file=sys.stderr)
        except (OSError, http.client.HTTPException) as error:
            print(f"{URL}: {error}", file=sys.stderr)
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, 30)


def connect(database: sqlite3.Connection) -> http.client.HTTPResponse:
    stored = database.execute("SELECT id FROM position").fetchone()
    request = urllib.request.Request(f"{URL}/v1/events")
    request.add_header("Authorization", f"Bearer {KEY}")
    # 0 is the oldest event that the server still has.
    request.add_header("Last-Event-ID", stored[0] if stored else "0")
    # The server sends a comment every 15 seconds, so a stream that is silent for longer is broken.
    return urllib.request.urlopen(request, timeout=60)


def blocks(stream: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """The position and the data of each block of the stream. A position without an event has empty data."""
    position, data = "", ""
    for line in stream:
        field, _, value = line.decode().rstrip("\r\n").partition(": ")
        if field == "id":
            position = value
        elif field == "data":
            data += value
        elif field == "" and position:
            yield position, data
            position, data = "", ""


def store(database: sqlite3.Connection, position: str, data: str) -> None:
    """Applies an event and moves the position in one transaction: a crash undoes both or neither."""
    with database:
        if data:
            apply(database, json.loads(data))
        database.execute("REPLACE INTO position VALUES (1, ?)", [position])


def apply(database: sqlite3.Connection, event: dict) -> None:
    kind, _, state = event["type"].partition(".")
    if kind == "recipient":
        row = (event["recipient"], event["campaign"], state, event.get("code"), event["at"])
        database.execute("REPLACE INTO recipients VALUES (?, ?, ?, ?, ?)", row)
    elif event["type"] == "feed.gap":
        # To repair the table, read report.csv of the campaigns that ran since.
        print(f"warning: events after {event['after']} and before {event['next']} are missed", file=sys.stderr)


def refusal(error: urllib.error.HTTPError) -> str:
    is_problem = error.headers.get_content_type() == "application/problem+json"
    return "{title}: {detail}".format(**json.load(error)) if is_problem else str(error)


def report(database: sqlite3.Connection, campaign: str) -> None:
    counts = "SELECT state, count(*) FROM recipients WHERE campaign = ? GROUP BY state ORDER BY state"
    for state, n in database.execute(counts, [campaign]):
        print(state, n)


def main() -> None:
    database = sqlite3.connect(DATABASE)
    database.executescript(SCHEMA)
    if sys.argv[1:2] == ["--report"] and len(sys.argv) == 3:
        report(database, sys.argv[2])
    elif len(sys.argv) == 1:
        follow(database)
    else:
        sys.exit("usage: events_sse.py [--report CAMPAIGN]")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
