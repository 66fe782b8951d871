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


def summary(measured, keys=tuple(key for _, key, _, _ in FIGURES)):
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
            figures = {} if failures else {key: median(one[key] for one in ones) for key in keys if key in ones[0]}
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
    figures = [any(line[at][:1].isdigit() for line in lines) for at in range(len(head))]
    ruled = [head, ["---:" if at and figures[at] else "---" for at in range(len(head))], *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled) + "\n"


def chunks_guessed(corpus):
    """A cap on the chunks of an index: one for each file, and one for each 64 KiB of all that was read."""
    return corpus["tree"]["files"] + corpus["tree"]["bytes"] // 65536


def targets(name, corpus):
    """What was aimed for: (aim, figure, limit, met or None where it was not measured)."""
    found = corpus["summary"]
    size_limit = 0.85 if name in SMALL_FILES else 1.0
    aims = [
        ("first backup, wall against restic", ratio(found, "first", "wall_s"), 0.5),
        ("first backup, CPU against restic", ratio(found, "first", "cpu_s"), 0.4),
        ("nothing changed, wall against restic", ratio(found, "unchanged", "wall_s"), 0.3),
        ("restore, wall against restic", ratio(found, "restore", "wall_s"), 0.6),
        ("repository after the first backup, against restic", ratio(found, "first", "repository_bytes"), size_limit),
    ]
    sizes = [size for size in (ratio(found, row, "repository_bytes") for row in BACKUPS) if size is not None]
    aims.append(("repository at its worst, against restic", max(sizes, default=None), 1.0))
    aims.append(("growth by a day of change, against restic", ratio(found, "changed", "growth_bytes"), 1.0))
    ours = found.get("lifeboat", {})
    peaks = [peak for peak in (figure(ours, row, "peak_bytes") for row in ROW_TITLES) if peak is not None]
    peak_limit = 96 + 1.2 * chunks_guessed(corpus) / MIB
    aims.append(("Lifeboat's peak memory, MiB (96, and 1.2 bytes a chunk)", max(peaks) / MIB if peaks else None, peak_limit))
    return [(aim, value, limit, None if value is None else value <= limit) for aim, value, limit in aims]


def remarks_of(found, tools, rows, titles=ROW_TITLES):
    """What the rows had to say beside their figures, as a list."""
    lines = []
    for tool in tools:
        for row in rows:
            lines += [f"- {tool}, {titles[row]}: **failed**: {text}" for text in figure(found[tool], row, "failures") or []]
            lines += [f"- {tool}, {titles[row]}: {text}" for text in figure(found[tool], row, "remarks") or []]
    return lines


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
            if only and row not in only:
                continue
            values = [figure(found[tool], row, key) for tool in tools]
            cells = [shown(None if value is None else value / divisor) for value in values]
            line = [ROW_TITLES[row], *cells, shown(ratio(found, row, key))]
            if key == "wall_s":
                busy = [figure(found[tool], row, "others_cores") for tool in tools]
                line.append(shown(max((value for value in busy if value is not None), default=None)))
            lines.append(line)
        if lines:
            text.append(table([title, *tools, "ratio"] + (["others' cores"] if key == "wall_s" else []), lines))
    if said := remarks_of(found, tools, rows):
        text.append("\n".join(said) + "\n")
    return "\n".join(text)


def markdown(result):
    text = ["# Lifeboat beside its peer\n"]
    text.append(table(["tool", "version"], [[tool, version] for tool, version in result["tools"].items()]))
    machine = result["machine"]
    memory = f"{machine['memory_bytes'] / MIB:,.0f} MiB of memory"
    settings = f"work on {machine['work_file_system']}; scale {result['scale']}, seed {result['seed']}"
    text.append(f"{machine['cores']} cores, {memory}, {settings}.\n")
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
