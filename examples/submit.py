#!/usr/bin/env python3
"""Submits a CSV file of recipients as a campaign over the HTTP API and follows the campaign until it is completed.

    PREGON_API_KEY=... examples/submit.py [FILE.csv]

Run it again after any failure: with the same external id it continues where it stopped and sends nothing twice.
A refused call or a stopped campaign ends the program with a message and exit code 1.
Needs Python 3.9 or newer, no packages.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

URL = os.environ.get("PREGON_SERVER", "http://127.0.0.1:8080")
KEY = os.environ.get("PREGON_API_KEY") or sys.exit("error: set PREGON_API_KEY to a key of http.api_keys")
NAME, LANGUAGE = os.environ.get("PREGON_TEMPLATE", "order_update/es_AR").split("/")
CAMPAIGN = {
    "name": "Order update",
    "external_id": os.environ.get("PREGON_EXTERNAL_ID", "example-py"),
    "template": {"name": NAME, "language": LANGUAGE},
    "lines": [os.environ.get("PREGON_LINE", "3001")],
}
FILE = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("customers.csv")


def call(method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> dict:
    """Calls the API. Retries while the server is unavailable, which is safe: every call here may be repeated."""
    request = urllib.request.Request(f"{URL}/v1/{path}", body, headers or {}, method=method)
    request.add_header("Authorization", f"Bearer {KEY}")
    for wait_s in (1, 2, 4, None):
        try:
            with urllib.request.urlopen(request, timeout=90) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if wait_s is None or error.code not in (408, 429, 502, 503, 504):
                sys.exit(f"error: {refusal(error)}")
            wait_s = int(error.headers.get("Retry-After", wait_s))
        except OSError as error:
            if wait_s is None:
                sys.exit(f"error: {URL}: {error}")
        time.sleep(wait_s)


def refusal(error: urllib.error.HTTPError) -> str:
    is_problem = error.headers.get_content_type() == "application/problem+json"
    return "{title}: {detail}".format(**json.load(error)) if is_problem else str(error)


created = call("POST", "campaigns", json.dumps(CAMPAIGN).encode(), {"Content-Type": "application/json"})
path = "campaigns/" + created["id"]
print("campaign", created["id"])

# The Upload-Id lets the server recognize this upload when the program runs again.
headers = {"Content-Type": "text/csv", "Upload-Id": "recipients"}
uploaded = call("POST", path + "/recipients", FILE.read_bytes(), headers)
print(f"{uploaded['accepted']} recipients accepted, {uploaded['rejected_count']} rejected")
for row in uploaded["rejected"]:
    print(f"  line {row['line']}: {row['code']}: {row['reason']}")

campaign = call("POST", path + "/launch")
while True:
    counts = campaign["statistics"]
    states = ", ".join(f"{n} {state}" for state, n in counts["by_state"].items() if n)
    print(f"{campaign['state']}: {counts['funnel']['accepted']} of {counts['recipients']} accepted by Meta ({states})")
    if campaign["state"] not in ("scheduled", "running"):
        break
    time.sleep(1)
    campaign = call("GET", path)

# Statuses (sent, delivered, read) keep arriving after this: ask again later for the final counts.
for failure in counts["failures"]:
    print(f"  {failure['count']}: {failure['title']} (code {failure['code']})")
if campaign["state"] != "completed":
    sys.exit(f"error: the campaign is {campaign['state']}: {campaign.get('reason', {}).get('details', 'by request')}")
