#!/usr/bin/env python3
"""The digest of a disk as docs/digest.md defines it, independent of vmferry.

    tree_digest.py IMAGE.raw                  print the digest of a raw image
    tree_digest.py --digest blake3 IMAGE.raw  the same under BLAKE3 (needs the PyPI package blake3)
    tree_digest.py --manifest M IMAGE.raw     hold a raw image against a manifest
    tree_digest.py --manifest M --disk FILE IMAGE.raw    against what the manifest of an OVA says of that disk
    tree_digest.py --vectors                  print the test vectors of docs/digest-vectors.json

Nothing but the standard library is needed for SHA-256. Exit code: 0 all is well, 1 the image
differs from the manifest, 2 something else is wrong.
"""

import argparse
import hashlib
import json
import os
import re
import struct
import sys

LEAF_SIZE = 64 << 10
CHUNK_SIZE = 4 << 20
SECTOR_SIZE = 512
TAG = b"vmferry-tree-v1\0"
MIB = 1 << 20

# Sizes of the test vectors, and the content: byte number i is (i * 7 + i // 251 + 1) modulo 256.
VECTOR_SIZES = (0, 1, 511, 512, 513, 65535, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 4 * MIB + 512)


def hash_function(name):
    """A function from bytes to a 32-byte digest."""
    if name == "sha256":
        return lambda data: hashlib.sha256(data).digest()
    if name == "blake3":
        try:
            import blake3
        except ImportError:
            raise Failure("BLAKE3 needs the Python package blake3: pip install blake3") from None
        return lambda data: blake3.blake3(data).digest()
    raise Failure(f"unknown hash function {name!r}")


def content_size(size):
    """The size of the content: that of the source, rounded up to whole sectors."""
    return -(-size // SECTOR_SIZE) * SECTOR_SIZE


def chunk_digests(stream, size, hash_):
    """The digests of the chunks of `size` bytes of content; zeros stand in behind the stream's end."""
    left = size
    while left > 0:
        length = min(left, CHUNK_SIZE)
        chunk = stream.read(length)
        chunk += bytes(length - len(chunk))
        leaves = (chunk[at : at + LEAF_SIZE] for at in range(0, length, LEAF_SIZE))
        yield hash_(b"".join(hash_(leaf) for leaf in leaves))
        left -= length


def disk_digest(digests, size, name):
    """The digest over all chunk digests of a disk with `size` bytes of content."""
    head = TAG + name.encode().ljust(16, b"\0") + struct.pack("<QQQ", LEAF_SIZE, CHUNK_SIZE, size)
    return hash_function(name)(head + b"".join(digests)).hex()


def digest_of_image(path, name):
    with open(path, "rb") as image:
        size = content_size(image.seek(0, os.SEEK_END))
        image.seek(0)
        return disk_digest(chunk_digests(image, size, hash_function(name)), size, name)


def lines_of_disk(lines, disk):
    """The manifest of one disk out of that of an OVA."""
    starts = [at for at, line in enumerate(lines) if "virtual_size" in line]
    ends = [at for at, line in enumerate(lines) if "tree" in line]
    found = [lines[start : end + 1] for start, end in zip(starts, ends) if lines[start].get("file") == disk]
    if lines[0].get("vmferry-manifest") != 2 or len(found) != 1:
        names = ", ".join(lines[start].get("file", "?") for start in starts)
        raise Failure(f"there is no disk {disk!r} in the manifest, which is of: {names}")
    return found[0]


def check_manifest(manifest_path, image_path, disk=None):
    """Holds a raw image against a manifest, chunk by chunk; docs/manifest.md defines the file."""
    with open(manifest_path, encoding="utf-8") as manifest:
        lines = [json.loads(line) for line in manifest]
    if disk is not None and lines:
        lines = lines_of_disk(lines, disk)
    if len(lines) < 2 or lines[0].get("vmferry-manifest") != 1:
        raise Failure(f"{manifest_path} is not a manifest of version 1")
    head, runs, tail = lines[0], lines[1:-1], lines[-1]
    known = {"tree-sha256": "sha256", "tree-blake3": "blake3"}
    name, size = known.get(head["digest"]), head["content_size"]
    if name is None or (head["leaf_size"], head["chunk_size"]) != (LEAF_SIZE, CHUNK_SIZE):
        raise Failure(f"{manifest_path} uses a digest that is not known here")
    if size != content_size(head["virtual_size"]):
        raise Failure(f"{manifest_path} contradicts itself in its sizes")

    expected, at = [], 0
    for run in runs:
        left = -(-(size - at) // CHUNK_SIZE)
        in_order = run["at"] == at and 1 <= run["chunks"] <= left
        if not in_order or not re.fullmatch("[0-9a-f]{64}", run["digest"]):
            raise Failure(f"the run at {run['at']} does not follow the one before it")
        expected += [bytes.fromhex(run["digest"])] * run["chunks"]
        at = len(expected) * CHUNK_SIZE
    if at < size:
        raise Failure(f"{manifest_path} ends before the disk does")
    tree = disk_digest(expected, size, name)
    if tree != tail["tree"]:
        raise Failure(f"the chunk digests add up to {tree}, the manifest says {tail['tree']}")

    with open(image_path, "rb") as image:
        found = chunk_digests(image, size, hash_function(name))
        wrong = [index for index, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]]
        rest = first_data(image)
    for index in wrong[:20]:
        print(f"{image_path}: chunk at {index * CHUNK_SIZE} differs", file=sys.stderr)
    if wrong or rest is not None:
        if rest is not None:
            print(f"{image_path}: data at {rest}, behind the disk's end", file=sys.stderr)
        print(f"{image_path}: DIFFERS from {manifest_path}")
        return 1
    print(f"{image_path}: OK  {head['digest']}:{tree}")
    return 0


def first_data(stream):
    """Offset of the first byte from here on that is not zero, or None."""
    while block := stream.read(MIB):
        rest = block.lstrip(b"\0")
        if rest:
            return stream.tell() - len(rest)
    return None


def pattern(size):
    return bytes((i * 7 + i // 251 + 1) & 0xFF for i in range(size))


def vectors():
    import io

    rows = []
    for size in VECTOR_SIZES:
        row = {"size": size}
        for name in ("sha256", "blake3"):
            padded = content_size(size)
            row[name] = disk_digest(
                chunk_digests(io.BytesIO(pattern(size)), padded, hash_function(name)), padded, name
            )
        rows.append(row)
    text = ",\n".join("    " + json.dumps(row) for row in rows)
    return (
        '{\n  "about": "Tree digests of disks whose byte number i is (i * 7 + i // 251 + 1) modulo 256; '
        'made by docs/tree_digest.py --vectors",\n  "vectors": [\n' + text + "\n  ]\n}\n"
    )


class Failure(Exception):
    """Something that the user must hear of."""


def main():
    parser = argparse.ArgumentParser(description="Digest of a raw disk image; see docs/digest.md.")
    parser.add_argument("image", nargs="?", metavar="IMAGE.raw")
    parser.add_argument("--digest", choices=("sha256", "blake3"), default="sha256")
    parser.add_argument("--manifest", metavar="FILE", help="hold the image against this manifest")
    parser.add_argument("--disk", metavar="FILE", help="the disk of this name, if the manifest is of several")
    parser.add_argument("--vectors", action="store_true", help="print the test vectors")
    arguments = parser.parse_args()
    try:
        if arguments.vectors:
            sys.stdout.write(vectors())
            return 0
        if arguments.image is None:
            parser.error("an image is needed")
        if arguments.manifest:
            return check_manifest(arguments.manifest, arguments.image, arguments.disk)
        tree = digest_of_image(arguments.image, arguments.digest)
        print(f"tree-{arguments.digest}:{tree}  {arguments.image}")
        return 0
    except (Failure, OSError) as error:
        print(f"tree_digest.py: {error}", file=sys.stderr)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        print(f"tree_digest.py: not a manifest: {error!r}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
