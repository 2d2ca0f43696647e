#!/usr/bin/env bash
# Installs what vmferry needs beside Rust on Debian and its kin; silent when everything is there.
#
#     scripts/install-deps.sh build     what `cargo build --features isal` needs
#     scripts/install-deps.sh demo      that, and what scripts/demo.sh needs
#     scripts/install-deps.sh test      that, and what the tests need (the default)
#
# Packages are installed as root, or by sudo. Nothing is ever removed or upgraded: an installed
# qemu-utils stays what it is, and Debian's qemu-system-* are not wanted, since they would replace it.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

group=${1:-test}
missing=()

# need PACKAGE TEST...: the package is missing unless the test succeeds.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
command_() { command -v "$1"; }

need gcc command_ cc
need libc6-dev test -e /usr/include/stdlib.h
need libisal-dev test -e /usr/include/isa-l.h -o -e /usr/include/isa-l/igzip_lib.h
if [ "$group" != build ]; then
    need qemu-utils command_ qemu-img
    need e2fsprogs command_ mke2fs
    need fdisk command_ sfdisk
    need python3 command_ python3
fi
if [ "$group" = test ]; then
    need fish command_ fish
    need gzip command_ gzip
    need kubernetes-client command_ kubectl
    need libvmdk-utils command_ vmdkinfo
    need libxml2-utils command_ xmllint
    need man-db command_ man
    need mandoc command_ mandoc
    need openssl command_ openssl
    need python3-venv python3 -c 'import ensurepip, venv'
    need zsh command_ zsh
    need zstd command_ zstd
    need nodejs command_ node
    need npm command_ npm
    # What makes the disks of the test material, if there is one.
    if [ -n "${VMFERRY_TEST_MATERIAL:-}" ]; then
        need busybox-static command_ busybox
        need cpio command_ cpio
        need grub-common command_ grub-mkimage
        need grub-pc-bin test -d /usr/lib/grub/i386-pc
        need kmod command_ depmod
    fi
fi

as_root() {
    if [ "$(id -u)" = 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    elif command -v sudo >/dev/null; then
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    else
        echo "install-deps.sh: neither root nor sudo; run this as root: $*" >&2
        return 1
    fi
}

have_lists() {
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null
}

# Lists that are empty or too old cost one update.
install_packages() {
    local install=(apt-get -y -qq --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300 install "$@")
    if have_lists && as_root "${install[@]}" >/dev/null; then
        return
    fi
    as_root apt-get -qq -o DPkg::Lock::Timeout=300 update
    as_root "${install[@]}" >/dev/null
}

if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "install-deps.sh: no apt-get here; install the counterparts of: ${missing[*]}" >&2
        exit 1
    fi
    echo "installing ${missing[*]}" >&2
    install_packages "${missing[@]}"
fi

# The disks of the test material are made of packages, which need lists even if nothing is missing.
if [ "$group" = test ] && [ -n "${VMFERRY_TEST_MATERIAL:-}" ] && command -v apt-get >/dev/null && ! have_lists; then
    as_root apt-get -qq -o DPkg::Lock::Timeout=300 update
fi

if ! command -v cargo >/dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    echo "install-deps.sh: Rust is missing; https://rustup.rs installs it" >&2
    exit 1
fi

# Second readers and object stores, in Python, in an environment of their own.
if [ "$group" = test ]; then
    venv=${CARGO_TARGET_DIR:-target}/test-venv
    if ! cmp -s scripts/requirements.txt "$venv/installed.txt"; then
        echo "installing $(grep -v '^#' scripts/requirements.txt | paste -sd ' ') into $venv" >&2
        rm -rf "$venv"
        mkdir -p "$(dirname "$venv")"
        if python3 -m venv "$venv" &&
            "$venv/bin/pip" --quiet --disable-pip-version-check install -r scripts/requirements.txt; then
            cp scripts/requirements.txt "$venv/installed.txt"
        else
            echo 'install-deps.sh: no second readers and stores: tests that need them are skipped, or fail under VMFERRY_STRICT=1' >&2
            [ "${VMFERRY_STRICT:-0}" != 1 ]
        fi
    fi
fi

# An object store of Azure's kind, from npm.
azurite=3.35.0
if [ "$group" = test ]; then
    npm=${CARGO_TARGET_DIR:-target}/test-npm
    if ! cmp -s <(echo "$azurite") "$npm/installed.txt"; then
        echo "installing azurite $azurite into $npm" >&2
        rm -rf "$npm"
        mkdir -p "$npm"
        if npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$npm" "azurite@$azurite" >/dev/null; then
            echo "$azurite" >"$npm/installed.txt"
        else
            echo 'install-deps.sh: no Azurite: tests that need it are skipped, or fail under VMFERRY_STRICT=1' >&2
            [ "${VMFERRY_STRICT:-0}" != 1 ]
        fi
    fi
fi
