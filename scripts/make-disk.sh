#!/usr/bin/env bash
# Makes a disk like a real one, without root, loop devices or mounts: a GPT, one partition, in it an
# ext4 file system with files of this machine.
#
#     scripts/make-disk.sh DISK [SIZE_MIB [DATA_MIB]]       default: 2048 MiB, with 256 MiB of files
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

disk=${1:?usage: make-disk.sh DISK [SIZE_MIB [DATA_MIB]]}
size_mib=${2:-2048}
data_mib=${3:-256}

work=$(mktemp -d "$(dirname "$disk")/make-disk.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/tree"

# Programs, libraries and documents: what compresses well and what does not, in files of all sizes.
find /usr/bin /usr/lib /usr/share/doc -xdev -type f -readable -size -20000k -printf '%s\t%P\t%H\n' 2>/dev/null |
    LC_ALL=C sort -t "$(printf '\t')" -k 2 |
    awk -F '\t' -v left=$((data_mib << 20)) '{ left -= $1; if (left < 0) exit; print $3 "/" $2 }' >"$work/files" || true
tar -C / -cf - --ignore-failed-read -T "$work/files" 2>/dev/null | tar -C "$work/tree" -xf - || true
echo 'made for a demonstration of vmferry' >"$work/tree/README"

rm -f "$disk"
truncate -s "${size_mib}M" "$disk"
printf 'label: gpt\nstart=1MiB, size=%sMiB, type=linux, name=root\n' $((size_mib - 2)) | sfdisk --quiet "$disk"
mke2fs -q -t ext4 -L root -d "$work/tree" -E offset=$((1 << 20)),root_owner=0:0 "$disk" $(((size_mib - 2) << 10))k
