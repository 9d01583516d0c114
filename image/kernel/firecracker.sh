#!/bin/sh
# firecracker.sh OUT: a kernel like those that Firecracker hosts give to their VMs, from Debian's source and firecracker.config.
#
#   OUT/vmlinux           the kernel, uncompressed, as Firecracker loads it; no modules and no initramfs belong to it
#   OUT/overlay/          empty, as are a kernel's modules that are to be laid on the root file system where it has any
#   OUT/config, version   its whole configuration, and what uname -r says
#
# Nothing of it is installed, and no root is needed. It is kept while configuration, source and compiler are the same: another comment,
# or another word in this script, is not worth the minutes.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/../lib.sh"
[ $# -eq 1 ] || die "usage: image/kernel/firecracker.sh OUT; image/kernel.sh calls it"
out=$1
package=linux-source-6.1
fragment=$here/firecracker.config

for tool in gcc:gcc make:make flex:flex bison:bison bc:bc xz:xz-utils strip:binutils dpkg:dpkg apt-get:apt; do
    command -v "${tool%:*}" >/dev/null 2>&1 ||
        die "the command '${tool%:*}' is missing: apt-get install --no-install-recommends ${tool#*:} ('./dev kernel' does that)"
done
# objtool, which guards against speculation with, reads object files by it.
[ -e /usr/include/libelf.h ] || die "libelf's headers are missing: apt-get install --no-install-recommends libelf-dev ('./dev kernel' does that)"

# ---- The source's version, as far as apt knows of one.
candidate() { apt-cache show --no-all-versions "$package" 2>/dev/null | sed -n 's/^Version: //p'; }
update() {
    say "$1: updating apt's lists"
    logged "$out.apt.log" "update apt's lists" apt-get -q update
    rm "$out.apt.log"
    version=$(candidate)
    [ -n "$version" ] || die "apt finds no $package: is this Debian 12, with its main archive in sources.list?"
}
# OPTION=VALUE for each line of the fragment, "n" for one that is to be off.
wanted() { sed -n -e 's/^# \(CONFIG_[^ ]*\) is not set$/\1=n/p' -e '/^CONFIG_/p' "$fragment"; }
inputs() { { echo "$version"; gcc --version; wanted; } | digest; }
version=$(candidate)
[ -n "$version" ] || update "apt knows no $package"
if [ "$(cat "$out/inputs" 2>/dev/null)" = "$(inputs)" ]; then exit 0; fi

begun=$(date +%s)
rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/deb" "$work/tree" "$work/source" "$work/build"

# ---- The source. _apt, apt's own user, cannot write here.
download() { (cd "$work/deb" && apt-get -q=2 -o APT::Sandbox::User=root download "$package=$version" >&2); }
if ! download; then
    update "apt could not download $package $version"
    download || die "apt could not download $package $version; its own message is above"
fi
dpkg -x "$work/deb/"*.deb "$work/tree"
tar -C "$work/source" --strip-components=1 -xf "$work/tree/usr/src/$package.tar.xz"

# ---- The configuration. A line that the kernel's Kconfig has dropped, for a dependency of it is missing, would be an untrue one.
# The kernel tells its build's time, user and host: what is built from the same is the same.
KBUILD_BUILD_TIMESTAMP=$(zcat "$work/tree/usr/share/doc/$package/changelog.Debian.gz" | sed -n 's/^ -- .*>  //p' | head -n 1)
KBUILD_BUILD_USER=guestd
KBUILD_BUILD_HOST=guestd
export KBUILD_BUILD_TIMESTAMP KBUILD_BUILD_USER KBUILD_BUILD_HOST
build() { make -s -C "$work/source" O="$work/build" -j "$(nproc)" "$@"; }
logged "$work/config.log" "configure the kernel" build KCONFIG_ALLCONFIG="$fragment" allnoconfig
config=$work/build/.config
wanted | while IFS='=' read -r option value; do
    got=$(sed -n "s/^$option=//p" "$config")
    [ "${got:-n}" = "$value" ] || echo "  $option is ${got:-n}, not $value"
done >"$work/untrue"
[ ! -s "$work/untrue" ] || die "the source of $package $version does not take these lines of ${fragment##*/}:
$(cat "$work/untrue")"

# ---- The kernel.
release=$(build kernelrelease)
say "building Linux $release from $package $version (5 to 11 minutes on 2 cores)"
logged "$out.log" "build the kernel" build vmlinux
rm "$out.log"
strip -o "$out/vmlinux" "$work/build/vmlinux"
cp "$config" "$out/config"
# No modules; the same line builds the images for all kernels.
mkdir "$out/overlay"
echo "$release" >"$out/version"
inputs >"$out/inputs"
say "$out/vmlinux: Linux $release, $(du -h "$out/vmlinux" | cut -f1), $(size -A "$out/vmlinux" | awk '$1 == ".text" { printf "%.1f MiB", $2 / 1048576 }') of code, built in $((($(date +%s) - begun) / 60)) min $((($(date +%s) - begun) % 60)) s"
