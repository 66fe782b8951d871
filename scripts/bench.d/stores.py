"""Measures Lifeboat beside restic on a cloud store at the end of a slow line.

    scripts/bench stores                                   two corpora, three rounds, both tools: some twenty minutes
    scripts/bench stores --corpus source --scale 0.1 --rounds 1
    scripts/bench stores --round-trip 100 --rate 1000      another line: milliseconds there and back, Mbit/s each way

The store is bench.d/s3.py, S3 in memory; the line is bench.d/link.py: 50 ms for a round trip, another for each new connection, 200
Mbit/s each way shared by all connections. Standard output gets the report, which also lies, with every single measurement, in
`--out` (target/bench) as stores.md and stores.json.

Reading it:

- "of the line" is the time in which as many bytes as the row moved pass by bare PUT or GET of 16 MiB objects over 8 connections,
  through the same line, measured right after the row; over the time that the row took. 1 is the line's own rate, and little can be
  better. A row that moves few bytes waits for round trips and not for the rate: look at its round trips.
- "round trips" is the wall time in round trips of the line, the tool's own work included: what it waited for, one after another.
- Requests are counted by the store, and so include what the tool's own repeats cost. LIST is a listing's page;
  connections are those open at once.
- Restores begin without any cache, as on a machine that has never seen the repository; what is verified then has the restore's.
- "others' cores" counts store and line too, which take about a third of a core while the line is full.
- All else is as with scripts/bench: medians, rows in turn for all tools, trees compared byte for byte. The signatures are not checked
  and nothing is encrypted on the way (no TLS), for both tools alike.

Exit codes: 0, every row ran and every restored tree was right; 1, some row failed; 2, wrong usage, or something needed is missing.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import corpora
import plain
import stores_report
import tools
from running import MIB, PARTS, check_room, compare, find_binaries, machine, run, say
from trees import Tree

BUCKET = "bench"
STORE_TOOLS = ["lifeboat", "restic"]


@contextlib.contextmanager
def program(name, *arguments):
    """One of the servers beside this file, by its port; it ends when we do."""
    command = [sys.executable, "-I", "-S", f"{PARTS}/{name}", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield int(server.stdout.readline())
        finally:
            server.stdin.close()


def ask(port, verb, path):
    """One request to the store, not through the line."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(verb, path)
    answer = connection.getresponse().read()
    connection.close()
    return answer


def over_line(name, tool, port):
    """Tells a tool of the store that it finds at `port`."""
    secrets = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-bench-bench"}
    place = {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    tool.more_environment = secrets | place | {"AWS_ALLOW_HTTP": "true"}
    if name == "restic":
        tool.repository = f"s3:http://127.0.0.1:{port}/{BUCKET}/{name}"
        tool.more_environment["RESTIC_REPOSITORY"] = tool.repository
    else:
        tool.repository = f"s3://{BUCKET}/{name}"
    return tool


class Round:
    """One corpus, once through all rows, with a fresh store and a fresh line."""

    def __init__(self, options, binaries, name, work, store, line):
        self.options, self.tree, self.target, self.store, self.line = options, f"{work}/tree", f"{work}/restored", store, line
        corpora.generate(name, self.tree, options.scale, options.seed)
        self.state = Tree(self.tree)
        made = {tool: tools.KINDS[tool](binary, f"{work}/{tool}", self.tree) for tool, binary in binaries.items()}
        self.tools = {tool: over_line(tool, one, line) for tool, one in made.items()}
        self.measured, self.broken = [], set()
        ask(store, "PUT", f"/{BUCKET}")

    def command(self, row, tool):
        if row == "restore":
            shutil.rmtree(f"{tool.home}/cache", ignore_errors=True)
            return tool.restore(self.target)
        return tool.verify() if row == "verify" else tool.backup()

    def measure(self, row, name, number):
        tool, remarks = self.tools[name], []
        if row == "first":
            took, failures = run(tool, tool.init())
        if row != "first" or not failures:
            ask(self.store, "POST", "/-/reset")
            took, failures = run(tool, self.command(row, tool))
        counts = json.loads(ask(self.store, "GET", "/-/counts"))
        if row == "restore":
            if not failures:
                failures, remarks = compare(self.state, tool.restored_tree(self.target))
            shutil.rmtree(self.target, ignore_errors=True)
        moved = {"sent_bytes": counts["received_bytes"], "fetched_bytes": counts["sent_bytes"], "connections": counts["connections"]}
        moved |= {verb.lower(): asked for verb, asked in counts["requests"].items()}
        moved["repository_bytes"] = counts["held_bytes"].get(f"{BUCKET}/{name}", 0)
        if not failures:
            moved |= {"requests": sum(counts["requests"].values()), "round_trips": took["wall_s"] * 1000 / self.options.round_trip}
            if row != "unchanged":
                moved["plain_s"] = self.plain(row, moved)
                moved["of_the_line"] = moved["plain_s"] / took["wall_s"]
        self.measured.append({"tool": name, "row": row, "round": number, **took, **moved, "failures": failures, "remarks": remarks})
        if failures and row == "first":
            self.broken.add(name)
        if failures:
            figures = "failed: " + "; ".join(failures)
        else:
            share = f"{moved['of_the_line']:.2f} of the line" if "of_the_line" in moved else f"{moved['round_trips']:.0f} round trips"
            figures = f"{took['wall_s']:.2f} s, {share}, {moved['requests']} requests, {took['peak_bytes'] >> 20} MiB"
        say(f"  {stores_report.ROW_TITLES[row]}, {name}: {figures}")

    def plain(self, row, moved):
        """Seconds for as many bytes in the row's main direction, by bare requests through the line."""
        if row == "first":
            return plain.transfer(self.line, "PUT", BUCKET, moved["sent_bytes"])
        plain.transfer(self.store, "PUT", BUCKET, moved["fetched_bytes"])
        return plain.transfer(self.line, "GET", BUCKET, moved["fetched_bytes"])

    def all_rows(self, rows, number):
        names = list(self.tools)
        turned = names[number % len(names) :] + names[: number % len(names)]
        for row in rows:
            for name in turned:
                if name not in self.broken:
                    self.measure(row, name, number)


def measure_corpus(options, binaries, rows, name, work):
    measured, tree = [], None
    for number in range(options.rounds):
        say(f"{name}, round {number + 1} of {options.rounds}")
        place = tempfile.mkdtemp(prefix=f"{name}-{number}-", dir=work)
        with program("s3.py") as store, program("link.py", store, options.round_trip, options.rate) as line:
            now = Round(options, binaries, name, place, store, line)
            say(f"  {now.state.files} files, {now.state.bytes / MIB:.0f} MiB")
            now.all_rows(rows, number)
        measured += now.measured
        tree = {"files": now.state.files, "bytes": now.state.bytes, "manifest": now.state.manifest}
        shutil.rmtree(place)
    return {"tree": tree, "rounds": options.rounds, "measured": measured, "summary": stores_report.summary(measured)}


def arguments(given):
    above, home = os.path.dirname(os.path.dirname(PARTS)), os.path.expanduser("~")
    binary, out, cache = f"{above}/target/release/lifeboat", f"{above}/target/bench", f"{home}/.cache/lifeboat-bench"
    rows = list(stores_report.ROW_TITLES)
    parser = argparse.ArgumentParser(prog="scripts/bench stores", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="times through all rows (3)")
    parser.add_argument("--corpus", nargs="+", default=["source", "mixed"], choices=corpora.NAMES, metavar="NAME", help="source mixed")
    parser.add_argument("--rows", nargs="+", default=rows, choices=rows, metavar="ROW", help=", ".join(rows))
    parser.add_argument("--tools", type=lambda text: text.split(","), default=STORE_TOOLS, metavar="A,B", help="lifeboat,restic")
    parser.add_argument("--round-trip", type=float, default=50, metavar="MS", help="there and back (50)")
    parser.add_argument("--rate", type=float, default=200, metavar="MBIT", help="each way (200)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="size of the corpora (1)")
    parser.add_argument("--seed", default="1", metavar="TEXT", help="another seed is another tree of the same shape (1)")
    parser.add_argument("--work", default="/dev/shm", metavar="DIR", help="where trees and caches lie (/dev/shm)")
    parser.add_argument("--out", default=out, metavar="DIR", help="where stores.json and stores.md go (target/bench)")
    parser.add_argument("--lifeboat", default=binary, metavar="PATH", help="the binary (target/release/lifeboat)")
    parser.add_argument("--restic", metavar="PATH", help="this restic, and none is fetched")
    parser.add_argument("--cache", default=cache, metavar="DIR", help="where a fetched restic lies")
    options = parser.parse_args(given)
    unknown = [name for name in options.tools if name not in STORE_TOOLS]
    if unknown or options.rounds < 1 or not 0 < options.scale <= 100:
        parser.error(f"unknown tool {unknown[0]!r}" if unknown else "--rounds is at least 1, --scale above 0 and at most 100")
    if not 0 < options.round_trip <= 10_000 or not 1 <= options.rate <= 2000:
        parser.error("--round-trip is above 0 and at most 10000, --rate from 1 to 2000, the most that link.py can carry")
    options.work, options.keep, options.named, options.tiny_files = os.path.realpath(options.work), False, True, None
    if not os.path.isdir(options.work):
        parser.error(f"--work {options.work} is not a folder")
    return options


def main(given):
    options = arguments(given)
    os.umask(0o022)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a run which is told to stop still cleans up
    check_room(options)
    binaries, versions, _ = find_binaries(options, may_be_missing=False)
    for name, version in versions.items():
        say(f"{name}: {version}")
    rows = [row for row in stores_report.ROW_TITLES if row in options.rows or row == "first"]
    result = {"tools": versions, "machine": machine(options), "scale": options.scale, "seed": options.seed}
    result |= {"round_trip_ms": options.round_trip, "rate_mbit": options.rate, "corpora": {}}
    work = tempfile.mkdtemp(prefix="lifeboat-bench-", dir=options.work)
    try:
        for name in options.corpus:
            result["corpora"][name] = measure_corpus(options, binaries, rows, name, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for corpus in result["corpora"].values():
        corpus["targets"] = [dict(zip(("aim", "figure", "limit", "met"), target)) for target in stores_report.targets(corpus)]
    text = stores_report.markdown(result)
    os.makedirs(options.out, exist_ok=True)
    with open(f"{options.out}/stores.json", "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    with open(f"{options.out}/stores.md", "w", encoding="utf-8") as file:
        file.write(text)
    print(text)
    failed = any(one["failures"] for corpus in result["corpora"].values() for one in corpus["measured"])
    raise SystemExit(1 if failed else 0)
