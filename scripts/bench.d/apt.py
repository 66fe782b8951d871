"""Packages of the machine's own distribution, unpacked without being installed.

Owns one private apt: sources, lists and archives of its own under the cache, so that the machine's apt and its installed packages stay
as they were. The mirror and its keyring are read from the machine's own sources; no host is named here.
"""

import glob
import os
import re
import shutil
import subprocess
import sys

# Names that never age, the newest first; a distribution that has none of them is asked for its own suite only.
NEWER_SUITES = {"debian": ["sid", "testing", "stable"], "ubuntu": ["devel"]}


class Unfetched(Exception):
    """Why something could not be got, in one sentence."""


def os_release():
    """The machine's distribution and its code name, as the file of that name says."""
    facts = {}
    with open("/etc/os-release", encoding="utf-8") as file:
        for line in file:
            name, mark, value = line.strip().partition("=")
            if mark:
                facts[name] = value.strip('"')
    return facts.get("ID", ""), facts.get("VERSION_CODENAME", "")


def entries():
    """Every binary source the machine has: (uri, suites, components, keyring or None)."""
    found = []
    for path in ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*.list"))]:
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as file:
            for line in file:
                match = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
                if match:
                    options, uri, suite, components = match.groups()
                    keyring = re.search(r"signed-by=(\S+)", options or "")
                    found.append((uri, [suite], components.split(), keyring and keyring.group(1)))
    for path in sorted(glob.glob("/etc/apt/sources.list.d/*.sources")):
        with open(path, encoding="utf-8") as file:
            lines = [line for line in file.read().splitlines() if not line.startswith("#")]
        for stanza in "\n".join(lines).split("\n\n"):
            fields = {k.lower(): v for k, v in re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.M)}
            if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
                continue
            keyring = fields.get("signed-by", "")
            for uri in fields.get("uris", "").split():
                parts = fields.get("components", "").split()
                found.append((uri, fields.get("suites", "").split(), parts, keyring if keyring.startswith("/") else None))
    return found


def mirror_of(codename):
    """The source that the machine's own suite comes from."""
    for uri, suites, components, keyring in entries():
        if codename in suites and "main" in components:
            return uri, components, keyring or None
    raise Unfetched(f"no apt source of this machine serves its own suite {codename!r}")


def suites():
    """The suites worth asking for a newer package, this machine's own last."""
    distribution, codename = os_release()
    return [*NEWER_SUITES.get(distribution, []), codename]


def unpack(cache, suite, packages, root, with_libraries=False):
    """Unpacks `packages` of a suite at `root`, and `with_libraries` the libraries that they name as their own."""
    uri, components, keyring = mirror_of(os_release()[1])
    place = os.path.join(cache, "apt", suite)
    shutil.rmtree(place, ignore_errors=True)
    for folder in ["state/lists/partial", "cache/archives/partial"]:
        os.makedirs(os.path.join(place, folder))
    sources = os.path.join(place, "peers.sources")
    with open(sources, "w", encoding="utf-8") as file:
        file.write(f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {' '.join(components)}\n")
        if keyring:
            file.write(f"Signed-By: {keyring}\n")
    options = ["-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/dev/null"]
    options += ["-o", f"Dir::State={place}/state", "-o", f"Dir::State::lists={place}/state/lists", "-o", f"Dir::Cache={place}/cache"]
    options += ["-o", "Acquire::Languages=none", "-o", "APT::Get::List-Cleanup=0"]
    if os.geteuid() == 0:
        options += ["-o", "APT::Sandbox::User=root"]  # apt's own user may not enter a home directory
    talk = {"stdout": sys.stderr, "cwd": place}
    wanted = list(packages)
    if subprocess.run(["apt-get", "-qq", *options, "update"], **talk).returncode:
        raise Unfetched(f"apt could not read suite {suite}")
    if with_libraries:
        for package in packages:
            told = subprocess.run(["apt-cache", *options, "depends", "--important", package], capture_output=True, text=True, cwd=place).stdout
            wanted += [name for name in re.findall(r"^ *Depends: (lib[\w.+-]+)", told, re.M) if not name.startswith("libc6")]
    if subprocess.run(["apt-get", "-qq", *options, "download", *dict.fromkeys(wanted)], **talk).returncode:
        raise Unfetched(f"suite {suite} did not give {' '.join(packages)}")
    shutil.rmtree(root, ignore_errors=True)
    for package in sorted(glob.glob(os.path.join(place, "*.deb"))):
        if subprocess.run(["dpkg-deb", "-x", package, root], stdout=sys.stderr).returncode:
            raise Unfetched(f"{os.path.basename(package)} does not unpack")
    shutil.rmtree(place, ignore_errors=True)
