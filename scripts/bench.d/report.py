"""From measurements to tables: medians and ratios.

Owns the Markdown, and who counts among the best of a row; measures nothing. A ratio is Lifeboat's figure over a peer's, of the same
row: below one is better. What is aimed for is in aims.py.
"""

from statistics import median

import tools as kinds

MIB = 1 << 20
ROW_TITLES = {
    "first": "first backup",
    "unchanged": "nothing changed",
    "changed": "a day of change",
    "touched": "all mtimes touched",
    "restore": "restore all",
    "verify": "verify, all data read",
    "list": "list of snapshots",
    "ls": "list of a snapshot's files",
    "prune": "forget half, and free its space",
}
BACKUPS = ["first", "unchanged", "changed", "touched"]
# (title, key of a measurement, unit's divisor, rows it is shown for)
FIGURES = [
    ("Wall seconds", "wall_s", 1, None),
    ("CPU seconds (user and system, children included)", "cpu_s", 1, None),
    ("Peak memory of the largest process, MiB", "peak_bytes", MIB, None),
    ("Repository after the row, MiB", "repository_bytes", MIB, [*BACKUPS, "prune"]),
    ("Growth of the repository by the row, MiB", "growth_bytes", MIB, BACKUPS),
    ("Written, MiB", "written_bytes", MIB, [*BACKUPS, "restore"]),
    ("Requests to the store", "requests", 1, None),
]
MORE_FIGURES = ["new_bytes", "stored_bytes", "chunks"]
# Where nothing changed there is nothing to encrypt either.
UNENCRYPTED_COUNTS = {"unchanged"}


def summary(measured, keys=(*(key for _, key, _, _ in FIGURES), *MORE_FIGURES)):
    """Medians over the rounds: {tool: {row: {figure: median, "failures": […], "remarks": […]}}}.

    A row that failed in any round has no figures.
    """
    tools = {}
    for one in measured:
        tools.setdefault(one["tool"], {}).setdefault(one["row"], []).append(one)
    result = {}
    for tool, rows in tools.items():
        for row, ones in rows.items():
            failures = [text for one in ones for text in one["failures"]]
            remarks = sorted({text for one in ones for text in one["remarks"]})
            figures = {} if failures else {key: median(one[key] for one in ones) for key in keys if all(key in one for one in ones)}
            if not failures:
                figures["others_cores"] = median(one["others_cores"] for one in ones)
                figures["rounds"] = len(ones)
            result.setdefault(tool, {})[row] = figures | {"failures": failures, "remarks": remarks}
    return result


def figure(rows, row, key):
    return rows.get(row, {}).get(key)


def ranked(tool, row):
    """Whether a tool counts among the peers of the row: it encrypts, and does all of the row's work."""
    kind = kinds.KINDS[tool]
    if tool == "lifeboat" or row in kind.unranked or (kind.rows and row not in kind.rows):
        return False
    return kind.encrypts or (row in UNENCRYPTED_COUNTS and kind.counts_unencrypted)


def best(summaries, row, key):
    """The least figure among the peers that count, and whose it is: (None, None) where nobody has one above zero."""
    have = [(figure(rows, row, key) or 0, tool) for tool, rows in summaries.items() if ranked(tool, row)]
    return min(((value, tool) for value, tool in have if value > 0), default=(None, None))


def ratio(summaries, row, key, against="best"):
    """Lifeboat's figure over the best peer's or that of a tool, or None where either is missing."""
    theirs = best(summaries, row, key)[0] if against == "best" else figure(summaries.get(against, {}), row, key)
    ours = figure(summaries.get("lifeboat", {}), row, key)
    return ours / theirs if ours is not None and theirs else None


def shown(value):
    if value is None:
        return "-"
    if 0 < abs(value) < 0.1:
        return f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def table(head, lines):
    figures = [any(line[at][:1].isdigit() for line in lines) for at in range(len(head))]
    ruled = [head, ["---:" if at and figures[at] else "---" for at in range(len(head))], *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled) + "\n"


def chunks_guessed(corpus):
    """A cap on the chunks of an index: one for each file, and one for each 64 KiB of all that was read."""
    return corpus["tree"]["files"] + corpus["tree"]["bytes"] // 65536


def remarks_of(found, tools, rows, titles=ROW_TITLES):
    """What the rows had to say beside their figures, as a list."""
    lines = []
    for tool in tools:
        for row in rows:
            lines += [f"- {tool}, {titles[row]}: **failed**: {text}" for text in figure(found[tool], row, "failures") or []]
            lines += [f"- {tool}, {titles[row]}: {text}" for text in figure(found[tool], row, "remarks") or []]
    return lines


def mark(tool, row, value):
    return " *" if value is not None and tool != "lifeboat" and not ranked(tool, row) else ""


def overview(result):
    """One line for each corpus and row: Lifeboat's ratios, to the best peer and to restic."""
    lines = []
    for name, corpus in result["corpora"].items():
        found = corpus["summary"]
        for row in ROW_TITLES:
            if row not in found.get("lifeboat", {}):
                continue
            size = "repository_bytes" if row == "first" else "growth_bytes"
            line = [f"{name}, {ROW_TITLES[row]}"]
            for key in ["wall_s", "cpu_s", "peak_bytes"] + ([size] if row in BACKUPS else []):
                whose = best(found, row, key)[1]
                line += [shown(ratio(found, row, key)) + (f" {whose}" if whose else ""), shown(ratio(found, row, key, "restic"))]
            lines.append(line + ["-"] * (9 - len(line)))
    head = ["Lifeboat's ratios", "wall: of the best", "of restic", "CPU: of the best", "of restic"]
    head += ["memory: of the best", "of restic", "size (first) or growth: of the best", "of restic"]
    return table(head, lines) if lines else ""


def corpus_markdown(name, corpus):
    tools, found, tree = list(corpus["summary"]), corpus["summary"], corpus["tree"]
    rows = [row for row in ROW_TITLES if any(row in found[tool] for tool in tools)]
    day = ", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in (corpus["day"] or {}).items() if number)
    text = [f"## {name}\n"]
    text.append(
        f"{tree['files']:,} files, {tree['bytes'] / MIB:,.0f} MiB ({tree['allocated'] / MIB:,.0f} MiB on disk), manifest "
        f"`{tree['manifest'][:16]}`; rounds: {corpus['rounds']}; the day: {day or 'none'}.\n"
    )
    for title, key, divisor, only in FIGURES:
        lines = []
        for row in rows:
            values = [figure(found[tool], row, key) for tool in tools]
            if (only and row not in only) or all(value is None for value in values):
                continue
            cells = [shown(None if value is None else value / divisor) + mark(tool, row, value) for tool, value in zip(tools, values)]
            against = best(found, row, key)[1]
            line = [ROW_TITLES[row], *cells, shown(ratio(found, row, key)) + (f" {against}" if against and "lifeboat" in found else "")]
            line.append(shown(ratio(found, row, key, "restic")))
            if key == "wall_s":
                busy = [figure(found[tool], row, "others_cores") for tool in tools]
                line.append(shown(max((value for value in busy if value is not None), default=None)))
            lines.append(line)
        if lines:
            more = ["others' cores"] if key == "wall_s" else []
            text.append(table([title, *tools, "of the best", "of restic", *more], lines))
    if said := remarks_of(found, tools, rows):
        text.append("\n".join(said) + "\n")
    return "\n".join(text)


NOTE = """A ratio is Lifeboat's figure over the peer's: below 1 is better. "The best" is the best peer of the row that encrypts and does all of
its work; `*` marks figures outside that ranking (no encryption; bupstash's verify is a read of one snapshot to /dev/null). Where nothing
changed, a peer that does not encrypt counts too. """


def markdown(result):
    text = ["# Lifeboat beside its peers\n"]
    versions = [[tool, version] for tool, version in result["tools"].items()]
    text.append(table(["tool", "version"], versions + [[tool, f"**missing**: {why}"] for tool, why in result["missing"].items()]))
    machine = result["machine"]
    memory = f"{machine['memory_bytes'] / MIB:,.0f} MiB of memory"
    settings = f"work on {machine['work_file_system']}; scale {result['scale']}, seed {result['seed']}"
    text.append(f"{machine['cores']} cores, {memory}, {settings}.\n")
    text.append(NOTE + f"Written is {result['written']}.\n")
    text.append(overview(result))
    for name, corpus in result["corpora"].items():
        text.append(corpus_markdown(name, corpus))
    text.append("## Targets\n")
    words = {None: "not measured", True: "met", False: "**missed**"}
    lines = []
    for name, corpus in result["corpora"].items():
        for one in corpus["targets"]:
            lines.append([f"{name}: {one['aim']}", shown(one["figure"]), f"≤ {shown(one['limit'])}", words[one["met"]]])
    text.append(table(["target", "figure", "limit", ""], lines))
    return "\n".join(text)
