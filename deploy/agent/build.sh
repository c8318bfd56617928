#!/bin/sh
# Builds the agent as one static file, for the LiveOS, which has no libraries. Prints its path.
set -eu
cd "$(dirname "$0")/../.."
target=x86_64-unknown-linux-gnu
RUSTFLAGS="-Ctarget-feature=+crt-static" cargo build --release --locked -p slipway-agent --target "$target" >&2
echo "${CARGO_TARGET_DIR:-target}/$target/release/slipway-agent"
