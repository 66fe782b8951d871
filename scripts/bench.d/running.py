"""What every benchmark does around its measurements: finds the tools, runs one command, knows the machine.

Owns how a command is started and what is told of one that failed; refuses to know what is measured.
"""

import os
import subprocess
import sys

import corpora
import fetch
from trees import Tree, differences

PARTS = os.path.dirname(os.path.realpath(__file__))
MIB = 1 << 20
COMMAND_SECONDS = 1800
TOLD_CHARACTERS = 1 << 16
LISTED_DIFFERENCES = 8


def say(text):
    print(text, file=sys.stderr, flush=True)


def wrong(text):
    say(f"bench: {text}")
    raise SystemExit(2)


def run(tool, command):
    """Runs one command of a tool: (what it took, and what the tool itself told of it; the failures)."""
    logs = [f"{tool.home}/output", f"{tool.home}/errors"]
    launcher = [sys.executable, "-I", "-S", f"{PARTS}/measure.py", str(COMMAND_SECONDS), *logs, "--", *command]
    answer = subprocess.run(launcher, env=tool.environment(), stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        return {}, [f"could not start {command[0]}"]
    code, wall, user, system, peak, others, handed, dirtied = answer.stdout.split()
    took = {"wall_s": float(wall), "user_s": float(user), "system_s": float(system), "cpu_s": float(user) + float(system)}
    took |= {"peak_bytes": int(peak) * 1024, "others_cores": float(others)}
    if handed != "-":
        took |= {"handed_bytes": int(handed), "dirtied_bytes": int(dirtied)}
    if int(code) == 0:
        with open(logs[0], encoding="utf-8", errors="replace") as file:
            return took | tool.told(file.read(TOLD_CHARACTERS)), []
    with open(logs[1], encoding="utf-8", errors="replace") as file:
        last = " / ".join(file.read().strip().splitlines()[-3:])
    return took, [f"`{os.path.basename(command[0])} {command[1]}` ended with {code}: {last}"]


def compare(wanted, place):
    """In what the tree at `place` is not the `wanted` one: (failures, remarks)."""
    if not os.path.isdir(place):
        return ["nothing was restored"], []
    failures, remarks = differences(wanted, Tree(place))
    more = len(failures) - LISTED_DIFFERENCES
    return failures[:LISTED_DIFFERENCES] + ([f"and {more} more differences"] if more > 0 else []), remarks


def find_binaries(options, may_be_missing=True):
    """The tools asked for: ({name: path}, {name: version}, {name of one that is missing: why}).

    By default all are used that are there or take but a download; one that takes a build is built if it was asked for by name.
    """
    binaries, versions, missing = {}, {}, {}
    for name in options.tools:
        given = {"lifeboat": options.lifeboat, "restic": options.restic}.get(name)
        try:
            if given:
                binaries[name] = os.path.abspath(given)
                versions[name] = fetch.version(name, binaries[name])
            else:
                binaries[name], versions[name] = fetch.peer(os.path.abspath(options.cache), name, options.named)
        except OSError as cause:
            hint = "name another with --restic PATH"
            if name == "lifeboat":
                hint = "build it with `cargo build --release`, or name it with --lifeboat PATH"
            wrong(f"{binaries[name]} does not run ({cause.strerror}); {hint}")
        except fetch.Unfetched as cause:
            missing[name] = str(cause)
            say(f"{name} is missing: {cause}")
    if missing and not may_be_missing:
        wrong("leave it out with --tools lifeboat, or name one with --restic PATH")
    return binaries, versions, missing


def file_system_of(path):
    """The type of the file system that holds `path`."""
    best = ("", "unknown")
    with open("/proc/self/mounts", encoding="utf-8") as file:
        for line in file:
            _, place, kind, *_ = line.split()
            if (path == place or path.startswith(place.rstrip("/") + "/")) and len(place) >= len(best[0]):
                best = (place, kind)
    return best[1]


def on_memory(path):
    """Whether what is written at `path` reaches no disk."""
    return file_system_of(path) in ("tmpfs", "ramfs")


def check_room(options):
    room = os.statvfs(options.work)
    free = room.f_bavail * room.f_frsize
    rooms = [corpora.room(name, len(options.tools)) * corpora.scale_of(name, options) for name in options.corpus]
    needed = int(sum(rooms) * options.rounds if options.keep else max(rooms))
    if free < needed:
        places = f"{options.work} has {free // MIB} MiB free and {needed // MIB} are wanted"
        wrong(f"{places}; name another place with --work DIR, or a smaller --scale")


def machine(options):
    """Cores, memory and the work file system, for the report."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cores": len(os.sched_getaffinity(0)), "memory_bytes": memory, "work_file_system": file_system_of(options.work)}
