#!/usr/bin/env bash
# Installs what the tests need and runs all of them, doctests included. Arguments go to `cargo test`:
#
#     scripts/test.sh                    everything
#     scripts/test.sh -- qcow2           tests with that in their name
#
# A test that lacks a tool says SKIPPED and passes; with VMFERRY_STRICT=1 it fails. VMFERRY_TEST_MATERIAL
# names a directory with more disks to try, if you have one.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin

scripts/install-deps.sh test
# The Python that has the second reader.
VMFERRY_PYTHON=${VMFERRY_PYTHON:-$(realpath -s "${CARGO_TARGET_DIR:-target}/test-venv/bin/python")}
export VMFERRY_PYTHON

exec cargo test --locked --workspace --features vmferry/isal,vmferry-formats/testkit "$@"
