#!/bin/sh
# mask-units.sh ROOT: masks, in the root file system ROOT, the units of masked-units.txt.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/lib.sh"
[ -d "${1-}/etc/systemd" ] || die "usage: image/mask-units.sh ROOT, where ROOT has an etc/systemd"

words "$here/masked-units.txt" | while read -r unit; do
    mkdir -p "$1/etc/systemd/${unit%/*}"
    ln -sfn /dev/null "$1/etc/systemd/$unit"
done

# Nobody could ask logind for anything without a bus, and it would be a failed unit. An image with dbus keeps it.
[ -e "$1/usr/bin/dbus-daemon" ] || [ -e "$1/usr/bin/dbus-broker" ] || ln -sfn /dev/null "$1/etc/systemd/system/systemd-logind.service"
