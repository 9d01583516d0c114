#!/bin/sh
# Makes the Debian root file system of the golden image as a tar, and prints the tar's path.
#
# The tar is kept, under a name that is a digest of what it was made from (suite, package list, this script), so that only a change
# makes a new one. Newer versions of the packages alone do not: `image/debian-rootfs.sh --fresh` asks for those.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/lib.sh"
cache=$here/../target/image/cache
suite=${GUESTD_DEBIAN_SUITE:-bookworm}

fresh=
case ${1-} in
    '') ;;
    --fresh) fresh=1 ;;
    *) die "unknown argument '$1'; usage: image/debian-rootfs.sh [--fresh]" ;;
esac
need mmdebstrap mmdebstrap

key=$({ echo "$suite"; epoch; words "$here/packages.txt"; cat "$here/debian-rootfs.sh"; } | digest | cut -c1-16)
out=$cache/debian-$suite-$key.tar
if [ -z "$fresh" ] && [ -f "$out" ]; then
    echo "$out"
    exit 0
fi

mkdir -p "$cache"
part=$out.part
trap 'rm -f "$part"' EXIT
trap 'exit 1' HUP INT TERM
# mmdebstrap gives what it makes no later date, and leaves out what differs from one time to another.
SOURCE_DATE_EPOCH=$(epoch)
export SOURCE_DATE_EPOCH
say "making Debian $suite with mmdebstrap (under a minute on a fast mirror)"

# Its openssh-server makes host keys when it is installed: they would be everybody's, and no two root file systems the same.
# Documentation and translations are kept out of this and of every later installation in the VM; licences stay.
# shellcheck disable=SC2016 # The hook's own shell has the argument.
logged "$out.log" "make Debian $suite" mmdebstrap --quiet --variant=minbase --format=tar \
    --include="$(words "$here/packages.txt" | paste -sd,)" \
    --aptopt='Acquire::Languages "none"' \
    --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/lintian/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --customize-hook='rm -f "$1"/etc/ssh/ssh_host_*_key*' \
    "$suite" "$part"
rm "$out.log"
mv "$part" "$out"
echo "$out"
