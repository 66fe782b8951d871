#!/usr/bin/env python3
"""Tests of the benchmark itself: `scripts/bench.d/selftest.py`, some seconds, no network, no Lifeboat, no restic.

A tool that is tar in disguise stands in for both. What matters most is that the benchmark cannot be fooled: a restore that lost or
bent anything is a failed row with no figures.
"""

import json
import os
import stat
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
PARTS = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, PARTS)

import changes  # noqa: E402
import corpora  # noqa: E402
import report  # noqa: E402
from trees import Tree, differences  # noqa: E402

BENCH = os.path.join(os.path.dirname(PARTS), "bench")

# Speaks the commands of both tools; a snapshot is a tar file, `latest` the newest one. HARM is what it does to a restored tree.
STAND_IN = """#!/bin/sh
verb=$1; shift
repo=$RESTIC_REPOSITORY
while [ $# -gt 0 ]; do
  case $1 in
    --repo) repo=$2; shift;; --key-out) : > "$2"; shift;; --to|--target) to=$2; shift;;
    --key|--level|--compression|--repository-version) shift;; latest:*) ;; -*) ;; *) tree=$1;;
  esac; shift
done
newest() { ls "$repo"/* | tail -n 1; }
case $verb in
  version|--version) echo "restic 0.99.0, a stand-in";;
  init) mkdir "$repo";;
  backup) tar -C "$tree" --format=posix -S -cf "$repo/$(date +%s%N)" .;;
  restore) mkdir "$to" && tar -C "$to" -xpf "$(newest)" && cd "$to" && HARM;;
  verify|check) tar -tf "$(newest)" > /dev/null;;
  ls) tar -tf "$(newest)";;
esac
"""


class Bench(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.place = folder.name

    def stand_in(self, harm="true"):
        path = f"{self.place}/stand-in-{len(os.listdir(self.place))}"
        with open(path, "w", encoding="ascii") as file:
            file.write(STAND_IN.replace("HARM", harm))
        os.chmod(path, 0o755)
        return path

    def bench(self, lifeboat, restic, *more):
        places = ["--work", self.place, "--out", f"{self.place}/out"]
        command = [BENCH, "--lifeboat", lifeboat, "--restic", restic, "--scale", "0.004", "--rounds", "1", *places, *more]
        ended = subprocess.run(command, capture_output=True, text=True)
        with open(f"{self.place}/out/bench.json", encoding="utf-8") as file:
            return ended, json.load(file)

    def test_two_honest_tools_fill_every_row_of_every_corpus(self):
        honest = self.stand_in()
        ended, result = self.bench(honest, honest)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        for name in corpora.NAMES:
            for tool in ("lifeboat", "restic"):
                rows = result["corpora"][name]["summary"][tool]
                self.assertEqual(list(rows), list(report.ROW_TITLES))
                for row in rows.values():
                    self.assertEqual(row["failures"], [])
                    self.assertGreater(row["wall_s"], 0)
            for target in result["corpora"][name]["targets"]:
                self.assertIsNotNone(target["met"], target)
        self.assertEqual([name for name in os.listdir(self.place) if name.startswith("lifeboat-bench-")], [])

    def test_a_restore_that_bends_anything_fails_its_row_and_shows_no_figures(self):
        honest = self.stand_in()
        harms = {
            "content": 'f=$(find . -name "*.rs" | head -n 1); touch -r "$f" ../t; printf X | dd of="$f" conv=notrunc; touch -r ../t "$f"',
            "mtime": 'touch "$(find . -name "*.rs" | head -n 1)"',
            "mode": 'chmod o+w "$(find . -name "*.rs" | head -n 1)"',
            "is missing": 'rm "$(find . -name "*.rs" | head -n 1)"',
            "was never there": ": > surplus",
        }
        for word, harm in harms.items():
            ended, result = self.bench(self.stand_in(harm), honest, "--corpus", "source", "--rows", "restore")
            self.assertEqual(ended.returncode, 1, word)
            rows = result["corpora"]["source"]["summary"]
            self.assertIn(word, " ".join(rows["lifeboat"]["restore"]["failures"]))
            self.assertNotIn("wall_s", rows["lifeboat"]["restore"])
            self.assertEqual(rows["restic"]["restore"]["failures"], [])
            self.assertIn("wall_s", rows["lifeboat"]["first"])

    def test_a_tool_that_fails_its_first_backup_is_asked_no_more(self):
        ended, result = self.bench("/bin/false", self.stand_in(), "--corpus", "bigfile")
        self.assertEqual(ended.returncode, 1)
        self.assertEqual(list(result["corpora"]["bigfile"]["summary"]["lifeboat"]), ["first"])
        self.assertEqual(len(result["corpora"]["bigfile"]["summary"]["restic"]), len(report.ROW_TITLES))

    def test_a_missing_binary_is_wrong_usage(self):
        command = [BENCH, "--tools", "lifeboat", "--lifeboat", f"{self.place}/none", "--scale", "0.01"]
        ended = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(ended.returncode, 2)
        self.assertIn("cargo build --release", ended.stderr)


class Corpora(unittest.TestCase):
    def made(self, place, name, seed):
        corpora.generate(name, place, 0.004, seed)
        states = [Tree(place)]
        changes.pass_a_day(name, place, 0.004, seed)
        states.append(Tree(place))
        changes.touch_all(place)
        return states + [Tree(place)]

    def test_a_seed_decides_every_byte_name_and_time_on_every_day(self):
        with tempfile.TemporaryDirectory() as place:
            for name in corpora.NAMES:
                one, again, other = (self.made(f"{place}/{name}-{number}", name, seed) for number, seed in enumerate("aab"))
                self.assertEqual([tree.manifest for tree in one], [tree.manifest for tree in again])
                self.assertEqual(len({tree.manifest for tree in one + other}), 6)

    def test_a_touched_tree_differs_in_nothing_but_times(self):
        with tempfile.TemporaryDirectory() as place:
            _, before, after = self.made(f"{place}/tree", "source", "a")
            failures, _ = differences(before, after)
            regular = sum(1 for entry in after.entries.values() if entry["type"] == stat.S_IFREG)
            self.assertEqual(len(failures), regular)
            self.assertTrue(all(line.endswith("differs in mtime") for line in failures))

    def test_an_image_has_holes(self):
        with tempfile.TemporaryDirectory() as place:
            corpora.generate("bigfile", f"{place}/tree", 0.02, "a")
            tree = Tree(f"{place}/tree")
            self.assertLess(tree.allocated, tree.bytes * 0.3)


class Reports(unittest.TestCase):
    def one(self, tool, wall, failures=()):
        return {"tool": tool, "row": "first", "wall_s": wall, "cpu_s": 1.0, "peak_bytes": 1, "repository_bytes": 1, "growth_bytes": 1,
                "others_cores": 0.0, "failures": list(failures), "remarks": []}

    def test_figures_are_medians_and_one_failed_round_takes_them_away(self):
        found = report.summary([self.one("lifeboat", wall) for wall in (9.0, 1.0, 2.0)] + [self.one("restic", 4.0)])
        self.assertEqual(report.ratio(found, "first", "wall_s"), 0.5)
        found = report.summary([self.one("lifeboat", 1.0), self.one("lifeboat", 1.0, ["bent"]), self.one("restic", 4.0)])
        self.assertIsNone(report.ratio(found, "first", "wall_s"))


if __name__ == "__main__":
    unittest.main()
