#!/bin/sh
# Makes an overlay of the programs and libraries of a few Debian packages, for an image that wants more than the golden one.
#
# The packages are downloaded and unpacked, never installed: neither their scripts nor their services, settings and manuals come along.
# Each is named in FILE, one a line, with those that it depends on and the image has not. Kept while FILE and this script are the same.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/lib.sh"

usage='usage: image/packages-overlay.sh FILE DIR
  FILE  names of packages, one a line
  DIR   the overlay to make; what is there is replaced'
[ $# -eq 2 ] || die "$usage"
[ -f "$1" ] || die "$1: no such list of packages"
names=$1
out=$2
for tool in dpkg:dpkg apt-get:apt; do need "${tool%:*}" "${tool#*:}"; done

key=$({ words "$names"; cat "$here/packages-overlay.sh"; } | digest)
if [ "$(cat "$out.inputs" 2>/dev/null)" = "$key" ] && [ -d "$out" ]; then exit 0; fi

rm -rf "$out" "$out.inputs"
mkdir -p "$out"
work=$(realpath "$(mktemp -d "$out.XXXXXX")")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/deb" "$work/tree"

# _apt, apt's own user, cannot write here; root is who builds images.
# shellcheck disable=SC2046 # A list of words.
download() { (cd "$work/deb" && apt-get -q=2 -o APT::Sandbox::User=root download $(words "$names") >&2); }
names=$(realpath "$names")
if ! download; then
    say "apt does not know these packages, or outdated ones: updating its lists"
    logged "$work/apt.log" "update apt's lists" apt-get -q update
    download || die "apt could not download the packages of $names; its own message is above"
fi
for deb in "$work/deb/"*.deb; do dpkg -x "$deb" "$work/tree"; done
# Some packages still have their libraries in /lib, which in an image is a link to /usr/lib.
for dir in usr/bin usr/lib lib; do
    [ -d "$work/tree/$dir" ] || continue
    mkdir -p "$out/usr/${dir#usr/}"
    cp -a "$work/tree/$dir/." "$out/usr/${dir#usr/}/"
done
# Kinds of programs that the kernel is to know at boot are a setting, too; without CONFIG_BINFMT_MISC it would make a unit fail.
rm -rf "$out/usr/lib/binfmt.d"
echo "$key" >"$out.inputs"
say "$out: $(cd "$work/deb" && echo *.deb | sed 's/_[^ ]*//g'), $(du -sh "$out" | cut -f1)"
