#!/bin/sh
# Makes the golden and the minimal image twice, each time from nothing and somewhere else, and fails unless they are the same. Two minutes.
#
# What the tests show of small trees is shown of all of Debian here: mmdebstrap is run for each, with the packages of the moment.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/lib.sh"
[ $# -eq 0 ] || die "unknown argument '$1'; usage: image/twice.sh"
top=$(dirname "$here")
guestd=$top/target/static/guestd
[ -x "$guestd" ] || die "no $guestd: make it with 'just build'"

mkdir -p "$top/target/image"
work=$(mktemp -d "$top/target/image/twice.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
"$guestd" keygen --out "$work/keys" >/dev/null
for place in first second/and/deeper; do
    mkdir -p "$work/$place"
    cp -r "$here" "$top/rootfs-overlay" "$work/$place/"
    again=$work/$place/image
    "$again/build.sh" --guestd "$guestd" --keys "$work/keys" --out "$work/$place/golden.ext4"
    "$again/build.sh" --guestd "$guestd" --keys "$work/keys" --rootfs "$("$again/minimal-rootfs.sh")" --size 64M --out "$work/$place/minimal.ext4"
done
for image in golden minimal; do
    cmp "$work/first/$image.ext4" "$work/second/and/deeper/$image.ext4" >&2 || die "two $image images of the same inputs differ"
    say "two $image images of the same inputs are the same: sha256 $(digest <"$work/first/$image.ext4")"
done
