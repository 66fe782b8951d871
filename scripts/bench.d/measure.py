"""Runs one command and says what it took: `python3 -I -S measure.py SECONDS OUTPUT ERRORS -- COMMAND…`.

A program of its own, because a child's peak memory starts at that of the process that started it: this one stays small (about
9 MiB, which is thus the least that any row can show). Prints on one line: exit code (negative: a signal), wall seconds, user and
system CPU seconds with all waited-for children, peak KiB of the largest process, the cores that the rest of the machine used, and the
bytes that the command and its children gave to write() and dirtied on disks (`-` where the kernel does not count them).
"""

import os
import signal
import sys
import time


def busy_seconds():
    """CPU seconds of the whole machine so far, idle and waiting not counted; None where it does not say."""
    try:
        with open("/proc/stat", "rb") as file:
            ticks = [int(part) for part in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def written():
    """What this process and the children it has waited for wrote so far, by `wchar` and by `write_bytes`; None where nobody counts."""
    try:
        with open("/proc/self/io", "rb") as file:
            counts = dict(line.split(b": ") for line in file)
        return int(counts[b"wchar"]), int(counts[b"write_bytes"])
    except (OSError, ValueError, KeyError):
        return None


def main():
    limit, output, errors, mark, *command = sys.argv[1:]
    assert mark == "--"
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    streams = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    streams += [(os.POSIX_SPAWN_OPEN, 1, output, write, 0o600), (os.POSIX_SPAWN_OPEN, 2, errors, write, 0o600)]
    written_before = written()
    before, start = busy_seconds(), time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=streams, setpgroup=0)

    def stop(*_):
        os.killpg(child, signal.SIGKILL)

    for name in [signal.SIGALRM, signal.SIGINT, signal.SIGTERM]:
        signal.signal(name, stop)
    signal.alarm(int(limit))
    _, status, used = os.wait4(child, 0)
    wall = time.perf_counter() - start
    signal.alarm(0)
    after = busy_seconds()
    cpu = used.ru_utime + used.ru_stime
    others = 0.0 if before is None or after is None else max(0.0, (after - before - cpu) / wall)
    written_after = written()
    counted = written_before and written_after
    wrote = [now - then for now, then in zip(written_after, written_before)] if counted else ["-", "-"]
    print(os.waitstatus_to_exitcode(status), wall, used.ru_utime, used.ru_stime, used.ru_maxrss, others, *wrote)


main()
