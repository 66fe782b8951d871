"""From measurements to tables: medians, ratios, and what was aimed for.

Owns the Markdown and the targets; measures nothing. A ratio is Lifeboat's figure over restic's, of the same row: below one is better.
"""

from statistics import median

from corpora import SMALL_FILES

MIB = 1 << 20
ROW_TITLES = {
    "first": "first backup",
    "unchanged": "nothing changed",
    "changed": "a day of change",
    "touched": "all mtimes touched",
    "restore": "restore all",
    "verify": "verify, all data read",
    "list": "list",
}
BACKUPS = ["first", "unchanged", "changed", "touched"]
# (title, key of a measurement, unit's divisor, rows it is shown for)
FIGURES = [
    ("Wall seconds", "wall_s", 1, None),
    ("CPU seconds (user and system, children included)", "cpu_s", 1, None),
    ("Peak memory of the largest process, MiB", "peak_bytes", MIB, None),
    ("Repository after the row, MiB", "repository_bytes", MIB, BACKUPS),
    ("Growth of the repository by the row, MiB", "growth_bytes", MIB, BACKUPS),
]


def summary(measured):
    """Medians over the rounds: {tool: {row: {figure: median, "failures": […], "remarks": […]}}}. A row with any failure has no figures."""
    tools = {}
    for one in measured:
        tools.setdefault(one["tool"], {}).setdefault(one["row"], []).append(one)
    result = {}
    for tool, rows in tools.items():
        for row, ones in rows.items():
            failures = [text for one in ones for text in one["failures"]]
            remarks = sorted({text for one in ones for text in one["remarks"]})
            figures = {} if failures else {key: median(one[key] for one in ones) for _, key, _, _ in FIGURES}
            if not failures:
                figures["others_cores"] = median(one["others_cores"] for one in ones)
                figures["rounds"] = len(ones)
            result.setdefault(tool, {})[row] = figures | {"failures": failures, "remarks": remarks}
    return result


def figure(rows, row, key):
    return rows.get(row, {}).get(key)


def ratio(summaries, row, key):
    """Lifeboat's over restic's, or None where either is missing."""
    ours, theirs = (figure(summaries.get(tool, {}), row, key) for tool in ("lifeboat", "restic"))
    return ours / theirs if ours is not None and theirs else None


def shown(value):
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def table(head, lines):
    ruled = [head, ["---"] + ["---:"] * (len(head) - 1), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled) + "\n"


def chunks_guessed(corpus):
    """A cap on the chunks of an index: one for each file, and one for each 64 KiB of all that was read."""
    return corpus["tree"]["files"] + corpus["tree"]["bytes"] // 65536


def targets(name, corpus):
    """What was aimed for: (aim, figure, limit, met or None where it was not measured)."""
    found = corpus["summary"]
    ratios = [
        ("first backup, wall against restic", ratio(found, "first", "wall_s"), 0.5),
        ("first backup, CPU against restic", ratio(found, "first", "cpu_s"), 0.4),
        ("nothing changed, wall against restic", ratio(found, "unchanged", "wall_s"), 0.3),
        ("restore, wall against restic", ratio(found, "restore", "wall_s"), 0.6),
        ("repository after the first backup, against restic", ratio(found, "first", "repository_bytes"), 0.85 if name in SMALL_FILES else 1.0),
    ]
    sizes = [size for size in (ratio(found, row, "repository_bytes") for row in BACKUPS) if size is not None]
    ratios.append(("repository at its worst, against restic", max(sizes, default=None), 1.0))
    ratios.append(("growth by a day of change, against restic", ratio(found, "changed", "growth_bytes"), 1.0))
    peaks = [peak for peak in (figure(found.get("lifeboat", {}), row, "peak_bytes") for row in ROW_TITLES) if peak is not None]
    limit = 96 + 1.2 * chunks_guessed(corpus) / MIB
    ratios.append(("Lifeboat's peak memory, MiB (96, and 1.2 bytes a chunk)", max(peaks) / MIB if peaks else None, limit))
    return [(aim, value, limit, None if value is None else value <= limit) for aim, value, limit in ratios]


def corpus_markdown(name, corpus):
    tools, found, tree = list(corpus["summary"]), corpus["summary"], corpus["tree"]
    rows = [row for row in ROW_TITLES if any(row in found[tool] for tool in tools)]
    text = [f"## {name}\n"]
    text.append(
        f"{tree['files']:,} files, {tree['bytes'] / MIB:,.0f} MiB ({tree['allocated'] / MIB:,.0f} MiB on disk); rounds: {corpus['rounds']}; "
        f"manifest `{tree['manifest'][:16]}`; the day: {corpus['day'] or 'none'}\n"
    )
    for title, key, divisor, only in FIGURES:
        lines = []
        for row in rows:
            if only and row not in only:
                continue
            values = [figure(found[tool], row, key) for tool in tools]
            line = [ROW_TITLES[row], *(shown(None if value is None else value / divisor) for value in values), shown(ratio(found, row, key))]
            if key == "wall_s":
                busy = [figure(found[tool], row, "others_cores") for tool in tools]
                line.append(shown(max((value for value in busy if value is not None), default=None)))
            lines.append(line)
        if lines:
            text.append(table([title, *tools, "ratio"] + (["others' cores"] if key == "wall_s" else []), lines))
    said = [(tool, row, kind, line) for tool in tools for row in rows for kind in ("failures", "remarks") for line in figure(found[tool], row, kind) or []]
    if said:
        text.append("\n".join(f"- {tool}, {ROW_TITLES[row]}: {'**failed**: ' if kind == 'failures' else ''}{line}" for tool, row, kind, line in said) + "\n")
    return "\n".join(text)


def markdown(result):
    text = ["# Lifeboat beside its peer\n"]
    text.append(table(["tool", "version"], [[tool, version] for tool, version in result["tools"].items()]))
    machine = result["machine"]
    text.append(f"{machine['cores']} cores, {machine['memory_bytes'] / MIB:,.0f} MiB of memory, work on {machine['work_file_system']}; scale {result['scale']}, seed {result['seed']}.\n")
    for name, corpus in result["corpora"].items():
        text.append(corpus_markdown(name, corpus))
    text.append("## Targets\n")
    words = {None: "not measured", True: "met", False: "**missed**"}
    lines = []
    for name, corpus in result["corpora"].items():
        for aim, value, limit, met in targets(name, corpus):
            lines.append([f"{name}: {aim}", shown(value), f"≤ {shown(limit)}", words[met]])
    text.append(table(["target", "figure", "limit", ""], lines))
    return "\n".join(text)
