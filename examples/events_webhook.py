#!/usr/bin/env python3
"""Receives events as signed webhooks, and keeps the state of every recipient in a table.

    PREGON_WEBHOOK_SECRET=whsec_... examples/events_webhook.py
    examples/events_webhook.py --report CAMPAIGN

Each webhook is one transaction, so it is in the table before it is answered, or it is delivered again. The last event of
a recipient wins: Pregón delivers in order, and a repeat starts at an earlier event and goes on to the newest. So this
program and Pregón may be killed and restarted at any time.

--report prints how many recipients of a campaign are in each state.
Needs Python 3.9 or newer and the package standardwebhooks: pip install standardwebhooks
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

TABLE = """
    create table if not exists recipients (
        recipient text primary key, campaign text not null, state text not null, code integer, at text not null
    )
"""
PREFIX = "recipient."
BODY_BYTES_MAX = 16 << 20


def database() -> sqlite3.Connection:
    connection = sqlite3.connect(os.environ.get("PREGON_EVENTS_DB", "events-webhook.db"))
    connection.execute(TABLE)
    return connection


def store(connection: sqlite3.Connection, events: list[dict]) -> None:
    """Stores the states that the events tell of, as a whole."""
    rows = [
        (event["recipient"], event["campaign"], event["type"][len(PREFIX) :], event.get("code"), event["at"])
        for event in events
        if event["type"].startswith(PREFIX)
    ]
    with connection:
        connection.executemany("insert or replace into recipients values (?, ?, ?, ?, ?)", rows)
    for event in events:
        if event["type"] == "feed.gap":
            print("events were removed before they were delivered:", event, file=sys.stderr, flush=True)


class Receiver(BaseHTTPRequestHandler):
    # A client that sends nothing is disconnected, because the server answers one request at a time.
    timeout = 20
    webhook: Webhook
    table: sqlite3.Connection

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if length > BODY_BYTES_MAX:
            return self.answer(413)
        body = self.rfile.read(length)
        try:
            # The signature covers the raw bytes, so verify it before parsing them.
            content = self.webhook.verify(body, dict(self.headers.items()))
        except (WebhookVerificationError, ValueError) as error:
            print("refused:", error, file=sys.stderr, flush=True)
            return self.answer(401)
        # With `batch` above 1, a webhook is a list of events.
        store(self.table, content if isinstance(content, list) else [content])
        return self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Logs nothing for a request that succeeds."""


def report(connection: sqlite3.Connection, campaign: str) -> None:
    query = "select state, count(*) from recipients where campaign = ? group by state order by state"
    for state, count in connection.execute(query, (campaign,)):
        print(state, count)


def serve(connection: sqlite3.Connection) -> None:
    secret = os.environ.get("PREGON_WEBHOOK_SECRET") or sys.exit("error: set PREGON_WEBHOOK_SECRET to the secret")
    host, port = os.environ.get("PREGON_WEBHOOK_LISTEN", "127.0.0.1:8090").rsplit(":", 1)
    Receiver.webhook, Receiver.table = Webhook(secret), connection
    # One request at a time, so that requests are stored in the order in which they arrive.
    with HTTPServer((host, int(port)), Receiver) as server:
        print(f"listening on {host}:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    with closing(database()) as connection:
        if sys.argv[1:2] == ["--report"] and len(sys.argv) == 3:
            report(connection, sys.argv[2])
        elif len(sys.argv) == 1:
            serve(connection)
        else:
            sys.exit("usage: events_webhook.py [--report CAMPAIGN]")
