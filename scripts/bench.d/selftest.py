#!/usr/bin/env python3
"""Tests of the benchmark itself: `scripts/bench.d/selftest.py`, half a minute, no network, no Lifeboat, no peer.

Tools that are tar in disguise stand in for Lifeboat and restic. What matters most is that the benchmark cannot be fooled: a restore that lost or
bent anything is a failed row with no figures.
"""

import http.client
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as xml
from urllib.parse import quote

sys.dont_write_bytecode = True
PARTS = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, PARTS)

import aims  # noqa: E402
import changes  # noqa: E402
import corpora  # noqa: E402
import fetch  # noqa: E402
import fit  # noqa: E402
import plain  # noqa: E402
import plot  # noqa: E402
import report  # noqa: E402
import scale  # noqa: E402
import stores  # noqa: E402
import stores_report  # noqa: E402
import tools  # noqa: E402
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
  backup) tar -C "$tree" --format=posix -S -cf "$repo/$(date +%s%N)" . && echo '{"new_bytes": 0, "requests": null}';;
  restore) mkdir "$to" && tar -C "$to" -xpf "$(newest)" && cd "$to" && HARM;;
  verify|check) tar -tf "$(newest)" > /dev/null;;
  snapshots) ls "$repo";;
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
        places += ["--cache", f"{self.place}/cache"] + ([] if "--tools" in more else ["--tools", "lifeboat,restic"])
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
                # Neither of these two was there.
                absent = any(peer in target["aim"] for peer in ["tar with zstd", "rustic"])
                self.assertEqual(target["met"] is None, absent, target)
        with open(f"{self.place}/out/bench.svg", encoding="utf-8") as file:
            self.assertEqual(sum(1 for one in xml.parse(file).iter() if one.text in corpora.NAMES), len(corpora.NAMES))
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
        failing = f"{self.place}/failing"
        with open(failing, "w", encoding="ascii") as file:
            file.write('#!/bin/sh\n[ "$1" = --version ] && echo "lifeboat 0"\n')
        os.chmod(failing, 0o755)
        ended, result = self.bench(failing, self.stand_in(), "--corpus", "bigfile")
        self.assertEqual(ended.returncode, 1)
        self.assertEqual(list(result["corpora"]["bigfile"]["summary"]["lifeboat"]), ["first"])
        self.assertEqual(len(result["corpora"]["bigfile"]["summary"]["restic"]), len(report.ROW_TITLES))

    def test_a_missing_binary_is_wrong_usage(self):
        command = [BENCH, "--tools", "lifeboat", "--lifeboat", f"{self.place}/none", "--scale", "0.01"]
        ended = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(ended.returncode, 2)
        self.assertIn("cargo build --release", ended.stderr)


    def test_peers_that_are_not_there_are_named_with_the_reason_and_nothing_is_built_unasked(self):
        honest = self.stand_in()
        command = [BENCH, "--lifeboat", honest, "--restic", honest, "--corpus", "source", "--scale", "0.004", "--rounds", "1"]
        command += ["--rows", "restore", "--cache", f"{self.place}/none", "--work", self.place, "--out", f"{self.place}/out"]
        ended = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        with open(f"{self.place}/out/bench.json", encoding="utf-8") as file:
            result = json.load(file)
        self.assertLessEqual(fetch.COMPILED, set(result["missing"]))
        self.assertEqual(set(result["tools"]) | set(result["missing"]), set(tools.KINDS))
        for name in fetch.COMPILED:
            self.assertIn(f"| {name} | **missing**: not fetched yet, and it takes a build: scripts/bench.d/peers {name} |", ended.stdout)
        self.assertFalse(os.path.exists(f"{self.place}/none"))

    def test_a_peer_asked_for_by_name_that_cannot_be_got_shows_in_the_exit_code(self):
        path = f"{self.place}/bin"
        os.mkdir(path)
        for program in ["sh", "bash", "tar", "ls", "tail", "date", "mkdir"]:
            os.symlink(shutil.which(program), f"{path}/{program}")  # but no zstd
        command = [sys.executable, BENCH, "--lifeboat", self.stand_in(), "--tools", "lifeboat,tar-zstd", "--corpus", "source", "--rounds", "1"]
        places = ["--scale", "0.004", "--work", self.place, "--out", f"{self.place}/out", "--rows", "list"]
        ended = subprocess.run([*command, *places], capture_output=True, text=True, env={"PATH": path})
        self.assertEqual(ended.returncode, 3, ended.stderr)
        self.assertIn("| tar-zstd | **missing**: tar and zstd are not both installed on this machine |", ended.stdout)


# Speaks the commands of both tools over S3, and of Lifeboat on a folder: a snapshot is a tar file in one object, `latest` the newest one.
STORE_STAND_IN = """#!/usr/bin/env python3
import http.client, os, subprocess, sys
from urllib.parse import urlsplit
verb, *more = sys.argv[1:]
flags, tree = {}, None
while more:
    word = more.pop(0)
    if word in ("--repo", "--key", "--key-out", "--to", "--target", "--level", "--compression", "--repository-version"):
        flags[word] = more.pop(0)
    elif not word.startswith(("-", "latest:")):
        tree = word
repo = flags.get("--repo", os.environ.get("RESTIC_REPOSITORY", ""))
if repo.startswith("s3://"):
    server, path = urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc, "/" + repo[5:]
elif repo.startswith("s3:"):
    server, path = urlsplit(repo[3:]).netloc, urlsplit(repo[3:]).path
def ask(verb, name, body=None):
    if repo.startswith("/"):
        os.makedirs(repo, exist_ok=True)
        with open(repo + name, "wb" if body else "rb") as file:
            return file.write(body) if body else file.read()
    connection = http.client.HTTPConnection(server)
    connection.request(verb, path + name, body)
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    return answer.read()
if verb in ("version", "--version"):
    print("restic 0.99.0, a stand-in")
elif verb == "init":
    ask("PUT", "/config", b"made")
    open(flags.get("--key-out", os.devnull), "w").close()
elif verb == "backup":
    ask("GET", "/config")
    ask("PUT", "/latest", subprocess.check_output(["tar", "-C", tree, "--format=posix", "-c", "."]))
elif verb == "restore":
    target = flags.get("--to") or flags["--target"]
    os.mkdir(target)
    subprocess.run(["tar", "-C", target, "-xp"], input=ask("GET", "/latest"), check=True)
    HARM
else:
    ask("GET", "/latest")
"""


class StoreStandIn(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.place = folder.name

    def stand_in(self, harm="pass"):
        path = f"{self.place}/stand-in-{len(os.listdir(self.place))}"
        with open(path, "w", encoding="ascii") as file:
            file.write(STORE_STAND_IN.replace("HARM", harm))
        os.chmod(path, 0o755)
        return path


class Stores(StoreStandIn):
    def bench(self, lifeboat, restic, *more):
        places = ["--work", self.place, "--out", f"{self.place}/out", "--round-trip", "2", "--rate", "2000"]
        command = [BENCH, "stores", "--lifeboat", lifeboat, "--restic", restic, "--scale", "0.004", "--rounds", "1", "--corpus", "source"]
        ended = subprocess.run([*command, *places, *more], capture_output=True, text=True)
        with open(f"{self.place}/out/stores.json", encoding="utf-8") as file:
            return ended, json.load(file)["corpora"]["source"]

    def test_every_row_tells_what_was_asked_of_the_store(self):
        honest = self.stand_in()
        ended, result = self.bench(honest, honest)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        for tool in ("lifeboat", "restic"):
            rows = result["summary"][tool]
            self.assertEqual(list(rows), list(stores_report.ROW_TITLES))
            for name, row in rows.items():
                self.assertEqual(row["failures"], [])
                asked = {verb: row[verb] for verb in stores_report.VERBS if row[verb]}
                self.assertEqual(asked, {"get": 1, "put": 1} if name in ("first", "unchanged") else {"get": 1}, name)
                self.assertEqual(row["requests"], sum(asked.values()))
            self.assertGreater(rows["first"]["sent_bytes"], result["tree"]["bytes"])
            self.assertEqual(rows["restore"]["fetched_bytes"], rows["first"]["sent_bytes"])
            self.assertEqual(rows["first"]["repository_bytes"], rows["first"]["sent_bytes"] + len("made"))
            self.assertGreater(rows["first"]["of_the_line"], 0)
        self.assertEqual([target["met"] is None for target in result["targets"]], [False] * 4)
        self.assertEqual([name for name in os.listdir(self.place) if name.startswith("lifeboat-bench-")], [])

    def test_a_restore_from_a_store_that_bends_anything_has_no_figures(self):
        bent = self.stand_in("os.utime(os.path.join(target, os.listdir(target)[0]), (1, 1))")
        ended, result = self.bench(bent, self.stand_in(), "--rows", "restore")
        self.assertEqual(ended.returncode, 1, ended.stderr)
        rows = result["summary"]
        self.assertIn("differs in mtime", " ".join(rows["lifeboat"]["restore"]["failures"]))
        self.assertNotIn("of_the_line", rows["lifeboat"]["restore"])
        self.assertIn("of_the_line", rows["restic"]["restore"])


class Scale(StoreStandIn):
    def test_the_cost_of_every_row_is_told_for_each_kind_of_work_and_size(self):
        places = ["--work", self.place, "--out", f"{self.place}/out", "--lifeboat", self.stand_in()]
        command = [BENCH, "scale", "--base", "0.02", "--repeat", "2", "--steps", "1", "4", "--kinds", "files", "snapshots"]
        ended = subprocess.run([*command, *places], capture_output=True, text=True)
        self.assertEqual(ended.returncode, 0, ended.stderr + ended.stdout)
        with open(f"{self.place}/out/scale.json", encoding="utf-8") as file:
            result = json.load(file)
        self.assertEqual([step["work"] for step in result["kinds"]["files"]], [150, 600])
        for kind in ["files", "snapshots"]:
            told = {(one["row"], one["figure"]): one for one in result["growth"][kind]}
            self.assertEqual(len(told), len(scale.ROWS) * len(scale.FIGURES))
            self.assertEqual(told["first", "requests"]["values"], [2, 2])
            self.assertIsNotNone(told["first", "cpu_s"]["met"])
        self.assertEqual([name for name in os.listdir(self.place) if name.startswith("lifeboat-bench-")], [])


class Line(unittest.TestCase):
    def ask(self, port, verb, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        self.addCleanup(connection.close)
        connection.request(verb, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def test_bytes_take_the_time_of_the_rate_and_a_request_that_of_its_round_trips(self):
        with stores.program("s3.py") as store, stores.program("link.py", store, 40, 16) as line:
            start = time.monotonic()
            self.assertEqual(self.ask(line, "PUT", "/b")[0], 200)
            self.assertGreaterEqual(time.monotonic() - start, 0.08)  # one for the connection, one for the request
            self.assertGreaterEqual(plain.transfer(line, "PUT", "b", 1 << 20), 0.5)
            self.assertGreaterEqual(plain.transfer(line, "GET", "b", 1 << 20), 0.5)
            held = json.loads(self.ask(store, "GET", "/-/counts")[1])
            self.assertEqual((held["requests"]["PUT"], held["requests"]["GET"]), (2, 1))
            self.assertEqual((held["received_bytes"], held["sent_bytes"]), (1 << 20, 1 << 20))

    def test_nothing_is_lost_or_bent_on_the_line(self):
        sent = random.Random(1).randbytes(3_000_001)
        with stores.program("s3.py") as store, stores.program("link.py", store, 1, 2000) as line:
            self.ask(line, "PUT", "/b")
            self.ask(line, "PUT", "/b/k", sent)
            self.assertEqual(self.ask(line, "GET", "/b/k"), (200, sent))

    def test_the_store_keeps_the_promises_of_s3_that_tools_lean_on(self):
        with stores.program("s3.py") as port:
            self.ask(port, "PUT", "/b")
            create = {"If-None-Match": "*"}
            self.assertEqual([self.ask(port, "PUT", "/b/one", text, create)[0] for text in (b"first", b"second")], [200, 412])
            self.assertEqual(self.ask(port, "GET", "/b/one", headers={"Range": "bytes=1-2"}), (206, b"ir"))
            self.assertEqual(self.ask(port, "GET", "/b/one", headers={"Range": "bytes=-2"}), (206, b"st"))
            self.assertEqual(self.ask(port, "GET", "/b/one", headers={"Range": "bytes=5-"})[0], 416)
            self.assertEqual([self.ask(port, verb, path)[0] for verb, path in [("GET", "/b/none"), ("GET", "/none"), ("HEAD", "/b/one")]], [404, 404, 200])
            signed = b"5;chunk-signature=0\r\nhello\r\n0;chunk-signature=0\r\n\r\n"
            self.ask(port, "PUT", "/b/streamed", signed, {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"})
            self.assertEqual(self.ask(port, "GET", "/b/streamed")[1], b"hello")
            self.assertEqual(self.ask(port, "DELETE", "/b/streamed")[0], 204)
            self.assertEqual(self.ask(port, "GET", "/b/streamed")[0], 404)
            self.assertEqual(self.ask(port, "GET", "/b/one?acl")[0], 501)

    def test_pages_of_a_listing_hold_every_name_once(self):
        with stores.program("s3.py") as port:
            self.ask(port, "PUT", "/b")
            names = sorted(f"p/{number % 5}/{number}" for number in range(57))
            for name in [*names, "o", "q"]:
                self.ask(port, "PUT", f"/b/{name}", b"x")
            for more, wanted in [("", names), ("&delimiter=/", [f"p/{number}/" for number in range(5)])]:
                found, token = [], ""
                while True:
                    _, page = self.ask(port, "GET", f"/b?list-type=2&prefix=p/&max-keys=4{more}{token}")
                    found += re.findall("<Key>(.*?)</Key>|<CommonPrefixes><Prefix>(.*?)</Prefix>", page.decode())
                    following = re.search("<NextContinuationToken>(.*?)<", page.decode())
                    if not following:
                        break
                    token = f"&continuation-token={quote(following[1])}"
                self.assertEqual([key or folder for key, folder in found], wanted)


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
            for name in [name for name in corpora.NAMES if name != "real"]:
                one, again, other = (self.made(f"{place}/{name}-{number}", name, seed) for number, seed in enumerate("aab"))
                self.assertEqual([tree.manifest for tree in one], [tree.manifest for tree in again])
                self.assertEqual(len({tree.manifest for tree in one + other}), 6)

    def test_a_real_tree_is_the_same_in_every_round_of_a_run_and_within_its_bounds(self):
        with tempfile.TemporaryDirectory() as place:
            for number in range(2):
                os.mkdir(f"{place}/{number}")
            one, again = (self.made(f"{place}/{number}/tree", "real", "a") for number in range(2))
            self.assertEqual([tree.manifest for tree in one], [tree.manifest for tree in again])
            self.assertGreater(one[0].files, 0)
            self.assertLess(one[0].bytes, corpora.REAL_BYTES * 0.004 + len(corpora.REAL_PLACES) * corpora.REAL_FILE_BYTES_MAX)

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
    def one(self, tool, wall, failures=(), row="first"):
        return {"tool": tool, "row": row, "wall_s": wall, "cpu_s": 1.0, "peak_bytes": 1, "repository_bytes": 1, "growth_bytes": 1,
                "others_cores": 0.0, "failures": list(failures), "remarks": []}

    def test_figures_are_medians_and_one_failed_round_takes_them_away(self):
        found = report.summary([self.one("lifeboat", wall) for wall in (9.0, 1.0, 2.0)] + [self.one("restic", 4.0)])
        self.assertEqual(report.ratio(found, "first", "wall_s"), 0.5)
        found = report.summary([self.one("lifeboat", 1.0), self.one("lifeboat", 1.0, ["bent"]), self.one("restic", 4.0)])
        self.assertIsNone(report.ratio(found, "first", "wall_s"))

    def test_the_best_encrypts_and_does_all_of_the_rows_work(self):
        walls = {"lifeboat": 0.5, "tar-zstd": 1.0, "conserve": 2.0, "bupstash": 3.0, "borg": 4.0, "restic": 5.0}
        measured = [self.one(tool, wall, row=row) for tool, wall in walls.items() for row in report.ROW_TITLES]
        found = report.summary(measured)
        best = {row: report.best(found, row, "wall_s") for row in report.ROW_TITLES}
        self.assertEqual(best["unchanged"], (2.0, "conserve"))
        self.assertEqual(best["verify"], (4.0, "borg"))
        self.assertEqual({best[row] for row in report.ROW_TITLES if row not in ("unchanged", "verify")}, {(3.0, "bupstash")})
        self.assertEqual(report.ratio(found, "first", "wall_s", "restic"), 0.1)

    def test_little_work_excuses_a_ratio_and_nothing_else_does(self):
        def met(wall):
            found = report.summary([self.one("lifeboat", wall, row="unchanged"), self.one("restic", 0.02, row="unchanged")])
            corpus = {"summary": found, "tree": {"files": 1, "bytes": 1}}
            return {one["aim"]: one["met"] for one in aims.targets("source", corpus)}["nothing changed, wall against the best peer (or 20 ms)"]

        self.assertEqual([met(0.007), met(0.019), met(0.021)], [True, True, False])

    def test_a_picture_is_well_formed_whatever_the_names_and_figures(self):
        summary = report.summary([self.one("lifeboat", 1e-9), self.one("restic", 1e9), self.one("borg", 1.0)])
        corpus = {"summary": summary, "limits": [["first", "wall_s", 0.5]]}
        corpora_told = {"<&>": corpus, "bare": corpus | {"summary": {}}}
        picture = plot.svg({"corpora": corpora_told, "tools": {"a": "<b>"}, "scale": 1, "machine": {"cores": 2}})
        shapes = [one.tag.rpartition("}")[2] for one in xml.fromstring(picture).iter()]
        self.assertEqual(shapes.count("circle"), 1 + 3)  # the legend's, and wall, CPU and size against restic
        self.assertNotIn("nan", picture)
        self.assertIn("\u2190", picture)  # a bar that goes on beyond the scale

    def test_a_power_law_is_found_again(self):
        sizes = [1, 4, 16]
        for power in [0, 0.5, 1, 1.5]:
            self.assertAlmostEqual(fit.exponent([(x, 3 * x**power) for x in sizes]), power)
        self.assertIsNone(fit.exponent([(1, 1)]))
        self.assertAlmostEqual(fit.dearer([(x, 2 * x) for x in sizes]), 0)
        self.assertAlmostEqual(fit.dearer([(1, 5), (4, 4), (16, 20)]), 0.25)
        self.assertIsNone(fit.dearer([(1, 5)]))


class Tools(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.place = folder.name

    def test_every_tool_knows_a_command_for_every_row_and_keeps_to_its_home(self):
        echo = shutil.which("echo")
        for name, kind in tools.KINDS.items():
            tool = kind(echo, f"{self.place}/{name}", "/a tree")
            commands = [tool.init(), tool.backup(), tool.restore("/the target")]
            commands += [tool.verify(), tool.list(), tool.ls()] if "ls" in (kind.rows or ["ls"]) else []
            commands += [] if kind.rows else [tool.prune()]
            for command in commands:
                self.assertTrue(all(isinstance(word, str) for word in command), command)
                self.assertIsNotNone(shutil.which(command[0]), command)
            self.assertIn("/a tree", " ".join(tool.backup()))
            self.assertIn("/the target", " ".join(tool.restore("/the target")))
            here = tool.environment()
            self.assertTrue(all(here[place].startswith(tool.home) for place in ("HOME", "TMPDIR", "XDG_CACHE_HOME")))
            self.assertTrue(tool.repository.startswith(tool.home))
            self.assertLessEqual(set(kind.unranked), set(report.ROW_TITLES))

    def test_tools_that_name_snapshots_ask_for_the_newest(self):
        for name in ["borg", "bupstash"]:
            tool = tools.KINDS[name]("/tool", f"{self.place}/{name}", "/tree")
            for _ in range(3):
                tool.backup()
            for command in [tool.restore("/target"), tool.ls()]:
                self.assertIn("s3", " ".join(command))

    def test_words_of_the_shell_are_kept_whole_and_a_broken_pipe_is_a_failure(self):
        self.assertEqual(subprocess.run(tools.shell("printf %s {}", "a b; $(c)'"), capture_output=True).stdout, b"a b; $(c)'")
        self.assertNotEqual(subprocess.run(tools.shell("false | cat")).returncode, 0)

    def test_what_lifeboat_tells_is_taken_and_anything_else_left(self):
        tool = tools.Lifeboat("/tool", f"{self.place}/home", "/tree")
        self.assertEqual(tool.told('{"requests": null, "new_bytes": 7, "chunks": 2, "id": "x"}'), {"new_bytes": 7, "chunks": 2})
        self.assertEqual([tool.told(text) for text in ("", "7", "[1]", "{\"new_bytes\": \"7\"}", "{")], [{}] * 5)

    def test_bytes_written_by_children_are_counted(self):
        measure = [sys.executable, "-I", "-S", f"{PARTS}/measure.py", "60", "/dev/null", "/dev/null", "--"]
        command = [*measure, "sh", "-c", 'sh -c "head -c 1000000 /dev/zero > f"; :']
        told = subprocess.run(command, capture_output=True, text=True, cwd=self.place).stdout.split()
        self.assertEqual((told[0], len(told)), ("0", 8))
        self.assertIn(int(told[6]), range(1_000_000, 1_010_000))

    def test_a_peer_that_lies_there_and_does_not_run_is_not_there(self):
        path = fetch.places(self.place, "borg")[0]
        os.makedirs(os.path.dirname(path))
        for text, runs in [("#!/bin/sh\necho borg 1\n", True), ("#!/bin/sh\nexit 1\n", False), ("#!/no/such/python\n", False)]:
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
            os.chmod(path, 0o755)
            self.assertEqual(fetch.there(self.place, "borg"), (path, "borg 1") if runs else None)


if __name__ == "__main__":
    unittest.main()
