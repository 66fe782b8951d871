"""What every tool under measurement has: a home of its own, and one command for each thing that is measured.

Repository, caches, keys and temporary files lie in the home and nowhere else, all on the file system that the benchmark works on.
"""

import os
import shlex


class Tool:
    """One tool, for one round: a fresh home is a fresh repository and a cold cache."""

    encrypts = True
    counts_unencrypted = False  # without encryption: counts where nothing changed, all the same
    rows = None  # the rows it takes part in; all of them unless told
    unranked = {}  # rows in which it is shown and not ranked: why

    def __init__(self, binary, home, tree):
        self.binary, self.home, self.tree = binary, home, tree
        self.repository = f"{home}/repository"
        self.more_environment = {}
        self.saved = 0
        os.makedirs(f"{home}/tmp")

    def environment(self):
        keep = {name: os.environ[name] for name in ["PATH", "LD_LIBRARY_PATH"] if name in os.environ}
        places = {"HOME": self.home, "TMPDIR": f"{self.home}/tmp", "XDG_CACHE_HOME": f"{self.home}/cache"}
        return keep | places | {"LANG": "C.UTF-8", "TZ": "UTC"} | self.own_environment() | self.more_environment

    def own_environment(self):
        return {}

    def secret(self):
        """The path of a passphrase for its repository."""
        path = f"{self.home}/password"
        with open(path, "w", encoding="ascii") as file:
            file.write("a password for measuring\n")
        return path

    def next_name(self):
        """The name of the snapshot about to be made, for tools that want one."""
        self.saved += 1
        return self.name()

    def name(self):
        """The name of the newest snapshot."""
        return f"s{self.saved}"

    def before(self, row):
        """A command to run before the row, not measured; None where none is needed."""
        return None

    def restored_tree(self, target):
        """Where in `target` that which lay in the tree comes to lie."""
        return target

    def told(self, output):
        """Figures that the tool itself gives of a row, out of what it printed."""
        return {}


def shell(text, *words):
    """A command line for the shell, in which each `{}` stands for one word: it fails if any part of a pipe does."""
    return ["bash", "-c", "set -eo pipefail; " + text.format(*map(shlex.quote, words))]


def both(first, second):
    """One command after the other, as one; the first that fails ends it."""
    return shell(" ".join("{}" for _ in first) + "; " + " ".join("{}" for _ in second), *first, *second)
