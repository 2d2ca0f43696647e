#!/usr/bin/env bash
# From nothing to a converted disk with its proof: installs what is missing, builds, makes a disk,
# converts it and lets others judge. Everything it makes lies in target/demo. Run it as often as you like.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin

scripts/install-deps.sh demo
echo 'building vmferry (release, ISA-L)' >&2
cargo build --release --locked --quiet --features isal

target=${CARGO_TARGET_DIR:-target}
PATH=$(realpath "$target/release"):$(realpath docs):$PATH
rm -rf "$target/demo"
mkdir -p "$target/demo"
echo 'making a disk: a partition table and an ext4 file system with files of this machine' >&2
scripts/make-disk.sh "$target/demo/disk.img"
cd "$target/demo"

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

show vmferry inspect disk.img
show vmferry convert --compression deflate --verify disk.img disk.qcow2

printf '\n--- Proof by QEMU: the image is sound, and it holds the same disk.\n'
show qemu-img check disk.qcow2
show qemu-img compare -f raw -F qcow2 disk.img disk.qcow2

printf '\n--- Proof by vmferry: the image holds what its manifest says, and both formats have one digest.\n'
show vmferry verify disk.qcow2
show vmferry digest disk.img
show vmferry digest disk.qcow2
digest() { vmferry digest -o json "$1" | python3 -c 'import json, sys; print(json.load(sys.stdin)["digest"]["tree"])'; }
[ "$(digest disk.img)" = "$(digest disk.qcow2)" ]

printf '\n--- Proof by a Python script that shares no code with vmferry: the manifest is true of the raw disk.\n'
show tree_digest.py --manifest disk.qcow2.vmferry.jsonl disk.img

printf '\nAll of it agrees. Sizes on disk:\n'
du -h disk.img disk.qcow2
