#!/bin/sh
# debian.sh PACKAGE OUT: a kernel from the Debian package that the meta package PACKAGE names, which is unpacked and never installed.
#
#   OUT/vmlinuz             the kernel
#   OUT/initramfs.cpio.gz   busybox and the drivers of the root disk; mounts it and hands over
#   OUT/overlay/            the other modules of modules.txt, to be laid on the root file system
#   OUT/config, version     its configuration, and what uname -r says
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/../lib.sh"
[ $# -eq 2 ] || die "usage: image/kernel/debian.sh PACKAGE OUT; image/kernel.sh calls it"
meta=$1
out=$2

for tool in cpio:cpio depmod:kmod modprobe:kmod busybox:busybox-static gzip:gzip dpkg:dpkg apt-get:apt; do
    need "${tool%:*}" "${tool#*:}"
done
readelf -l "$(command -v busybox)" 2>/dev/null | grep -q INTERP &&
    die "busybox is not static, but the initramfs has no libraries: apt-get install --no-install-recommends busybox-static"

key=$(cat "$here/debian.sh" "$here/modules.txt" "$here/initramfs-init" "$(command -v busybox)" | digest)
if [ "$(cat "$out/inputs" 2>/dev/null)" = "$key" ]; then exit 0; fi

rm -rf "$out"
mkdir -p "$out/overlay"
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/deb" "$work/tree" "$work/initramfs"

# ---- The package. The meta package names the current one.
resolve() { apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*-amd64\)$/\1/p' | head -n 1; }
# _apt, apt's own user, cannot write here; root is who builds images.
download() { (cd "$work/deb" && apt-get -q=2 -o APT::Sandbox::User=root download "$1" >&2); }

package=$(resolve)
if [ -z "$package" ] || ! download "$package"; then
    say "apt knows no package behind $meta, or an outdated one: updating its lists"
    logged "$work/apt.log" "update apt's lists" apt-get -q update
    package=$(resolve)
    [ -n "$package" ] || die "apt finds no $meta: is this Debian, with its main archive in sources.list?"
    download "$package" || die "apt could not download $package; its own message is above"
fi
dpkg -x "$work/deb/"*.deb "$work/tree"
version=${package#linux-image-}
tree=$work/tree
depmod -b "$tree" "$version"

# ---- Modules: each of modules.txt with what it depends on, in the order of loading. What is built in has no path.
words "$here/modules.txt" >"$work/names"
paths_of() { # WHERE
    while read -r name where; do
        [ "$where" = "$1" ] || continue
        modprobe -d "$tree" -S "$version" --show-depends "$name" >>"$work/depends" ||
            die "the kernel $version has no module '$name' (see image/kernel/modules.txt)"
    done <"$work/names"
    sed -n "s|^insmod .*/lib/modules/$version/\([^ ]*\).*|\1|p" "$work/depends" | awk '!seen[$0]++'
    rm "$work/depends"
}

modules=$out/overlay/usr/lib/modules/$version
mkdir -p "$modules" "$out/overlay/usr/lib/modules-load.d"
for where in initramfs boot present; do paths_of "$where"; done >"$work/wanted"
while read -r path; do
    mkdir -p "$modules/${path%/*}"
    cp "$tree/lib/modules/$version/$path" "$modules/$path"
done <"$work/wanted"
cp "$tree/lib/modules/$version/modules.builtin" "$tree/lib/modules/$version/modules.builtin.modinfo" \
    "$tree/lib/modules/$version/modules.order" "$modules/"
depmod -b "$out/overlay/usr" "$version"
{
    echo "# Drivers of the kernel $version; this file comes with its modules, so that a kernel that has them built in is asked for none."
    awk '$2 == "boot" { print $1 }' "$work/names"
} >"$out/overlay/usr/lib/modules-load.d/guest-kernel.conf"

# ---- The initramfs.
initramfs=$work/initramfs
mkdir -p "$initramfs/bin" "$initramfs/modules" "$initramfs/dev" "$initramfs/proc" "$initramfs/newroot"
cp "$(command -v busybox)" "$initramfs/bin/busybox"
ln -s busybox "$initramfs/bin/sh"
cp "$here/initramfs-init" "$initramfs/init"
chmod 0755 "$initramfs/init"
paths_of initramfs >"$work/wanted"
while read -r path; do
    cp "$tree/lib/modules/$version/$path" "$initramfs/modules/"
    echo "${path##*/}"
done <"$work/wanted" >"$initramfs/modules/order"
find "$initramfs" -exec touch -h -d @0 {} +
(cd "$initramfs" && find . | LC_ALL=C sort | cpio --quiet --reproducible -o -H newc -R 0:0 | gzip -9n) >"$out/initramfs.cpio.gz"

cp "$tree/boot/vmlinuz-$version" "$out/vmlinuz"
cp "$tree/boot/config-$version" "$out/config"
echo "$version" >"$out/version"
echo "$key" >"$out/inputs"
say "kernel $version: vmlinuz $(du -h "$out/vmlinuz" | cut -f1), initramfs $(du -h "$out/initramfs.cpio.gz" | cut -f1), modules $(du -sh "$modules" | cut -f1)"
