"""The peers that Lifeboat is measured against: where each lies in the cache, in which version, and how it comes there.

Owns pinned versions and recipes; installs nothing on the machine. restic comes as a package of the distribution's newest suite that runs
here, borg is built by pip, rustic, bupstash and conserve by cargo; what a build wants of libraries is unpacked beside them. What was
fetched once is used again: remove its folder in the cache to have it anew.
"""

import glob
import os
import shutil
import subprocess
import sys

import apt
from apt import Unfetched

BORG, BORG_PARTS = "1.4.5", ["msgpack==1.2.1", "packaging==26.3"]
# (crate, version, options of cargo install). Without the S3 client, web server and terminal interface: nothing that is measured.
CRATES = {
    "rustic": ("rustic-rs", "0.11.4", ["--no-default-features"]),
    "bupstash": ("bupstash", "0.12.0", []),
    "conserve": ("conserve", "24.8.0", ["--no-default-features"]),
}
LIBRARIES = ["libsodium-dev", "libacl1-dev", "liblz4-dev", "libzstd-dev", "libxxhash-dev", "libssl-dev"]
PEERS = ["restic", "rustic", "borg", "bupstash", "conserve", "tar-zstd"]
COMPILED = {"rustic", "borg", "bupstash", "conserve"}


def version(name, binary):
    """The first line a tool says of itself; raises OSError where it does not run."""
    if name == "tar-zstd":
        return "; ".join(version(program, program) for program in ("tar", "zstd"))
    asked = [binary, "version"] if name == "restic" else [binary, "--version"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    if answer.returncode:
        raise OSError(answer.returncode, (answer.stderr.strip().splitlines() or ["it says nothing"])[-1], binary)
    return (answer.stdout.strip().splitlines() or [f"{name} of unknown version"])[0].strip("* ")


def places(cache, name):
    """Where the peer would lie, the best place first."""
    if name == "restic":
        return [f"{cache}/restic-{suite}/usr/bin/restic" for suite in apt.suites()]
    if name == "borg":
        return [f"{cache}/borg-{BORG}/bin/borg"]
    if name == "tar-zstd":
        return [shutil.which("zstd") or "/usr/bin/zstd"]
    return [f"{cache}/{name}-{CRATES[name][1]}/bin/{name}"]


def there(cache, name):
    """(path, version) of a peer that lies in the cache and runs, or None."""
    for binary in places(cache, name):
        try:
            return binary, version(name, binary)
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def build(name, command, more):
    """Runs a build out of the way of others' work; its words go to a log that is named if it fails."""
    said = more.pop("LOG")
    with open(said, "wb") as log:
        ended = subprocess.run(["nice", "-n", "19", *command], env=os.environ | more, stdout=log, stderr=subprocess.STDOUT)
    if ended.returncode:
        with open(said, encoding="utf-8", errors="replace") as log:
            lines = [line.strip() for line in log if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")] or lines or ["it said nothing"]
        raise Unfetched(f"the build of {name} failed: {errors[0][:200]} (all of it: {said})")


def libraries(cache):
    """The folder with headers and libraries that the builds want, of the machine's own suite."""
    suite = apt.os_release()[1]
    root = f"{cache}/libraries-{suite}"
    if not glob.glob(f"{root}/usr/include/sodium.h"):
        apt.unpack(cache, suite, LIBRARIES, root, with_libraries=True)
    found = glob.glob(f"{root}/usr/lib/*/pkgconfig")
    if not found:
        raise Unfetched(f"the packages {' '.join(LIBRARIES)} hold no libraries")
    return root, os.path.dirname(found[0])


def pkg_config(root, place):
    return {"PKG_CONFIG_PATH": f"{place}/pkgconfig", "PKG_CONFIG_SYSROOT_DIR": root}


def restic(cache):
    for suite in apt.suites():
        print(f"peers: asking suite {suite} for restic", file=sys.stderr)
        root = f"{cache}/restic-{suite}"
        try:
            apt.unpack(cache, suite, ["restic"], root)
            version("restic", f"{root}/usr/bin/restic")
            return
        except (Unfetched, OSError) as cause:
            print(f"peers: {cause}", file=sys.stderr)
    raise Unfetched(f"none of the suites {', '.join(apt.suites())} gave a restic that runs here")


def borg(cache, jobs):
    root, place = libraries(cache)
    home = f"{cache}/borg-{BORG}"
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    more = pkg_config(root, place) | {"CFLAGS": f"-I{root}/usr/include", "LDFLAGS": f"-L{place} -Wl,-rpath,{place}"}
    more |= {f"BORG_LIB{part}_PREFIX": f"{root}/usr" for part in ("ACL", "LZ4", "ZSTD", "XXHASH")} | {"BORG_OPENSSL_PREFIX": f"{root}/usr"}
    command = [f"{home}/bin/pip", "install", "--no-binary", "borgbackup", f"borgbackup=={BORG}", *BORG_PARTS]
    build("borg", command, more | {"MAX_JOBS": str(jobs), "LOG": f"{cache}/borg.log"})


def crate(cache, name, jobs):
    package, number, options = CRATES[name]
    # One's own link-time optimization over the whole takes longest and gives a few per cent: all are built without it.
    more = {"CARGO_PROFILE_RELEASE_LTO": "false", "LOG": f"{cache}/{name}.log"}
    if name == "bupstash":
        root, place = libraries(cache)
        more |= pkg_config(root, place) | {"RUSTFLAGS": f"-L native={place} -C link-arg=-Wl,-rpath,{place}"}
    command = ["cargo", "install", "--locked", f"-j{jobs}", "--version", number, "--root", f"{cache}/{name}-{number}", *options, package]
    build(name, command, more)


def peer(cache, name, may_compile, jobs=1):
    """(path, version) of a peer that runs here, fetched if need be; raises Unfetched with the reason."""
    if found := there(cache, name):
        return found
    if name == "tar-zstd":
        raise Unfetched("tar and zstd are not both installed on this machine")
    if name in COMPILED and not may_compile:
        raise Unfetched(f"not fetched yet, and it takes a build: scripts/bench.d/peers {name}")
    os.makedirs(cache, exist_ok=True)
    try:
        if name == "restic":
            restic(cache)
        elif name == "borg":
            borg(cache, jobs)
        else:
            print(f"peers: building {name}, which takes minutes", file=sys.stderr)
            crate(cache, name, jobs)
    except (OSError, subprocess.SubprocessError) as cause:
        raise Unfetched(f"{name} could not be fetched: {cause}") from cause
    if found := there(cache, name):
        return found
    raise Unfetched(f"{name} was fetched, and does not run here")
