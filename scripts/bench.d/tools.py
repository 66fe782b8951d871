"""The commands of each tool, one method for each thing that is measured.

Owns flags and environments; refuses to run anything. Every tool lives in a home of its own: repository, caches, keys and temporary
files lie there and nowhere else, all on the file system that the benchmark works on.
"""

import os
import re
import subprocess


class Tool:
    """One tool, for one round: a fresh home is a fresh repository and a cold cache."""

    def __init__(self, binary, home, tree):
        self.binary, self.home, self.tree = binary, home, tree
        self.repository = f"{home}/repository"
        self.more_environment = {}
        os.makedirs(f"{home}/tmp")

    def environment(self):
        keep = {name: os.environ[name] for name in ["PATH", "LD_LIBRARY_PATH"] if name in os.environ}
        places = {"HOME": self.home, "TMPDIR": f"{self.home}/tmp", "XDG_CACHE_HOME": f"{self.home}/cache"}
        return keep | places | {"LANG": "C.UTF-8", "TZ": "UTC"} | self.own_environment() | self.more_environment

    def restored_tree(self, target):
        """Where in `target` that which lay in the tree comes to lie."""
        return target


class Restic(Tool):
    """Repository format 2, compression `auto`, holes restored as holes where it can; all else as it comes."""

    def __init__(self, binary, home, tree):
        super().__init__(binary, home, tree)
        with open(f"{home}/password", "w", encoding="ascii") as file:
            file.write("a password for measuring\n")
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
        return [self.binary, "ls", "latest"]


class Lifeboat(Tool):
    """As it comes."""

    def own_environment(self):
        return {"LIFEBOAT_CACHE": f"{self.home}/cache"}

    def opened(self):
        return ["--repo", self.repository, "--key", f"{self.home}/admin.key"]

    def init(self):
        return [self.binary, "init", "--repo", self.repository, "--key-out", f"{self.home}/admin.key"]

    def backup(self):
        return [self.binary, "backup", *self.opened(), self.tree]

    def restore(self, target):
        return [self.binary, "restore", f"latest:{self.tree}", *self.opened(), "--to", target]

    def verify(self):
        return [self.binary, "verify", *self.opened(), "--level", "data"]

    def list(self):
        return [self.binary, "ls", "latest", *self.opened()]


KINDS = {"lifeboat": Lifeboat, "restic": Restic}


def version(name, binary):
    """The first line a tool says of itself; raises OSError where it does not run."""
    asked = [binary, "version"] if name == "restic" else [binary, "--version"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    return (answer.stdout.strip().splitlines() or [f"{name} of unknown version"])[0]
