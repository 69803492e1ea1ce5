#!/usr/bin/env python3
"""Draws docs/pictures: the dashboards in config/grafana, as Prometheus answers their queries in a real run.

    make pictures        # release build, two minutes

Starts Redis, the simulator of Meta with its usual faults, two workers and Prometheus, all on loopback, and sends a
campaign. Meanwhile Meta refuses the token for a while, Redis goes away for some seconds, and a worker stops. Then each
query of each dashboard is evaluated over that time, and its panels become one SVG. Panels without a value above 0 are
left out, and stats are in the dashboards only.

Needs redis-server, prometheus (where `make package-check` puts it, or on PATH) and matplotlib, which `make pictures`
installs into target/pictures.
"""

import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, MaxNLocator

ROOT = pathlib.Path(__file__).resolve().parent.parent
DASHBOARDS = ["fleet", "line", "campaigns"]
PORT = 27400
REDIS, API, SIM, PROMETHEUS, METRICS = PORT, PORT + 1, PORT + 2, PORT + 3, [PORT + 4, PORT + 5]
SECONDS = 110
BYTES_MAX = 60_000
# More curves than colours cannot be told apart.
CURVES_MAX = 6
PREGON = os.environ.get("PREGON", str(ROOT / "target/release/pregon"))

CONFIG = f"""
redis.url = "redis://127.0.0.1:{REDIS}"
redis.timeout = "1s"
graph.base_url = "http://127.0.0.1:{SIM}"
http.listen = "127.0.0.1:{API}"
http.api_keys = [{{ name = "backend", secret = {{ env = "PREGON_API_KEY" }} }}]
webhook.verify_token = {{ env = "PREGON_API_KEY" }}
webhook.app_secret = {{ env = "APP_SECRET" }}
dispatch.lease = "3s"
business = [{{ id = "1001" }}]
waba = [{{ id = "2001", business = "1001", access_token = {{ env = "TOKEN" }} }}]
line = [{", ".join(f'{{ id = "300{n}", waba = "2001", messages_per_second = {10 * n + 20} }}' for n in range(1, 5))}]
"""


def fetch(url, body=None):
    data = json.dumps(body).encode() if body is not None else None
    with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=10) as answer:
        return answer.read().decode()


def wait_for(url):
    for _ in range(300):
        try:
            return fetch(url)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit(f"{url} does not answer")


class Stage:
    """The processes, which end with the `with` block."""

    def __init__(self, folder):
        self.folder, self.running = folder, {}
        self.environment = os.environ | {
            "PREGON_API_KEY": "example",
            "APP_SECRET": "sim-app-secret",
            "TOKEN": "sim-token-2001",
            "PREGON_SERVER": f"http://127.0.0.1:{API}",
        }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            process.kill()
            process.wait()

    def start(self, name, *command, **environment):
        log = open(self.folder / f"{name}.log", "w")
        environment = self.environment | environment
        self.running[name] = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def stop(self, name):
        process = self.running.pop(name)
        process.terminate()
        process.wait()

    def start_redis(self):
        limits = ["--maxmemory", "256mb", "--maxmemory-policy", "noeviction"]
        self.start("redis", "redis-server", "--port", str(REDIS), "--appendonly", "yes", "--save", "", *limits)

    def start_worker(self, n, roles):
        listen = f"127.0.0.1:{METRICS[n]}"
        command = [PREGON, "serve", "--config", "pregon.toml", "--roles", roles]
        self.start(f"worker-{n + 1}", *command, PREGON__OPS__LISTEN=listen)

    def pregon(self, *arguments):
        subprocess.run([PREGON, *arguments], cwd=self.folder, env=self.environment, check=True, stdout=subprocess.DEVNULL)


def record(stage):
    """Plays the run. Returns the time at which it began."""
    folder = stage.folder
    rough = (ROOT / "config/sim/rough.toml").read_text()
    (folder / "sim.toml").write_text(rough.replace("127.0.0.1:8080", f"127.0.0.1:{API}"))
    (folder / "pregon.toml").write_text(CONFIG)
    workers = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": f"worker-{n}"}} for n, port in enumerate(METRICS, 1)
    ]
    scrape = [{"job_name": "pregon", "scrape_interval": "1s", "static_configs": workers}]
    (folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": scrape}))
    stage.start_redis()
    stage.start("sim", PREGON, "sim", "--config", "sim.toml", "--listen", f"127.0.0.1:{SIM}")
    stage.start_worker(0, "api,webhook,dispatch")
    stage.start_worker(1, "dispatch")
    listen = f"--web.listen-address=127.0.0.1:{PROMETHEUS}"
    stage.start("prometheus", prometheus(), "--config.file=prometheus.yml", "--storage.tsdb.path=data", listen)
    for port in METRICS:
        wait_for(f"http://127.0.0.1:{port}/readyz")
    wait_for(f"http://127.0.0.1:{PROMETHEUS}/-/ready")
    began = time.time()

    def at(second):
        time.sleep(max(0, began + second - time.time()))

    rows = "".join(f"+549115{n:07},Maria,A-{n}\n" for n in range(13_000))
    (folder / "customers.csv").write_text("to,1,2\n" + rows)
    lines = [f"--line=300{n}" for n in range(1, 5)]
    at(5)
    stage.pregon("campaign", "submit", "customers.csv", "--template=order_update/es_AR", *lines)
    at(35)
    faults = tomllib.loads(rough)["faults"]
    fetch(f"http://127.0.0.1:{SIM}/sim/scenario", {"faults": {"refuse": {"190": 1}}})
    at(45)
    fetch(f"http://127.0.0.1:{SIM}/sim/scenario", {"faults": faults})
    stage.pregon("hold", "lift", "token:2001")
    at(60)
    stage.stop("redis")
    at(66)
    stage.start_redis()
    at(85)
    stage.stop("worker-2")
    at(SECONDS)
    return began


def prometheus():
    fetched = ROOT / "target/package-check/prometheus/usr/bin/prometheus"
    found = shutil.which("prometheus") or (fetched if fetched.exists() else None)
    return str(found) if found else sys.exit("needs prometheus: make package-check fetches it on Debian")


def evaluate(query, began):
    """The series of a query over the run: its labels, and its values by second."""
    query = re.sub(r"\$(worker|line|business)", ".*", query.replace("$__rate_interval", "5s"))
    span = {"start": began, "end": began + SECONDS, "step": 3}
    url = f"http://127.0.0.1:{PROMETHEUS}/api/v1/query_range?" + urllib.parse.urlencode({"query": query} | span)
    for series in json.loads(fetch(url))["data"]["result"]:
        points = [(float(at) - began, float(value)) for at, value in series["values"]]
        yield series["metric"], [(at, value) for at, value in points if value == value]


def legend(template, labels):
    return re.sub(r"\{\{(\w+)\}\}", lambda label: labels.get(label[1], ""), template).strip()


def curves(panel, began):
    """The name and the points of the largest curves of a panel."""
    found = []
    for target in panel["targets"]:
        found += [(legend(target["legendFormat"], labels), points) for labels, points in evaluate(target["expr"], began)]
    found = [(name, points) for name, points in found if any(value > 0 for _, value in points)]
    found.sort(key=lambda curve: -max(value for _, value in curve[1]))
    return sorted(found[:CURVES_MAX])


def amount(unit):
    if unit == "percentunit":
        return lambda value, _: f"{value:.0%}"
    end = {"cps": "/s", "s": " s"}.get(unit, "")
    return lambda value, _: f"{value:,.6g}{end}"


def draw(name, began):
    """Draws a dashboard. Returns its SVG."""
    dashboard = json.loads((ROOT / f"config/grafana/{name}.json").read_text())
    graphs = [panel for panel in dashboard["panels"] if panel["type"] == "timeseries"]
    graphs = [(panel, found) for panel in graphs if (found := curves(panel, began))]
    rows = (len(graphs) + 1) // 2
    figure, all_axes = pyplot.subplots(rows, 2, figsize=(10, 2.1 * rows), squeeze=False, layout="constrained")
    for axes in all_axes.flat[len(graphs):]:
        axes.remove()
    for (panel, found), axes in zip(graphs, all_axes.flat):
        for curve, points in found:
            axes.plot(*zip(*points), linewidth=1.2, label=curve)
        axes.set_title(panel["title"], fontsize=9, loc="left")
        axes.set_xlim(0, SECONDS)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        unit = panel["fieldConfig"]["defaults"]["unit"]
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=unit in ("none", "short")))
        axes.xaxis.set_major_formatter(FuncFormatter(amount("s")))
        axes.yaxis.set_major_formatter(FuncFormatter(amount(unit)))
        axes.tick_params(labelsize=7, length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, handlelength=1)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return compact(file.getvalue())


def compact(svg):
    """Leaves out what no picture of this size needs: further digits, fallbacks of fonts, comments and metadata."""
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*", "font-family: sans-serif", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"|; stroke-line(join|cap): \w+|(?<=<g) id="\w+"|<g id="\w+"/>', "", svg)
    shorter = lambda tag: re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}", tag[0])
    svg = re.sub(r"<[^>]*>", shorter, svg)
    # In a path, numbers after the first L are further points.
    svg = re.sub(r"\s*\n\s*(L )?", lambda line: " " if line[1] else "\n", svg)
    return re.sub(r'(?<= d=")M (\S+ \S+) ', r"M \1 L ", svg)


def main():
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "pregon", "font.family": "sans-serif"}
    pictures = ROOT / "docs/pictures"
    pictures.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Stage(pathlib.Path(folder)) as stage:
        print(f"a run of {SECONDS} s")
        began = record(stage)
        for name in DASHBOARDS:
            svg = draw(name, began)
            if len(svg) > BYTES_MAX:
                sys.exit(f"the picture of {name} has {len(svg)} bytes, more than {BYTES_MAX}")
            (pictures / f"{name}.svg").write_text(svg)
            print(f"docs/pictures/{name}.svg: {len(svg)} bytes")


if __name__ == "__main__":
    main()
