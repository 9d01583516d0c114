#!/bin/sh
# Makes a minimal root file system as a tar, and prints the tar's path: Debian's busybox, OpenSSH with its libraries, and nothing else.
#
# It has no init, no package manager and no service manager: guestd is to be its process 1. Nothing of it is installed, so no package's
# scripts run. OpenSSH rather than the smaller dropbear, which does not know the files in which guestd keeps the keys that it manages.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/lib.sh"
cache=$here/../target/image/cache
suite=${GUESTD_DEBIAN_SUITE:-bookworm}

usage='usage: image/minimal-rootfs.sh [--bare] [--fresh]
  --bare   busybox alone, without OpenSSH
  --fresh  make both anew, with the packages of today'
name=minimal
fresh=
for option in "$@"; do
    case $option in
        --bare) name=minimal-bare ;;
        --fresh) fresh=1 ;;
        *) die "unknown argument '$option'
$usage" ;;
    esac
done
need mmdebstrap mmdebstrap
need readelf binutils
[ "$(id -u)" = 0 ] || die "only root can make files that are root's: run it as root"

packages=busybox-static,ca-certificates,openssh-client,openssh-server
ssh_programs='usr/sbin/sshd usr/bin/ssh usr/bin/scp usr/bin/sftp usr/bin/ssh-keygen usr/lib/openssh/sftp-server'
libraries=usr/lib/x86_64-linux-gnu

key=$({ epoch; echo "$suite"; cat "$here/minimal-rootfs.sh"; tree_digest "$here/minimal-overlay"; tree_digest "$here/debian-overlay"; } |
    digest | cut -c1-16)
tar_of() { echo "$cache/$1-$suite-$key.tar"; } # NAME
if [ -z "$fresh" ] && [ -f "$(tar_of minimal)" ] && [ -f "$(tar_of minimal-bare)" ]; then
    tar_of "$name"
    exit 0
fi

mkdir -p "$cache"
work=$(realpath "$(mktemp -d "$(tar_of minimal).XXXXXX")")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
from=$work/packages
umask 022
mkdir "$from"
say "unpacking packages of Debian $suite (some seconds on a fast mirror)"
SOURCE_DATE_EPOCH=$(epoch) mmdebstrap --quiet --variant=extract --format=tar --include="$packages" "$suite" "$work/packages.tar" >&2 ||
    die "mmdebstrap could not unpack $packages of Debian $suite; its own message is above (is the Debian mirror reachable?)"
tar -C "$from" --exclude='./dev/*' -xf "$work/packages.tar"

# The licence goes with what it is of.
licences() { # ROOT PATTERN...
    to=$1/usr/share/doc
    shift
    for pattern in "$@"; do
        for package in "$from"/usr/share/doc/$pattern; do
            mkdir -p "$to/${package##*/}"
            cp -L "$package/copyright" "$to/${package##*/}/copyright"
        done
    done
}

# ---- Directories, busybox with a link for each of its applets where that has its place, and settings.
bare() { # ROOT
    for dir in usr/bin usr/sbin usr/lib usr/lib64 usr/local/bin usr/local/sbin usr/share etc/ssl/certs root home srv opt mnt var/log var/lib \
        var/cache var/tmp dev proc sys run tmp; do mkdir -p "$1/$dir"; done
    for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$1/$dir"; done
    ln -s /run "$1/var/run"
    ln -s /run/lock "$1/var/lock"
    chmod 0700 "$1/root"
    chmod 1777 "$1/tmp" "$1/var/tmp"

    cp "$from/bin/busybox" "$1/usr/bin/busybox"
    # As init it would know nothing of guestd.
    "$1/usr/bin/busybox" --list-full | grep -vx -e sbin/init -e linuxrc >"$work/applets"
    while read -r applet; do
        case $applet in usr/*) ;; *) applet=usr/$applet ;; esac
        case $applet in usr/bin/*) target=busybox ;; *) target=../bin/busybox ;; esac
        [ -e "$1/$applet" ] || ln -s "$target" "$1/$applet"
    done <"$work/applets"

    # The authorities of TLS in one file, as Debian's own tool would put them together.
    find "$from/usr/share/ca-certificates" -name '*.crt' | LC_ALL=C sort | xargs cat >"$1/etc/ssl/certs/ca-certificates.crt"
    licences "$1" busybox-static ca-certificates
    cp "$here/debian-overlay/etc/hosts" "$here/debian-overlay/etc/hostname" "$1/etc/"
    # Of a working copy's file modes nothing is taken.
    tar -C "$here/minimal-overlay" --owner=0 --group=0 --mode=u=rwX,go=rX -cf "$work/overlay.tar" .
    tar -C "$1" --no-overwrite-dir -xf "$work/overlay.tar"
    chmod 0600 "$1/etc/shadow"
}

# ---- Programs with the libraries that they name, and those that these name.
place() { # ROOT PATH: of a file that the packages may have below /usr or not
    for path in "$2" "${2#usr/}"; do
        if [ -e "$from/$path" ]; then
            mkdir -p "$1/${2%/*}"
            rm -f "$1/$2"
            # What a link leads to, under the link's name.
            cp -L "$from/$path" "$1/$2"
            return
        fi
    done
    die "the packages $packages have no $2"
}
add_ssh() { # ROOT
    todo=$ssh_programs
    for file in $todo; do place "$1" "$file"; done
    while [ -n "$todo" ]; do
        next=
        for file in $todo; do
            for library in $(readelf -dW "$1/$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
                [ -e "$1/$libraries/$library" ] && continue
                place "$1" "$libraries/$library"
                next="$next $libraries/$library"
            done
        done
        todo=$next
    done
    # Where programs look for what loads them.
    ln -s ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$1/usr/lib64/ld-linux-x86-64.so.2"
    licences "$1" 'openssh-*' zlib1g 'lib[!ps]*' 'libp[!e]*' 'libs[!e]*' 'libselinux*'
}

bare "$work/minimal-bare"
cp -a "$work/minimal-bare" "$work/minimal"
rm -r "$work/minimal-bare/etc/ssh"
add_ssh "$work/minimal"
for made in minimal-bare minimal; do
    tar -C "$work/$made" --sort=name --mtime="@$(epoch)" --owner=0 --group=0 --numeric-owner -cf "$work/$made.tar" .
    mv "$work/$made.tar" "$(tar_of "$made")"
    say "$(tar_of "$made"): $(du -h "$(tar_of "$made")" | cut -f1)"
done
tar_of "$name"
