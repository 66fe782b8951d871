"""The commands of each tool, one method for each thing that is measured.

Owns flags and environments; refuses to run anything. Each peer encrypts, with the key derivation it comes with, and compresses with
zstd 3 or with what is its own default; exceptions are said where they stand.
"""

import json
import re

from fetch import version
from tool import Tool, both, shell


class Lifeboat(Tool):
    """As it comes; `--json` only where it changes nothing but the last words."""

    def own_environment(self):
        return {"LIFEBOAT_CACHE": f"{self.home}/cache"}

    def opened(self):
        return ["--repo", self.repository, "--key", f"{self.home}/admin.key"]

    def init(self):
        return [self.binary, "init", "--repo", self.repository, "--key-out", f"{self.home}/admin.key"]

    def backup(self):
        return [self.binary, "backup", "--json", *self.opened(), self.tree]

    def restore(self, target):
        return [self.binary, "restore", "--json", f"latest:{self.tree}", *self.opened(), "--to", target]

    def verify(self):
        return [self.binary, "verify", "--json", *self.opened(), "--level", "data"]

    def list(self):
        return [self.binary, "snapshots", *self.opened()]

    def ls(self):
        return [self.binary, "ls", "latest", *self.opened()]

    def prune(self):
        opened, program = self.opened(), self.binary
        forget = [program, "forget", "--keep-last", "2", *opened]
        return both(forget, [program, "prune", "--undo-window", "0s", "--yes", *opened])

    def told(self, output):
        try:
            said = json.loads(output)
        except ValueError:
            return {}
        keys = ("requests", "new_bytes", "stored_bytes", "chunks") if isinstance(said, dict) else ()
        return {key: said[key] for key in keys if isinstance(said.get(key), (int, float))}


class Restic(Tool):
    """Repository format 2, compression `auto`, holes restored as holes where it can; all else as it comes."""

    def __init__(self, binary, home, tree):
        super().__init__(binary, home, tree)
        self.secret()
        numbers = re.search(r"(\d+)\.(\d+)", version("restic", binary))
        release = tuple(map(int, numbers.groups())) if numbers else (0, 0)
        # Before 0.16, which brought `snapshot:/path`, the whole path comes back below the target; 0.15 brought holes.
        self.knows_subfolders, self.knows_holes = release >= (0, 16), release >= (0, 15)

    def own_environment(self):
        named = {"RESTIC_REPOSITORY": self.repository, "RESTIC_PASSWORD_FILE": f"{self.home}/password"}
        return named | {"RESTIC_CACHE_DIR": f"{self.home}/cache", "RESTIC_COMPRESSION": "auto"}

    def init(self):
        return [self.binary, "init", "--repository-version", "2"]

    def backup(self):
        return [self.binary, "backup", "--compression", "auto", self.tree]

    def restore(self, target):
        snapshot = f"latest:{self.tree}" if self.knows_subfolders else "latest"
        return [self.binary, "restore", snapshot, "--target", target] + (["--sparse"] if self.knows_holes else [])

    def restored_tree(self, target):
        return target if self.knows_subfolders else target + self.tree

    def verify(self):
        return [self.binary, "check", "--read-data"]

    def list(self):
        return [self.binary, "snapshots"]

    def ls(self):
        return [self.binary, "ls", "latest"]

    def prune(self):
        return [self.binary, "forget", "--keep-last", "2", "--prune"]


class Rustic(Tool):
    """restic's format; zstd 3 is its own default; holes restored as holes."""

    def __init__(self, binary, home, tree):
        super().__init__(binary, home, tree)
        self.secret()

    def own_environment(self):
        named = {"RUSTIC_REPOSITORY": self.repository, "RUSTIC_PASSWORD_FILE": f"{self.home}/password"}
        return named | {"RUSTIC_CACHE_DIR": f"{self.home}/cache", "RUSTIC_NO_PROGRESS": "true"}

    def init(self):
        return [self.binary, "init"]

    def backup(self):
        return [self.binary, "backup", self.tree]

    def restore(self, target):
        return [self.binary, "restore", "--sparse", "by-content", f"latest:{self.tree}", target]

    def verify(self):
        return [self.binary, "check", "--read-data"]

    def list(self):
        return [self.binary, "snapshots"]

    def ls(self):
        return [self.binary, "ls", "latest"]

    def prune(self):
        # Else it would free nothing for a day.
        return [self.binary, "forget", "--keep-last", "2", "--prune", "--instant-delete"]


class Borg(Tool):
    """Mode repokey (AES-256-CTR with HMAC-SHA256, which is quicker here than its BLAKE2b), zstd 3, holes restored as holes."""

    def own_environment(self):
        places = {"BORG_REPO": self.repository, "BORG_BASE_DIR": self.home, "BORG_PASSPHRASE": "a password for measuring"}
        return places | {"BORG_CACHE_DIR": f"{self.home}/cache", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}

    def init(self):
        return [self.binary, "init", "--encryption", "repokey"]

    def backup(self):
        return [self.binary, "create", "--compression", "zstd,3", f"::{self.next_name()}", self.tree]

    def restore(self, target):
        return shell("mkdir {}; cd {}; exec {} extract --sparse {}", target, target, self.binary, f"::{self.name()}")

    def restored_tree(self, target):
        return target + self.tree

    def verify(self):
        return [self.binary, "check", "--verify-data"]

    def list(self):
        return [self.binary, "list"]

    def ls(self):
        return [self.binary, "list", "--short", f"::{self.name()}"]

    def prune(self):
        return both([self.binary, "prune", "--keep-last", "2"], [self.binary, "compact"])


class Bupstash(Tool):
    """zstd:3 is its own default; extended attributes are saved, as all the others save them."""

    unranked = {"verify": "has no check of its own: one snapshot was read and decrypted to /dev/null"}

    def own_environment(self):
        return {"BUPSTASH_REPOSITORY": self.repository, "BUPSTASH_KEY": f"{self.home}/key"}

    def init(self):
        return shell("{} new-key -o {}; {} init", self.binary, f"{self.home}/key", self.binary)

    def backup(self):
        log = f"{self.home}/cache/send.log"
        put = "mkdir -p {}; exec {} put --xattrs --compression zstd:3 --send-log {} {} {}"
        return shell(put, f"{self.home}/cache", self.binary, log, f"name={self.next_name()}", self.tree)

    def restore(self, target):
        return shell("mkdir {}; exec {} restore --ownership --xattrs --into {} {}", target, self.binary, target, f"name={self.name()}")

    def verify(self):
        return shell("{} get {} > /dev/null", self.binary, f"name={self.name()}")

    def list(self):
        return [self.binary, "list"]

    def ls(self):
        return [self.binary, "list-contents", f"name={self.name()}"]

    def prune(self):
        older = [f"name=s{number}" for number in range(1, self.saved - 1)]
        removed = [word for name in older for word in ("or", name)][1:]
        return both([self.binary, "rm", "--allow-many", *removed], [self.binary, "gc"])


class Conserve(Tool):
    """As it comes: Snappy, and no encryption."""

    encrypts = False
    counts_unencrypted = True
    rows = {"first", "unchanged", "changed", "touched", "restore", "verify", "list", "ls"}

    def init(self):
        return [self.binary, "init", self.repository]

    def backup(self):
        return [self.binary, "backup", "--no-progress", self.repository, self.tree]

    def restore(self, target):
        return [self.binary, "restore", "--no-progress", self.repository, target]

    def verify(self):
        return [self.binary, "validate", "--no-progress", self.repository]

    def list(self):
        return [self.binary, "versions", self.repository]

    def ls(self):
        return [self.binary, "ls", self.repository]


class TarZstd(Tool):
    """One whole archive each time: what a backup costs without encryption, deduplication and the right to say no."""

    encrypts = False
    rows = {"first", "restore"}

    def init(self):
        return ["mkdir", self.repository]

    def archive(self):
        return f"{self.repository}/{self.name()}.tar.zst"

    def backup(self):
        self.saved += 1
        pack = "tar -C {} --format=posix --sparse --xattrs -cf - . | {} -q -3 -T2 -o {}"
        return shell(pack, self.tree, self.binary, self.archive())

    def before(self, row):
        # The tree has changed since the first row, and an archive knows nothing of days.
        return self.backup() if row == "restore" else None

    def restore(self, target):
        return shell("mkdir {}; {} -q -dc {} | tar -C {} --xattrs -xpf -", target, self.binary, self.archive(), target)


KINDS = {
    "lifeboat": Lifeboat,
    "restic": Restic,
    "rustic": Rustic,
    "borg": Borg,
    "bupstash": Bupstash,
    "conserve": Conserve,
    "tar-zstd": TarZstd,
}
