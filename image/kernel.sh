#!/bin/sh
# Makes the kernel that the tests boot, from Debian's cloud kernel package, which is unpacked and never installed:
#
#   target/image/vmlinuz               the kernel
#   target/image/initramfs.cpio.gz     busybox and the drivers of the root disk; mounts it and hands over
#   target/image/kernel/overlay/       the other modules of modules.txt, to be laid on the root file system
#
# On the platform itself Firecracker brings its own kernel with all of this built in.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/lib.sh"
image=$here/../target/image
meta=linux-image-cloud-amd64

[ $# -eq 0 ] || die "unknown argument '$1'; usage: image/kernel.sh"
for tool in cpio:cpio depmod:kmod modprobe:kmod busybox:busybox-static gzip:gzip dpkg:dpkg apt-get:apt; do
    need "${tool%:*}" "${tool#*:}"
done
readelf -l "$(command -v busybox)" 2>/dev/null | grep -q INTERP &&
    die "busybox is not static, but the initramfs has no libraries: apt-get install --no-install-recommends busybox-static"

key=$(cat "$here/kernel.sh" "$here/modules.txt" "$here/initramfs-init" "$(command -v busybox)" | digest)
if [ "$(cat "$image/kernel/inputs" 2>/dev/null)" = "$key" ] && [ -f "$image/vmlinuz" ] && [ -f "$image/initramfs.cpio.gz" ]; then
    exit 0
fi

rm -rf "$image/kernel"
mkdir -p "$image/kernel/deb" "$image/kernel/tree" "$image/kernel/overlay" "$image/kernel/initramfs"

# ---- The package. The meta package names the current one.
resolve() { apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | head -n 1; }
# _apt, apt's own user, cannot write here; root is who builds images.
download() { (cd "$image/kernel/deb" && apt-get -q=2 -o APT::Sandbox::User=root download "$1" >&2); }

package=$(resolve)
if [ -z "$package" ] || ! download "$package"; then
    say "apt knows no package behind $meta, or an outdated one: updating its lists"
    logged "$image/kernel/apt.log" "update apt's lists" apt-get -q update
    package=$(resolve)
    [ -n "$package" ] || die "apt finds no $meta: is this Debian, with its main archive in sources.list?"
    download "$package" || die "apt could not download $package; its own message is above"
fi
dpkg -x "$image/kernel/deb/"*.deb "$image/kernel/tree"
version=${package#linux-image-}
tree=$image/kernel/tree
depmod -b "$tree" "$version"

# ---- Modules: each of modules.txt with what it depends on, in the order of loading.
words "$here/modules.txt" >"$image/kernel/names"
paths_of() { # WHERE
    while read -r name where; do
        [ "$where" = "$1" ] || continue
        modprobe -d "$tree" -S "$version" --show-depends "$name" >>"$image/kernel/depends" ||
            die "the kernel $version has no module '$name' (see image/modules.txt)"
    done <"$image/kernel/names"
    sed -n "s|^insmod .*/lib/modules/$version/\([^ ]*\).*|\1|p" "$image/kernel/depends" | awk '!seen[$0]++'
    rm "$image/kernel/depends"
}

modules=$image/kernel/overlay/usr/lib/modules/$version
mkdir -p "$modules" "$image/kernel/overlay/usr/lib/modules-load.d"
for where in initramfs boot present; do paths_of "$where"; done >"$image/kernel/wanted"
while read -r path; do
    mkdir -p "$modules/${path%/*}"
    cp "$tree/lib/modules/$version/$path" "$modules/$path"
done <"$image/kernel/wanted"
cp "$tree/lib/modules/$version/modules.builtin" "$tree/lib/modules/$version/modules.builtin.modinfo" \
    "$tree/lib/modules/$version/modules.order" "$modules/"
depmod -b "$image/kernel/overlay/usr" "$version"
{
    echo "# Drivers of the kernel $version; this file comes with its modules, so that a kernel that has them built in is asked for none."
    awk '$2 == "boot" { print $1 }' "$image/kernel/names"
} >"$image/kernel/overlay/usr/lib/modules-load.d/guest-kernel.conf"

# ---- The initramfs.
initramfs=$image/kernel/initramfs
mkdir -p "$initramfs/bin" "$initramfs/modules" "$initramfs/dev" "$initramfs/proc" "$initramfs/newroot"
cp "$(command -v busybox)" "$initramfs/bin/busybox"
ln -s busybox "$initramfs/bin/sh"
cp "$here/initramfs-init" "$initramfs/init"
chmod 0755 "$initramfs/init"
paths_of initramfs >"$image/kernel/wanted"
while read -r path; do
    cp "$tree/lib/modules/$version/$path" "$initramfs/modules/"
    echo "${path##*/}"
done <"$image/kernel/wanted" >"$initramfs/modules/order"
(cd "$initramfs" && find . | LC_ALL=C sort | cpio --quiet --reproducible -o -H newc -R 0:0 | gzip -9n) >"$image/initramfs.cpio.gz.part"

mv "$image/initramfs.cpio.gz.part" "$image/initramfs.cpio.gz"
cp "$tree/boot/vmlinuz-$version" "$image/vmlinuz"
echo "$version" >"$image/kernel/version"
rm -rf "$image/kernel/tree" "$image/kernel/deb" "$image/kernel/initramfs" "$image/kernel/names" "$image/kernel/wanted"
echo "$key" >"$image/kernel/inputs"
say "kernel $version: vmlinuz $(du -h "$image/vmlinuz" | cut -f1), initramfs $(du -h "$image/initramfs.cpio.gz" | cut -f1), modules $(du -sh "$modules" | cut -f1)"
