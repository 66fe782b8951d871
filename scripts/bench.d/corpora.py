"""The corpora: four shapes from a seed and a scale, and a real tree of this machine.

Owns what a tree holds before anything happens to it; what a day does to it is in changes.py. At scale 1:

    source   30,292 text files, 283 MiB, in projects of nested folders; tar and zstd -3 make 78 MiB of it
    mixed    819 files, 868 MiB: photographs, clips, documents, logs, two SQL dumps and a disk image with holes
    million  60,000 files of 2 KiB on average, 115 MiB; tar and zstd -3 make 27 MiB of it
    bigfile  one disk image, 2,451 MiB long with 608 MiB of data, two fifths of it random
    real     300 MiB of the machine's own files: half of /usr/share, the rest C headers, Python and, where they lie here, Rust crates

The scale multiplies the number of small files and the length of large ones. `real` is another tree on another machine, and copied once
for a run, so that every round sees the same.
"""

import glob
import hashlib
import math
import os
import random
import shutil
import stat

from text import Language, raw, word

MIB = 1 << 20
BLOCK = 4096
FILE_BLOCKS = 16  # the mean length of a file in a disk image
NAMES = ["source", "mixed", "million", "bigfile", "real"]
SMALL_FILES = {"source", "million"}
MILLION_FILES = 60_000
# What a round needs at scale 1: (the tree and a restored one, a tool's repository with its growth and its caches).
ROOM_BYTES = {
    "source": (800 * MIB, 330 * MIB),
    "mixed": (1800 * MIB, 1000 * MIB),
    "million": (600 * MIB, 280 * MIB),
    "bigfile": (3200 * MIB, 1200 * MIB),
    "real": (1300 * MIB, 330 * MIB),
}
REAL_BYTES = 300 * MIB
REAL_FILE_BYTES_MAX = 16 * MIB
# Half of the bytes come from the first, half of the rest from the next.
REAL_PLACES = ["/usr/share", "/usr/include", "/usr/lib/python3*", "~/.cargo/registry/src"]

EPOCH_NS = 1_700_000_000 * 10**9
YEAR_NS = 365 * 86_400 * 10**9
DAY_NS = 86_400 * 10**9


def room(name, tools):
    """Bytes that a round of the corpus takes with so many tools, at scale 1."""
    trees, each = ROOM_BYTES[name]
    return trees + each * tools


def scale_of(name, options):
    """The scale of one corpus: `million` may be asked for in another number of files."""
    return options.scale * (options.tiny_files or MILLION_FILES) / MILLION_FILES if name == "million" else options.scale


def count(full, scale):
    return max(1, round(full * scale))


def stamp(root, path, day=0):
    """Gives an entry a time that follows from its path and the day, nanoseconds and all; on day 0 somewhen in the year before."""
    lot = int.from_bytes(hashlib.sha256(os.path.relpath(path, root).encode()).digest()[:8], "little")
    time = EPOCH_NS - lot % YEAR_NS if day == 0 else EPOCH_NS + day * DAY_NS + lot % DAY_NS
    os.utime(path, ns=(time, time), follow_symlinks=False)


def settle(root):
    """Stamps the whole tree, a folder after what it holds."""
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            stamp(root, os.path.join(folder, name))
        stamp(root, folder)


def put(path, data, mode=0o644):
    """Writes a new file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)


def put_pieces(path, pieces):
    with open(path, "xb") as file:
        for piece in pieces:
            file.write(piece)


def sizes_of(dice, files, mean, sigma, least):
    """Lengths after a log-normal law, which sum to `files * mean` but for rounding."""
    drawn = [dice.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma) for _ in range(files)]
    factor = files * mean / sum(drawn)
    return [max(least, int(size * factor)) for size in drawn]


def unused(taken, name):
    """`name`, or the first like it that its folder does not hold yet."""
    stem, ending = os.path.splitext(name)
    again = 1
    while name in taken:
        again += 1
        name = f"{stem}{again}{ending}"
    taken.add(name)
    return name


def source_language(seed):
    return Language(f"{seed} source", 1500, 6000, 0.15, 0.06, 5, 1)


def million_language(seed):
    return Language(f"{seed} million", 1500, 4000, 0.42, 0.1, 7, 2)


def source(root, scale, seed):
    dice = random.Random(f"{seed} source tree")
    files, projects = count(30292, scale), count(24, scale)
    common = source_language(seed)
    sizes = sizes_of(dice, files, 283 * MIB / 30292, 1.2, 40)
    endings = [".rs"] * 8 + [".c", ".h", ".h", ".py", ".py", ".md", ".toml", ".json", ".sh"]
    for project in range(projects):
        language = common.dialect(Language(f"{seed} source {project}", 1500, 6000, 0.15, 0.06, 5, 1), 0.5)
        mine = sizes[project * files // projects : (project + 1) * files // projects]
        folders, taken = [f"{root}/{word(dice)}-{project}"], {}
        os.makedirs(folders[0])
        for _ in range(len(mine) // 12):
            parent = folders[int(len(folders) * dice.random())]
            if parent.count("/") - root.count("/") < 6:
                folders.append(f"{parent}/{unused(taken.setdefault(parent, set()), word(dice))}")
                os.mkdir(folders[-1])
        for number, size in enumerate(mine):
            folder, ending = folders[int(len(folders) * dice.random())], endings[int(len(endings) * dice.random())]
            name = unused(taken.setdefault(folder, set()), f"{word(dice)}_{word(dice)}{ending}")
            put(f"{folder}/{name}", language.file(f"{seed} {project}/{number}", size, 0.3, dice), 0o755 if ending == ".sh" else 0o644)
        os.symlink("README.md", f"{folders[0]}/CURRENT")  # leads nowhere, as some do


def million(root, scale, seed):
    dice = random.Random(f"{seed} million tree")
    files = count(MILLION_FILES, scale)
    folders = count(240, scale)
    common = million_language(seed)
    sizes = sizes_of(dice, files, 115 * MIB / MILLION_FILES, 0.7, 40)
    for folder in range(folders):
        if folder % 24 == 0:
            language = common.dialect(Language(f"{seed} million {folder}", 1500, 4000, 0.42, 0.1, 7, 2), 0.3)
        place = f"{root}/{folder // 16:02x}/{folder % 16:02x}"
        os.makedirs(place)
        for number in range(folder * files // folders, (folder + 1) * files // folders):
            put(f"{place}/{number:06}.msg", language.file(f"{seed} {number}", sizes[number], 0.1, dice), 0o600)


def dump_rows(seed):
    """A dump's text: words in quotes, and numbers that do not come again."""
    return Language(f"{seed} dump", 4000, 3000, 0.14, 0.26, 5, 1)


def image(path, length, data, random_share, language, seed):
    """A disk image: extents of data of 64 KiB to 4 MiB with holes between; in them one file beside the other, each random or text."""
    dice = random.Random(f"{seed} image")
    extents, drawn = [], 0
    while drawn < data:
        extents.append(min(data - drawn, 64 * 1024 + int(dice.random() * 4 * MIB)))
        drawn += extents[-1]
    holes = [dice.random() + 0.05 for _ in extents]
    factor = (length - data) / sum(holes)
    at = 0.0
    with open(path, "xb") as file:
        for number, (extent, hole) in enumerate(zip(extents, holes)):
            at += hole * factor
            file.seek(int(at) // BLOCK * BLOCK)
            left, piece = max(BLOCK, extent // BLOCK * BLOCK), 0
            while left:
                size = min(left, BLOCK * int(1 + dice.expovariate(1 / FILE_BLOCKS)))
                key = f"{seed} extent {number} {piece}"
                file.write(raw(key, size) if dice.random() < random_share else language.flat(key, size))
                left, piece = left - size, piece + 1
            at += extent
        file.truncate(max(length // BLOCK * BLOCK, file.tell()))


def mixed(root, scale, seed):
    dice = random.Random(f"{seed} mixed tree")
    for folder in ["photos", "clips", "documents", "logs", "database", "machines"]:
        os.makedirs(f"{root}/{folder}")
    for kind, ending, files, mean in [("photos", ".jpg", 200, 0.9 * MIB), ("clips", ".mp4", 40, 6.25 * MIB)]:
        for number, size in enumerate(sizes_of(dice, count(files, scale), mean, 0.5, 1000)):
            put(f"{root}/{kind}/{kind[:-1]}-{number:03}{ending}", raw(f"{seed} {kind} {number}", size))
    prose, rows = source_language(seed), dump_rows(seed)
    for number, size in enumerate(sizes_of(dice, count(540, scale), 34 * 1024, 1.0, 200)):
        put(f"{root}/documents/{word(dice)}-{number:03}.txt", prose.file(f"{seed} document {number}", size, 0.2, dice))
    talk = Language(f"{seed} logs", 800, 1500, 0.7, 0.12, 9, 3)
    for number, size in enumerate(sizes_of(dice, count(36, scale), 100 * MIB / 36, 0.6, 1000)):
        put_pieces(f"{root}/logs/service-{number:02}.log", talk.stream(f"{seed} log {number}", size))
    for number in range(2):
        put_pieces(f"{root}/database/base-{number}.sql", rows.stream(f"{seed} dump {number}", int(60 * MIB * scale)))
    image(f"{root}/machines/disk.img", int(200 * MIB * scale), int(156 * MIB * scale), 0.3, prose, f"{seed} mixed")


def bigfile(root, scale, seed):
    image(f"{root}/machine.img", int(2451 * MIB * scale), int(608 * MIB * scale), 0.43, source_language(seed), f"{seed} bigfile")


def copy_some(place, root, wanted):
    """Copies regular files and symbolic links of the tree at `place` until `wanted` bytes are there; how many came."""
    copied = 0
    for folder, folders, files in os.walk(place):
        folders.sort()
        here = os.path.join(root, os.path.relpath(folder, "/"))
        for name in sorted(files):
            source = os.path.join(folder, name)
            facts = os.lstat(source)
            if copied >= wanted:
                return copied
            if stat.S_ISLNK(facts.st_mode):
                os.makedirs(here, exist_ok=True)
                os.symlink(os.readlink(source), os.path.join(here, name))
            elif stat.S_ISREG(facts.st_mode) and facts.st_size <= REAL_FILE_BYTES_MAX and os.access(source, os.R_OK):
                os.makedirs(here, exist_ok=True)
                shutil.copyfile(source, os.path.join(here, name))
                os.chmod(os.path.join(here, name), 0o755 if facts.st_mode & 0o100 else 0o644)
                copied += facts.st_size
    return copied


def real(root, scale, stage):
    """A copy of the run's own copy at `stage` of some of this machine's files."""
    if not os.path.isdir(stage):
        left = int(REAL_BYTES * scale)
        for at, pattern in enumerate(REAL_PLACES):
            for place in sorted(glob.glob(os.path.expanduser(pattern))):
                left -= copy_some(place, stage, left if at == len(REAL_PLACES) - 1 else left // 2)
    shutil.copytree(stage, root, symlinks=True, dirs_exist_ok=True)


def generate(name, root, scale, seed):
    """Builds the corpus `name` at `root`, which must not exist yet; `real` leaves its stage two folders above, beside the rounds."""
    os.mkdir(root)
    if name == "real":
        real(root, scale, os.path.join(os.path.dirname(os.path.dirname(root)), f"real-{scale}"))
    else:
        {"source": source, "mixed": mixed, "million": million, "bigfile": bigfile}[name](root, scale, seed)
    settle(root)
