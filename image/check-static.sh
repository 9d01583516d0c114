#!/bin/sh
# check-static.sh [FILE]: fails unless FILE (target/static/guestd) is static, small, and runs where there is nothing but busybox.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/lib.sh"
binary=${1-$here/../target/static/guestd}
# ARCHITECTURE.md says what takes how much of it; a seventh is TLS (rustls and ring), which the registry's https:// and guestctl proxy need.
limit=8000000

[ -x "$binary" ] || die "no $binary: make it with 'just build'"
need readelf binutils
need busybox busybox-static
[ "$(id -u)" = 0 ] || die "only root can run a program in a root file system of its own (chroot): run it as root"

if readelf -lW "$binary" | grep INTERP >&2; then die "$binary asks for a dynamic loader (PT_INTERP): it is not static"; fi
if readelf -dW "$binary" | grep NEEDED >&2; then die "$binary asks for shared libraries (NEEDED): it is not static"; fi
size=$(stat -L -c %s "$binary")
[ "$size" -le "$limit" ] || die "$binary has $size bytes, more than the $limit allowed: was it built with --release, which strips it?"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$root/bin"
cp "$(command -v busybox)" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
cp "$binary" "$root/bin/guestd"
version=$(chroot "$root" /bin/sh -c 'exec /bin/guestd version' </dev/null) ||
    die "'guestd version' failed in a root file system that has only busybox"
say "static, $size bytes of $limit, runs beside busybox alone: ${version:-(no version printed)}"
