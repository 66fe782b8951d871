"""What `scripts/bench stores` tells: tables for each corpus, and what was aimed for.

Owns the Markdown and the targets; measures nothing.
"""

import report
from report import MIB, chunks_guessed, figure, ratio, shown, table

ROW_TITLES = {"first": "first backup", "unchanged": "nothing changed", "restore": "restore all, no cache", "verify": "verify, all data read"}
VERBS = ["put", "get", "head", "list", "delete", "post"]
# (title, key of a measurement, unit's divisor, whether Lifeboat's over restic's is of interest)
FIGURES = [
    ("Wall seconds", "wall_s", 1, True),
    ("Of the line, by bytes moved", "of_the_line", 1, False),
    ("Round trips' worth of wall time", "round_trips", 1, False),
    ("Sent, MiB", "sent_bytes", MIB, True),
    ("Fetched, MiB", "fetched_bytes", MIB, True),
    ("CPU seconds", "cpu_s", 1, True),
    ("Peak memory of the largest process, MiB", "peak_bytes", MIB, True),
    ("Repository after the row, MiB", "repository_bytes", MIB, True),
]


def summary(measured):
    return report.summary(measured, [key for _, key, _, _ in FIGURES] + VERBS + ["requests", "connections", "plain_s"])


def targets(corpus):
    """What was aimed for: (aim, figure, limit, met or None where it was not measured)."""
    ours = corpus["summary"].get("lifeboat", {})
    peaks = [peak for peak in (figure(ours, row, "peak_bytes") for row in ROW_TITLES) if peak is not None]
    aims = [
        ("first backup, of the line", figure(ours, "first", "of_the_line"), 0.9, True),
        ("restore, of the line", figure(ours, "restore", "of_the_line"), 0.9, True),
        ("nothing changed, in round trips", figure(ours, "unchanged", "round_trips"), 4, False),
        ("peak memory, MiB (256, and 1.2 bytes a chunk)", max(peaks) / MIB if peaks else None, 256 + 1.2 * chunks_guessed(corpus) / MIB, False),
    ]
    return [(aim, value, limit, None if value is None else (value >= limit) == at_least) for aim, value, limit, at_least in aims]


def corpus_markdown(name, corpus):
    names, found, tree = list(corpus["summary"]), corpus["summary"], corpus["tree"]
    rows = [row for row in ROW_TITLES if any(row in found[tool] for tool in names)]
    text = [f"## {name}\n", f"{tree['files']:,} files, {tree['bytes'] / MIB:,.0f} MiB, manifest `{tree['manifest'][:16]}`; rounds: {corpus['rounds']}.\n"]
    for title, key, divisor, compared in FIGURES:
        lines = []
        for row in rows:
            values = [figure(found[tool], row, key) for tool in names]
            line = [ROW_TITLES[row], *(shown(None if value is None else value / divisor) for value in values)]
            if compared:
                line.append(shown(ratio(found, row, key, "restic")))
            if key == "wall_s":
                busy = [value for value in (figure(found[tool], row, "others_cores") for tool in names) if value is not None]
                line.append(shown(max(busy, default=None)))
            lines.append(line)
        head = [title, *names] + (["ratio"] if compared else []) + (["others' cores"] if key == "wall_s" else [])
        text.append(table(head, lines))
    lines = []
    for row in rows:
        for tool in names:
            values = [figure(found[tool], row, key) for key in [*VERBS, "connections"]]
            lines.append([f"{ROW_TITLES[row]}, {tool}", *("-" if value is None else f"{value:.0f}" for value in values)])
    text.append(table(["Requests", *(verb.upper() for verb in VERBS), "connections"], lines))
    if said := report.remarks_of(found, names, rows, ROW_TITLES):
        text.append("\n".join(said) + "\n")
    return "\n".join(text)


def markdown(result):
    text = ["# Lifeboat and its peer on a cloud store\n"]
    text.append(table(["tool", "version"], [[tool, version] for tool, version in result["tools"].items()]))
    line = f"round trip {result['round_trip_ms']:g} ms, {result['rate_mbit']:g} Mbit/s each way"
    text.append(f"{result['machine']['cores']} cores; S3 in memory, no TLS; {line}; scale {result['scale']}, seed {result['seed']}.\n")
    text += [corpus_markdown(name, corpus) for name, corpus in result["corpora"].items()]
    words = {None: "not measured", True: "met", False: "**missed**"}
    lines = []
    for name, corpus in result["corpora"].items():
        for aim, value, limit, met in targets(corpus):
            lines.append([f"{name}: {aim}", shown(value), f"{'≥' if 'of the line' in aim else '≤'} {shown(limit)}", words[met]])
    text += ["## Targets\n", table(["target", "figure", "limit", ""], lines)]
    return "\n".join(text)
