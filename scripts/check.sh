#!/usr/bin/env bash
# Format, lints, tests and docs in one breath: what a commit should pass.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --check
cargo clippy --locked --all-targets --quiet -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet
scripts/servers.d/install moto azurite
cargo test --locked --quiet
python3 scripts/bench.d/selftest.py
