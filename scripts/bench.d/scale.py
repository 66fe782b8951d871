"""Measures how Lifeboat's time, CPU, memory and requests grow with its work.

    scripts/bench scale                                    all kinds at 1, 4 and 16 times the same work: some six minutes
    scripts/bench scale --kinds files --steps 1 2 4
    scripts/bench scale --base 0.1 --repeat 1              a quick look

The kinds of work: `mixed`, by bytes, the corpus of that name at a tenth of its size and up; `image`, by bytes of one disk image; `files`, by
the number of tiny files; `snapshots`, by how many there are of one small tree, each with one file more than the last. Standard output
gets the report, which also lies, with every single measurement, in `--out` (target/bench) as scale.md and scale.json. The largest step
needs 6 GB of the work file system and memory together.

Reading it:

- Each figure is the least of `--repeat` runs, for noise only adds. A day of change happens once.
- "exponent" is the slope of the line through the logarithms: 1 is linear, 0 does not grow. Fixed costs, which weigh at the small end,
  press it down.
- "a unit dearer by" compares the cost of a byte, file or snapshot at the largest step with the least at the smaller ones: at most 10 % is
  aimed for. Below zero it became cheaper. Among snapshots, what does not depend on their number should not grow at all: there
  "dearer" is of the whole row.
- Requests are counted by S3 in memory (bench.d/s3.py), in one more run of the same rows, whose times are not used. Restores and
  verifications begin with the caches of the backups.
- Memory is the peak of the largest process, never less than about 9 MiB.

Exit codes: 0, every row ran and every restored tree was right; 1, some row failed; 2, wrong usage, or something needed is missing.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile

import changes
import corpora
import fetch
import fit
import stores
import tools
from report import ROW_TITLES, shown, table
from running import MIB, compare, machine, run, say, wrong
from trees import Tree

ROOM_BYTES = 6000 * MIB
# (corpus, its scale at step 1, what is counted)
KINDS = {
    "mixed": ("mixed", 0.1, "bytes"),
    "image": ("bigfile", 0.08, "bytes"),
    "files": ("million", 0.125, "files"),
    "snapshots": ("source", 0.02, "snapshots"),
}
SNAPSHOTS = 8
ROWS = ["first", "unchanged", "changed", "restore", "verify", "list", "ls"]
# Cost the same however many snapshots there are; the others read or list all of them.
STILL = {"first", "unchanged", "changed", "restore", "ls"}
FIGURES = [("wall s", "wall_s", 1), ("CPU s", "cpu_s", 1), ("memory MiB", "peak_bytes", MIB), ("requests", "requests", 1)]
DEARER_MAX = 0.10


class Step:
    """One kind of work in one size, on a local repository or on a store."""

    def __init__(self, options, kind, step, place, port=None):
        corpus, scale, self.unit = KINDS[kind]
        self.options, self.kind, self.port, self.tree, self.place = options, kind, port, f"{place}/tree", place
        self.snapshots = max(1, round(SNAPSHOTS * step * options.base)) if kind == "snapshots" else 0
        self.corpus, self.scale = corpus, scale if kind == "snapshots" else scale * step * options.base
        self.measured, self.failures, self.homes = {}, [], 0
        corpora.generate(corpus, self.tree, self.scale, options.seed)
        self.state = Tree(self.tree)
        self.work = {"bytes": self.state.allocated, "files": self.state.files, "snapshots": self.snapshots}[self.unit]

    def fresh(self):
        """Lifeboat with a new repository."""
        self.homes += 1
        tool = tools.Lifeboat(self.options.lifeboat, f"{self.place}/home-{self.homes}", self.tree)
        if self.port:
            tool.repository = f"s3://{stores.BUCKET}/home-{self.homes}"
            tool = stores.over_line("lifeboat", tool, self.port)
        self.ran(None, run(tool, tool.init()))
        return tool

    def ran(self, row, result):
        took, failures = result
        if failures:
            self.failures += [f"{self.kind}, {ROW_TITLES.get(row, 'preparing')}: {text}" for text in failures]
        elif row:
            self.measured.setdefault(row, []).append(took)

    def do(self, row, tool, command):
        if self.port:
            stores.ask(self.port, "POST", "/-/reset")
        result = run(tool, command)
        if self.port:
            counts = json.loads(stores.ask(self.port, "GET", "/-/counts"))
            result[0]["requests"] = sum(counts["requests"].values())
        self.ran(row, result)

    def all_rows(self, repeat):
        for number in range(repeat):
            tool = self.fresh()
            self.do("first", tool, tool.backup())
            if number + 1 < repeat and not self.port:
                shutil.rmtree(tool.home)
        for number in range(self.snapshots - 1):
            corpora.put(f"{self.tree}/more-{number}", f"{number}\n".encode())
            self.ran(None, run(tool, tool.backup()))
        for _ in range(repeat):
            self.do("unchanged", tool, tool.backup())
        changes.pass_a_day(self.corpus, self.tree, self.scale, self.options.seed)
        self.state = Tree(self.tree)
        self.do("changed", tool, tool.backup())
        target = f"{self.place}/restored"
        for number in range(repeat):
            self.do("restore", tool, tool.restore(target))
            if number == 0 and not self.failures:
                self.failures += compare(self.state, target)[0]
            shutil.rmtree(target, ignore_errors=True)
        for _ in range(repeat):
            self.do("verify", tool, tool.verify())
            self.do("list", tool, tool.list())
            self.do("ls", tool, tool.ls())


def measure_step(options, kind, step, work):
    """What a step took: {"work": units, "rows": {row: {figure: the least}}, "measured", "failures"}."""
    with tempfile.TemporaryDirectory(prefix=f"{kind}-{step}-", dir=work) as place:
        here = Step(options, kind, step, place)
        here.all_rows(options.repeat)
    rows = {row: {key: min(one[key] for one in ones) for key in ("wall_s", "cpu_s", "peak_bytes")} for row, ones in here.measured.items()}
    with tempfile.TemporaryDirectory(prefix=f"{kind}-{step}-", dir=work) as place, stores.program("s3.py") as port:
        stores.ask(port, "PUT", f"/{stores.BUCKET}")
        stored = Step(options, kind, step, place, port)
        stored.all_rows(1)
    for row, ones in stored.measured.items():
        rows.setdefault(row, {})["requests"] = ones[0]["requests"]
    wall, cpu = (rows.get("first", {}).get(key, 0) for key in ("wall_s", "cpu_s"))
    say(f"  {step:g}x, {here.work:,} {here.unit}: first backup {wall:.2f} s, CPU {cpu:.2f} s")
    return {"step": step, "work": here.work, "rows": rows, "measured": here.measured, "failures": here.failures + stored.failures}


def growth(kind, steps):
    """What became of each figure: [{"row", "figure", "values", "exponent", "dearer", "met": only of CPU, else None}]."""
    found = []
    for row in ROWS:
        for _, key, _ in FIGURES:
            points = [(step["work"], step["rows"].get(row, {}).get(key)) for step in steps]
            if any(value is None for _, value in points):
                continue
            whole = kind == "snapshots" and row in STILL
            dearer = None if key not in ("wall_s", "cpu_s") else fit.dearer([(x, y * x) for x, y in points] if whole else points)
            met = None if dearer is None or key != "cpu_s" else dearer <= DEARER_MAX
            values = [value for _, value in points]
            found.append({"row": row, "figure": key, "values": values, "exponent": fit.exponent(points), "dearer": dearer, "met": met})
    return found


def markdown(result):
    text = ["# How Lifeboat's cost grows with its work\n", f"{result['lifeboat']}; {result['machine']['cores']} cores; work on "
            f"{result['machine']['work_file_system']}; the least of {result['repeat']} runs.\n"]
    titles = {key: (title, divisor) for title, key, divisor in FIGURES}
    for kind, steps in result["kinds"].items():
        unit = KINDS[kind][2]
        sizes = [f"{step['step']:g}x: " + (f"{step['work'] / MIB:,.0f} MiB" if unit == "bytes" else f"{step['work']:,}") for step in steps]
        lines = []
        for one in growth(kind, steps):
            title, divisor = titles[one["figure"]]
            dearer = "" if one["dearer"] is None else f"{one['dearer'] * 100:+.0f} %"
            verdict = {None: "", True: "flat", False: "**not flat**"}[one["met"]]
            values = [shown(value / divisor) for value in one["values"]]
            lines.append([f"{ROW_TITLES[one['row']]}, {title}", *values, shown(one["exponent"]), dearer, verdict])
        text += [f"## {kind}, by {unit}\n", table(["figure", *sizes, "exponent", "a unit dearer by", f"CPU: at most {DEARER_MAX:.0%}"], lines)]
        text += [f"- **failed**: {failure}" for step in steps for failure in step["failures"]]
    return "\n".join(text) + "\n"


def arguments(given):
    above = os.path.dirname(os.path.dirname(stores.PARTS))
    parser = argparse.ArgumentParser(prog="scripts/bench scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--steps", nargs="+", type=float, default=[1, 4, 16], metavar="N", help="times the work (1 4 16)")
    parser.add_argument("--base", type=float, default=1.0, metavar="F", help="size of step 1 (1)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each row, of which the least counts (3)")
    parser.add_argument("--seed", default="1", metavar="TEXT", help="another seed is another tree of the same shape (1)")
    parser.add_argument("--work", default="/dev/shm", metavar="DIR", help="where everything happens (/dev/shm)")
    parser.add_argument("--out", default=f"{above}/target/bench", metavar="DIR", help="where scale.json and scale.md go (target/bench)")
    parser.add_argument("--lifeboat", default=f"{above}/target/release/lifeboat", metavar="PATH", help="the binary (target/release/lifeboat)")
    options = parser.parse_args(given)
    if options.repeat < 1 or not 0 < options.base <= 100 or any(not 0 < step <= 1000 for step in options.steps):
        parser.error("--repeat is at least 1, --base above 0 and at most 100, --steps above 0 and at most 1000")
    options.steps = sorted(set(options.steps))
    options.work, options.lifeboat = os.path.realpath(options.work), os.path.abspath(options.lifeboat)
    if not os.path.isdir(options.work):
        parser.error(f"--work {options.work} is not a folder")
    return options


def main(given):
    options = arguments(given)
    os.umask(0o022)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a run which is told to stop still cleans up
    room = os.statvfs(options.work)
    needed = int(ROOM_BYTES * options.base * options.steps[-1] / 16)
    if room.f_bavail * room.f_frsize < needed:
        wanted = f"{options.work} has less than the {needed // MIB} MiB free that are wanted"
        wrong(f"{wanted}; name another place with --work DIR, or a smaller --base")
    try:
        version = fetch.version("lifeboat", options.lifeboat)
    except OSError as cause:
        wrong(f"{options.lifeboat} does not run ({cause.strerror}); build it with `cargo build --release`")
    result = {"lifeboat": version, "machine": machine(options), "repeat": options.repeat, "base": options.base, "kinds": {}}
    work = tempfile.mkdtemp(prefix="lifeboat-bench-", dir=options.work)
    try:
        for kind in options.kinds:
            say(f"{kind}, by {KINDS[kind][2]}")
            result["kinds"][kind] = [measure_step(options, kind, step, work) for step in options.steps]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    result["growth"] = {kind: growth(kind, steps) for kind, steps in result["kinds"].items()}
    text = markdown(result)
    os.makedirs(options.out, exist_ok=True)
    for ending, content in [("json", json.dumps(result, indent=1)), ("md", text)]:
        with open(f"{options.out}/scale.{ending}", "w", encoding="utf-8") as file:
            file.write(content)
    print(text)
    raise SystemExit(1 if any(step["failures"] for steps in result["kinds"].values() for step in steps) else 0)
