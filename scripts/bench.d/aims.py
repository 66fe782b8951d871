"""What Lifeboat aims for in `scripts/bench`, as limits to its figures and to their ratios.

Owns the limits; refuses to measure. "The best peer" is the best that encrypts and does the whole of the row's work; where nothing
changed, one that does not encrypt counts too.
"""

import report
from corpora import MIB
from report import figure, ratio

# {corpus: (wall, CPU, size) as ratios to the best peer, and wall as a ratio to restic's}
FIRST = {
    "source": (0.55, 0.80, 0.78, 0.27),
    "million": (0.68, 0.80, 0.80, 0.20),
    "mixed": (0.60, 0.80, 1.00, None),
    "bigfile": (0.33, 0.52, 1.02, None),
}
# {corpus: (wall, CPU, growth)}
CHANGED = {
    "source": (0.25, 0.25, 0.80),
    "million": (0.25, 0.25, 0.80),
    "mixed": (0.25, 0.30, 0.15),
    "bigfile": (0.20, 0.25, 0.15),
}
UNCHANGED, SOON_SECONDS, UNCHANGED_BYTES = (0.40, 0.40), 0.020, 4096
TOUCHED = (0.45, 0.50)
RESTORE = (0.65, 0.60)
VERIFY = (0.60, 0.60)
LIST_SECONDS = 0.030
# {figure: ratio to restic's and to rustic's}
PRUNE = {"wall_s": 0.3, "cpu_s": 0.3}
MEMORY_ROWS = ["first", "unchanged", "changed", "touched", "restore", "verify"]
MEMORY_BYTES, CHUNK_BYTES = 64 * MIB, 40
TAR_CPU = 1.0


def limits(name):
    """The ratios to the best peer that are aimed for: {(row, figure): limit}."""
    found = {("unchanged", "wall_s"): UNCHANGED[0], ("unchanged", "cpu_s"): UNCHANGED[1]}
    found |= {("touched", "wall_s"): TOUCHED[0], ("touched", "cpu_s"): TOUCHED[1]}
    for row, (wall, cpu) in {"restore": RESTORE, "verify": VERIFY}.items():
        found |= {(row, "wall_s"): wall, (row, "cpu_s"): cpu}
    if name in FIRST:
        for row, figures, key in [("first", FIRST[name], "repository_bytes"), ("changed", CHANGED[name], "growth_bytes")]:
            found |= {(row, "wall_s"): figures[0], (row, "cpu_s"): figures[1], (row, key): figures[2]}
    return found


def aim(text, value, limit, excused=False):
    """`excused`: met although the ratio is not, since so little is at stake."""
    return {"aim": text, "figure": value, "limit": limit, "met": None if value is None else bool(excused or value <= limit)}


def chunks(corpus):
    """The chunks known to the index at the end, as Lifeboat's verify told; else a cap: one for each file, one for each 64 KiB."""
    told = figure(corpus["summary"].get("lifeboat", {}), "verify", "chunks")
    return told if told is not None else report.chunks_guessed(corpus)


def targets(name, corpus):
    """Every aim for the corpus: [{"aim", "figure", "limit", "met": None where it was not measured}]."""
    found = corpus["summary"]
    ours = found.get("lifeboat", {})
    words = {"wall_s": "wall", "cpu_s": "CPU", "repository_bytes": "repository", "growth_bytes": "growth"}
    aims = []
    for (row, key), limit in sorted(limits(name).items(), key=lambda item: list(report.ROW_TITLES).index(item[0][0])):
        mine = figure(ours, row, key)
        soon = row == "unchanged" and mine is not None and mine <= SOON_SECONDS
        text = f"{report.ROW_TITLES[row]}, {words[key]} against the best peer" + (" (or 20 ms)" if row == "unchanged" else "")
        aims.append(aim(text, ratio(found, row, key), limit, soon))
        if (row, key) == ("first", "wall_s") and FIRST[name][3]:
            aims.append(aim("first backup, wall against restic", ratio(found, row, key, "restic"), FIRST[name][3]))
    aims.append(aim("first backup, CPU against tar with zstd -3", ratio(found, "first", "cpu_s", "tar-zstd"), TAR_CPU))
    aims.append(aim("nothing changed, bytes stored", figure(ours, "unchanged", "growth_bytes"), UNCHANGED_BYTES))
    aims.append(aim("all mtimes touched, bytes of content stored anew", figure(ours, "touched", "new_bytes"), 0))
    for peer in ["restic", "rustic"]:
        for key, limit in PRUNE.items():
            text = f"{report.ROW_TITLES['prune']}, {words[key]} against {peer}"
            aims.append(aim(text, ratio(found, "prune", key, peer), limit))
    aims.append(aim("list, seconds", figure(ours, "list", "wall_s"), LIST_SECONDS))
    shares = [share for share in (ratio(found, row, "peak_bytes", "restic") for row in MEMORY_ROWS) if share is not None]
    aims.append(aim("peak memory of backup, restore and verify, the worst against restic's", max(shares, default=None), 1.0))
    peaks = [peak for peak in (figure(ours, row, "peak_bytes") for row in MEMORY_ROWS) if peak is not None]
    limit = (MEMORY_BYTES + CHUNK_BYTES * chunks(corpus)) / MIB
    aims.append(aim("peak memory, MiB (64, and 40 bytes a chunk)", max(peaks) / MIB if peaks else None, limit))
    return aims
