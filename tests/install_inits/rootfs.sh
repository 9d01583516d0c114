#!/bin/sh
# rootfs.sh DIR: makes the root file system in which the tests run guestd under OpenRC, runit and busybox's init, from the Debian packages of
# packages.txt. They are downloaded and unpacked, never installed. Kept while the list and this script are the same.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source=../../image/lib.sh
. "$here/../../image/lib.sh"
[ $# -eq 1 ] || die "usage: tests/install_inits/rootfs.sh DIR"
out=$1
for tool in dpkg:dpkg apt-get:apt; do need "${tool%:*}" "${tool#*:}"; done

key=$({ words "$here/packages.txt"; cat "$here/rootfs.sh"; } | digest)
if [ "$(cat "$out.inputs" 2>/dev/null)" = "$key" ] && [ -d "$out" ]; then exit 0; fi

rm -rf "$out" "$out.inputs"
mkdir -p "$(dirname "$out")"
work=$(realpath "$(mktemp -d "$out.XXXXXX")")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/deb" "$work/root"

# _apt, apt's own user, cannot write here; root is who builds images.
# shellcheck disable=SC2046 # A list of words.
download() { (cd "$work/deb" && apt-get -q=2 -o APT::Sandbox::User=root download $(words "$here/packages.txt") >&2); }
if ! download; then
    say "apt does not know these packages, or outdated ones: updating its lists"
    logged "$work/apt.log" "update apt's lists" apt-get -q update
    download || die "apt could not download the packages of $here/packages.txt; its own message is above"
fi
root=$work/root
for deb in "$work/deb/"*.deb; do dpkg -x "$deb" "$root"; done
rm -rf "$root/usr/share/doc" "$root/usr/share/man"

# What the packages' scripts and Debian's base files would make.
mkdir -p "$root/dev" "$root/proc" "$root/run" "$root/tmp" "$root/root" "$root/var/log" "$root/usr/local/bin" \
    "$root/etc/runlevels/sysinit" "$root/etc/runlevels/boot" "$root/etc/runlevels/default" "$root/etc/rcS.d" "$root/etc/rc2.d"
ln -s /run "$root/var/run"
ln -s default "$root/etc/runit/runsvdir/current"
echo 'root:x:0:0::/root:/bin/sh' >"$root/etc/passwd"
printf 'root:x:0:\nuucp:x:10:\nutmp:x:43:\n' >"$root/etc/group"
: >"$root/etc/fstab"
: >"$root/etc/insserv.conf"
mkdir -p "$root/etc/insserv.conf.d" "$root/etc/insserv/overrides"
chroot "$root" /bin/busybox --list | while read -r applet; do
    for dir in bin sbin usr/bin usr/sbin; do
        if [ -e "$root/$dir/$applet" ] || [ -L "$root/$dir/$applet" ]; then continue 2; fi
    done
    ln -s busybox "$root/bin/$applet"
done
# Each test has its own.
rm "$root/sbin/init"

mv "$root" "$out"
echo "$key" >"$out.inputs"
say "$out: $(cd "$work/deb" && echo *.deb | sed 's/_[^ ]*//g'), $(du -sh "$out" | cut -f1)"
