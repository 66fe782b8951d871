"""What a day does to a corpus, and what a careless copy does to its times.

Owns every change between two backups. Files are chosen by the seed out of the sorted paths, and whatever changes is given the time
of its day, so that the tree afterwards is the same on every machine.
"""

import os
import random

from corpora import DAY_NS, MIB, count, dump_rows, million_language, put, source_language, stamp
from text import raw

# At scale 1; of the image, one part in a hundred of its whole length is written, holes included.
SMALL_FILES_DAY = {
    "source": {"edited": 600, "renamed": 151, "deleted": 150, "created": 300},
    "million": {"edited": 1200, "renamed": 301, "deleted": 300, "created": 600},
}
# Of a real tree, as a share of its files.
REAL_DAY = {"edited": 0.02, "renamed": 0.005, "deleted": 0.005, "created": 0.01}
MIXED_DAY = {"edited": 17, "inserted": 2, "renamed": 4, "deleted": 4, "created": 8}
SCATTERED_BYTES = 16 * 1024


def regular_files(root):
    """The regular files below `root`, sorted."""
    found = []
    for folder, _, files in os.walk(root):
        found += [path for path in (f"{folder}/{name}" for name in files) if not os.path.islink(path)]
    return sorted(found)


class Day:
    """One day's changes to a tree; remembers what it changed, to stamp it at the end."""

    def __init__(self, root, seed):
        self.root, self.dice = root, random.Random(f"{seed} day")
        self.changed, self.counts = set(), {"edited": 0, "inserted": 0, "renamed": 0, "deleted": 0, "created": 0, "written_bytes": 0}

    def did(self, what, written, *paths):
        self.counts[what] += 1
        self.counts["written_bytes"] += written
        self.changed.update(paths)

    def replace(self, what, path, edit):
        """Gives the file the bytes that `edit` makes of its own, in place."""
        with open(path, "r+b") as file:
            data = edit(file.read())
            file.seek(0)
            file.write(data)
            file.truncate()
        self.did(what, len(data), path)

    def rename(self, path, to):
        os.rename(path, to)
        self.did("renamed", 0, os.path.dirname(path), os.path.dirname(to))

    def delete(self, path):
        os.unlink(path)
        self.did("deleted", 0, os.path.dirname(path))

    def create(self, path, data):
        put(path, data)
        self.did("created", len(data), path, os.path.dirname(path))

    def scatter(self, path, seed):
        """Writes random blocks of 16 KiB over one part in a hundred of the file's length."""
        length = os.path.getsize(path)
        blocks = max(1, length // 100 // SCATTERED_BYTES)
        places = self.dice.sample(range(max(blocks, length // SCATTERED_BYTES)), blocks)
        with open(path, "r+b") as file:
            for number, place in enumerate(sorted(places)):
                file.seek(place * SCATTERED_BYTES)
                file.write(raw(f"{seed} scattered {number}", min(SCATTERED_BYTES, length - place * SCATTERED_BYTES)))
        self.did("edited", blocks * SCATTERED_BYTES, path)

    def end(self):
        # A file first and its folder after; neither moves the other's time.
        for path in sorted(self.changed):
            if os.path.lexists(path):
                stamp(self.root, path, day=1)
        return self.counts


def rewritten(data, dice, text):
    """`data` with up to three passages replaced by others of about their length."""
    for _ in range(1 + int(3 * dice.random())):
        at, old, new = (int(dice.random() * part) for part in (len(data), 160, 160))
        start = int(dice.random() * (len(text) - new))
        data = data[:at] + text[start : start + new] + data[at + old :]
    return data


def small_files_day(name, root, scale, seed):
    day = Day(root, seed)
    files = regular_files(root)
    if name == "real":
        wanted = {what: count(len(files), share) for what, share in REAL_DAY.items()}
    else:
        wanted = {what: count(number, scale) for what, number in SMALL_FILES_DAY[name].items()}
    touched = day.dice.sample(files, min(len(files), wanted["edited"] + wanted["renamed"] + wanted["deleted"]))
    language = million_language(seed) if name == "million" else source_language(seed)
    text = language.flat(f"{seed} edits", MIB)
    edited, rest = touched[: wanted["edited"]], touched[wanted["edited"] :]
    for path in edited:
        day.replace("edited", path, lambda data: rewritten(data, day.dice, text))
    for path in rest[: wanted["renamed"]]:
        elsewhere = os.path.dirname(files[int(day.dice.random() * len(files))])
        folder = elsewhere if day.dice.random() < 0.5 else os.path.dirname(path)
        day.rename(path, f"{folder}/moved-{os.path.basename(path)}")
    for path in rest[wanted["renamed"] :]:
        day.delete(path)
    for number in range(wanted["created"]):
        folder = os.path.dirname(files[int(day.dice.random() * len(files))])
        size = os.path.getsize(edited[number % len(edited)]) + 1
        day.create(f"{folder}/new-{number}.txt", language.file(f"{seed} new {number}", size, 0.2, day.dice))
    return day.end()


def mixed_day(root, scale, seed):
    day = Day(root, seed)
    below = lambda folder: [path for path in regular_files(f"{root}/{folder}")]
    pick = lambda paths, number: day.dice.sample(paths, min(len(paths), number))
    prose, rows = source_language(seed), dump_rows(seed)
    day.scatter(f"{root}/machines/disk.img", f"{seed} mixed")
    for path in pick(below("logs"), 8):
        day.replace("edited", path, lambda data: data + prose.flat(f"{seed} tail {len(data)}", int(128 * 1024 * scale) + 200))
    documents = pick(below("documents"), 8 + 4)
    for path in documents[:8]:
        day.replace("edited", path, lambda data: rewritten(data, day.dice, prose.flat(f"{seed} edits", 65536)))
    for path in below("database"):
        # Rows come in at three places, so that all that follows them moves.
        fresh = [rows.flat(f"{seed} rows {path[-5]} {number}", int(64 * 1024 * scale) + 100) for number in range(3)]
        cuts = lambda data: [0, len(data) // 20, len(data) // 3, len(data) * 2 // 3, len(data)]
        day.replace("inserted", path, lambda data: b"".join(
            data[start:end] + more for start, end, more in zip(cuts(data), cuts(data)[1:], [*fresh, b""])))
    for path in pick(below("clips"), 2) + pick(below("photos"), 2):
        day.rename(path, f"{os.path.dirname(path)}/kept-{os.path.basename(path)}")
    for path in documents[8:]:
        day.delete(path)
    for number in range(MIXED_DAY["created"]):
        if number < 2:
            day.create(f"{root}/photos/new-{number}.jpg", raw(f"{seed} new {number}", int(0.9 * MIB * scale) + 1000))
        else:
            day.create(f"{root}/documents/new-{number}.txt", prose.file(f"{seed} new {number}", 34 * 1024, 0.2, day.dice))
    return day.end()


def bigfile_day(root, seed):
    day = Day(root, seed)
    day.scatter(f"{root}/machine.img", f"{seed} bigfile")
    return day.end()


def pass_a_day(name, root, scale, seed):
    """Changes the corpus as a day of work does, and returns what was done."""
    if name == "mixed":
        return mixed_day(root, scale, seed)
    return bigfile_day(root, seed) if name == "bigfile" else small_files_day(name, root, scale, seed)


def touch_all(root):
    """Moves the time of every regular file by two days; no byte changes."""
    files = regular_files(root)
    for path in files:
        time = os.stat(path).st_mtime_ns + 2 * DAY_NS
        os.utime(path, ns=(time, time))
    return {"touched": len(files)}
