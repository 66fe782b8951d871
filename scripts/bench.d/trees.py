"""What a tree holds, and in what another differs from it.

Owns the comparison that decides whether a restore counts. It reads every byte of both trees: a tool that is fast because it
restores something else has not won.
"""

import hashlib
import os
import stat

READ_BYTES = 1 << 20


def digest(path, size):
    if size <= READ_BYTES:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    hasher, buffer = hashlib.sha256(), bytearray(READ_BYTES)
    with open(path, "rb", buffering=0) as file:
        while filled := file.readinto(buffer):
            hasher.update(memoryview(buffer)[:filled])
    return hasher.hexdigest()


class Tree:
    """Everything below a folder: `entries` by relative path ("" is the folder itself), and sums."""

    def __init__(self, root):
        self.entries, self.files, self.bytes, self.allocated = {}, 0, 0, 0
        self._add(os.fsencode(root), b"")
        lines = sorted(repr(item).encode() for item in self.entries.items() if item[0])
        self.manifest = hashlib.sha256(b"\n".join(lines)).hexdigest()

    def _add(self, path, name):
        facts = os.lstat(path)
        kind = stat.S_IFMT(facts.st_mode)
        entry = {"type": kind, "mode": oct(stat.S_IMODE(facts.st_mode)), "mtime": facts.st_mtime_ns}
        if kind == stat.S_IFREG:
            entry |= {"size": facts.st_size, "content": digest(path, facts.st_size)}
            self.files, self.bytes, self.allocated = self.files + 1, self.bytes + facts.st_size, self.allocated + facts.st_blocks * 512
        elif kind == stat.S_IFLNK:
            entry["content"] = os.readlink(path)
        self.entries[name] = entry
        if kind == stat.S_IFDIR:
            for child in sorted(os.listdir(path)):
                self._add(os.path.join(path, child), os.path.join(name, child))


def differences(wanted, found):
    """What `found` has otherwise than `wanted`, one sentence each: (failures, remarks).

    The folder itself is a matter for remarks, since tools differ in whether the target's own attributes are theirs to set; so are
    holes that came back filled.
    """
    failures = []
    for path in sorted(wanted.entries.keys() | found.entries.keys()):
        if not path:
            continue
        name, here, there = os.fsdecode(path), wanted.entries.get(path), found.entries.get(path)
        if there is None:
            failures.append(f"{name!r} is missing")
        elif here is None:
            failures.append(f"{name!r} was never there")
        elif here != there:
            unlike = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
            failures.append(f"{name!r} differs in " + ", ".join(unlike))
    remarks = []
    top, back = wanted.entries[b""], found.entries[b""]
    if top != back:
        remarks.append("the restored folder itself differs in " + ", ".join(key for key in top if top[key] != back.get(key)))
    if found.allocated > wanted.allocated * 1.02 + (1 << 20):
        remarks.append(f"holes came back filled: {wanted.allocated >> 20} MiB became {found.allocated >> 20} MiB")
    return failures, remarks
