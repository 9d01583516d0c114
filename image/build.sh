#!/bin/sh
# Makes a golden image: an ext4 file system with an operating system, guestd and the golden keys in it. Nothing is mounted.
#
# Kept when nothing that goes into it has changed. Beside IMAGE.ext4 lies IMAGE.inputs: what it was made from, with versions and digests.
# The same inputs give the same bytes, wherever and whenever they are put together; SOURCE_DATE_EPOCH is the date of what has none.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/lib.sh"
top=$(dirname "$here")

usage='usage: image/build.sh [OPTION]...
  --out FILE      the image to make (target/image/golden.ext4)
  --rootfs FROM   directory or tar with a root file system (Debian, made by image/debian-rootfs.sh)
  --overlay DIR   files to lay on it, owned by root; may be given more than once, the last one wins
  --size SIZE     size of the file system, as mkfs.ext4 takes it (1G); the file is sparse
  --guestd FILE   the static guestd (target/static/guestd)
  --keys DIR      golden SSH keys, made when absent (target/image/keys)
  --waivers FILE  what guestd lint may find in the image (its README section has the format)'

out=$top/target/image/golden.ext4
rootfs=
size=1G
guestd=$top/target/static/guestd
keys=$top/target/image/keys
waivers=
overlays=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) echo "$usage"; exit 0 ;;
        --out | --rootfs | --overlay | --size | --guestd | --keys | --waivers) ;;
        *) die "unknown argument '$1'
$usage" ;;
    esac
    [ $# -ge 2 ] || die "$1 wants a value
$usage"
    case $1 in
        --out) out=$2 ;;
        --rootfs)
            # As when a command that should have named one has failed.
            [ -n "$2" ] || die "--rootfs wants a directory or a tar"
            rootfs=$2
            ;;
        --overlay)
            [ -d "$2" ] || die "--overlay $2: no such directory"
            # A list in a string, one a line, as sh has no arrays.
            overlays="$overlays$(CDPATH='' cd -- "$2" && pwd)
"
            ;;
        --size) size=$2 ;;
        --guestd) guestd=$2 ;;
        --keys) keys=$2 ;;
        --waivers) waivers=$2 ;;
    esac
    shift 2
done

[ "$(id -u)" = 0 ] || die "only root can unpack a root file system with its owners: run it as root"
need tar tar
[ -x "$guestd" ] || die "no $guestd: make it with 'just build', or name another with --guestd"

debian=
if [ -z "$rootfs" ]; then
    rootfs=$("$here/debian-rootfs.sh")
    debian=1
elif [ ! -d "$rootfs" ] && [ ! -f "$rootfs" ]; then
    die "--rootfs $rootfs: neither a directory nor a tar"
fi
[ -e "$keys/id_ed25519" ] || "$guestd" keygen --out "$keys" >&2 ||
    die "'guestd keygen --out $keys' failed; its own message is above"

# ---- Is there anything to do? A tar is known by its size and date: to read it all would take as long as to unpack it.
epoch=$(epoch)
each_overlay() { # COMMAND: runs it with every overlay's path
    printf '%s' "$overlays" | while read -r each; do "$@" "$each"; done
}
inputs_digest() {
    echo "$size $debian $epoch"
    if [ -d "$rootfs" ]; then tree_digest "$rootfs"; else stat -L -c '%n %s %Y' "$rootfs"; fi
    cat "$here/build.sh" "$here/ext4.sh" "$here/lib.sh" "$here/mask-units.sh" "$here/masked-units.txt"
    tree_digest "$here/debian-overlay"
    if [ -d "$top/rootfs-overlay" ]; then tree_digest "$top/rootfs-overlay"; fi
    each_overlay tree_digest
    cat "$guestd"
    if [ -d "$keys" ]; then tree_digest "$keys"; fi
    if [ -n "$waivers" ]; then cat "$waivers"; fi
}
inputs=${out%.ext4}.inputs
key=$(inputs_digest | digest)
if [ -f "$out" ] && [ "$(sed -n 's/^inputs-sha256=//p' "$inputs" 2>/dev/null)" = "$key" ]; then
    say "$out is up to date"
    exit 0
fi
rm -f "$out" "$inputs"

mkdir -p "$(dirname "$out")"
work=$(realpath "$(mktemp -d "$out.XXXXXX")")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
root=$work/root
umask 022
mkdir "$root"

# ---- The root file system, then what is laid on it. Overlays come from working copies: their owners and a umask's group write bits
# ---- mean nothing. /lib and /bin may be links in the root and directories in an overlay.
#
# A root file system has absolute links (Debian: /var/run -> /run), and here they lead to this machine's own directories: whatever
# is written or removed below the root is looked at first.
unpack() { tar -C "$root" --numeric-owner --xattrs --xattrs-include='*' -xpf "$1"; }
inside() { # DIR: is $root/DIR, with all links followed, still below the root?
    case $(realpath -m -- "$root/$1")/ in "$root"/*) ;; *) return 1 ;; esac
}
lay() { # DIR
    (cd "$1" && find . -type d) >"$work/directories"
    while read -r dir; do
        inside "$dir" || die "$1 has a directory ${dir#.}, which in the image is a link to $(realpath -m "$root/$dir"): use the name that it leads to"
    done <"$work/directories"
    # Not through a pipe, in which the first one's failure would not be seen.
    tar -C "$1" --owner=0 --group=0 --mode=go-w --mtime="@$epoch" -cf "$work/overlay.tar" .
    tar -C "$root" --keep-directory-symlink --no-overwrite-dir -xpf "$work/overlay.tar"
    rm "$work/overlay.tar"
}

if [ -d "$rootfs" ]; then
    tar -C "$rootfs" --numeric-owner --xattrs --xattrs-include='*' --one-file-system -cf "$work/rootfs.tar" .
    unpack "$work/rootfs.tar"
    rm "$work/rootfs.tar"
else
    unpack "$rootfs"
fi
if [ -n "$debian" ]; then
    lay "$here/debian-overlay"
    "$here/mask-units.sh" "$root"
fi
if [ -d "$top/rootfs-overlay" ] && [ -d "$root/etc/systemd" ]; then lay "$top/rootfs-overlay"; fi
each_overlay lay

# ---- guestd itself.
"$guestd" install --root "$root" --keys "$keys" >"$work/installed" || die "'guestd install --root $root' failed; its own message is above"
# What it kept because an overlay has another form of it, its notes and its sum; every image has the rest.
sed -E '/^(created|updated|unchanged) /d' "$work/installed" >&2

# ---- What must be a VM's own is not in an image.
clean() { # DIR PATTERN: removes what is called so, directly in DIR
    if [ -d "$root/$1" ] && inside "$1"; then find "$root/$1/" -mindepth 1 -maxdepth 1 -name "$2" -exec rm -rf {} +; fi
}
clean etc/ssh 'ssh_host_*_key*'
clean etc/guestd/ssh 'vm_ed25519*'
clean etc/guestd/ssh made_for.json
# A container's: systemd would take the VM for one, and leave undone what it does in none.
clean . .dockerenv
clean run .containerenv
# The kernel's devtmpfs has the nodes.
clean dev '*'
clean var/lib/systemd random-seed
clean var/lib/dbus machine-id
clean var/lib/apt/lists '*'
clean var/cache/apt '*.bin'
clean var/cache/apt/archives '*.deb'
clean var/log/journal '*'
clean tmp '*'
clean var/tmp '*'
clean root .bash_history
if [ -d "$root/var/log" ] && inside var/log; then find "$root/var/log/" -type f -exec truncate -s 0 {} +; fi
# Present and empty: "uninitialized" or a missing file would make systemd run its first-boot presets.
if [ -d "$root/etc/systemd" ] && inside etc; then
    rm -f "$root/etc/machine-id"
    : >"$root/etc/machine-id"
fi
for dir in dev proc sys run tmp; do
    if [ ! -e "$root/$dir" ] && [ ! -L "$root/$dir" ]; then mkdir "$root/$dir"; fi
done
[ -L "$root/tmp" ] || chmod 1777 "$root/tmp"
# An exported container has these empty, as its engine lays files of its own on them.
for file in etc/hosts etc/hostname; do
    if [ -d "$root/etc" ] && inside etc && [ ! -L "$root/$file" ] && [ ! -s "$root/$file" ]; then cp "$here/debian-overlay/$file" "$root/$file"; fi
done

# ---- What it was made from.
list_overlay() { # DIR: digest and path of each of its files
    (cd "$1" && find . \( -type f -exec sha256sum {} + \) -o \( -type l -printf 'link:%l  %p\n' \)) | LC_ALL=C sort -k 2 | sed "s|^|overlay ${1#"$top/"} |"
}
if [ -d "$rootfs" ]; then rootfs_digest=$(tree_digest "$rootfs"); else rootfs_digest=$(digest <"$rootfs"); fi
{
    echo "size=$size"
    echo "rootfs=${rootfs##*/}"
    echo "rootfs-sha256=$rootfs_digest"
    echo "guestd-sha256=$(digest <"$guestd")"
    echo "golden-key-sha256=$(digest <"$keys/id_ed25519.pub")"
    for dir in "$root"/usr/lib/modules/*; do if [ -d "$dir" ]; then echo "kernel-modules=${dir##*/}"; fi; done
    if [ -f "$root/var/lib/dpkg/status" ]; then
        awk '/^Package: / { p = $2 } /^Version: / { v = $2 } /^$/ { if (p) print "package " p "=" v; p = "" } END { if (p) print "package " p "=" v }' \
            "$root/var/lib/dpkg/status" | LC_ALL=C sort
    fi
    if [ -n "$debian" ]; then list_overlay "$here/debian-overlay"; fi
    if [ -d "$top/rootfs-overlay" ]; then list_overlay "$top/rootfs-overlay"; fi
    each_overlay list_overlay
} >"$work/parts"
{
    echo "# What ${out##*/} was made from."
    echo "inputs-sha256=$key"
    cat "$work/parts"
} >"$work/inputs"

# ---- The file system. What it was made from names it, wherever that lay.
uuid=$(sed -e 's/^overlay [^ ]* //' -e '/^rootfs=/d' "$work/parts" | digest |
    sed 's/^\(.\{8\}\)\(.\{4\}\).\(.\{3\}\).\(.\{3\}\)\(.\{12\}\).*/\1-\2-4\3-8\4-\5/')
"$here/ext4.sh" "$root" "$work/image" "$size" "$uuid"

# ---- It leaks nothing and works, as far as can be told before it is booted.
"$guestd" lint "$work/image" ${waivers:+--waivers "$waivers"} >"$work/lint" || {
    cat "$work/lint" >&2
    die "'guestd lint' has found errors, which are above: mend them, or waive what is meant to be so by --waivers"
}
say "guestd lint: $(tail -n 1 "$work/lint")"

mv "$work/image" "$out"
mv "$work/inputs" "$inputs"

# ---- How large it is, and what of it is largest.
blocks=$(($(ext4_header "$out" 'Block count') - $(ext4_header "$out" 'Free blocks')))
used_kib=$((blocks * $(ext4_header "$out" 'Block size') / 1024))
say "$out: $size, of which $((used_kib / 1024)) MiB are used; $(du -h "$out" | cut -f1) on disk; $(du -sh "$root" | cut -f1) of files"
(cd "$root" && du -xk --max-depth=2 usr var etc opt home root srv 2>/dev/null) | sort -rn |
    awk '$2 ~ "/" && $1 >= 1024 { printf "  %6.1f MiB  /%s\n", $1 / 1024, $2 }' | head -n 5 >&2
if [ -f "$root/var/lib/dpkg/status" ]; then
    awk '/^Package: / { p = $2 } /^Installed-Size: / { printf "%d %s\n", $2, p }' "$root/var/lib/dpkg/status" | sort -rn |
        awk '{ printf "  %6.1f MiB  package %s\n", $1 / 1024, $2 }' | head -n 5 >&2
else
    find "$root" -xdev -type f -size +512k -printf '%s /%P\n' | sort -rn | awk '{ printf "  %6.1f MiB  %s\n", $1 / 1048576, $2 }' | head -n 5 >&2
fi
