#!/bin/sh
# ext4.sh ROOT IMAGE SIZE UUID: makes the ext4 file system IMAGE of the directory ROOT. Nothing is mounted, and the same tree, size and
# UUID give the same bytes; dates in ROOT are changed for that.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/lib.sh"
[ $# -eq 4 ] || die "usage: image/ext4.sh ROOT IMAGE SIZE UUID"
[ -d "$1" ] || die "$1: no such directory"
root=$1
image=$2
size=$3
uuid=$4
for tool in mkfs.ext4 debugfs dumpe2fs e2fsck; do need "$tool" e2fsprogs; done

epoch=$(epoch)
find "$root" -newermt "@$epoch" -exec touch -h -d "@$epoch" {} +

rm -f "$image"
# The tools' own clock, and the order of names in directories.
export E2FSPROGS_FAKE_TIME="$epoch" LC_ALL=C
# No lazy initialisation: it would be done by every VM again. All its tables are zero in a sparse file already.
mkfs.ext4 -q -F -L rootfs -m 1 -U "$uuid" -E "hash_seed=$uuid,lazy_itable_init=0,lazy_journal_init=0" -d "$root" "$image" "$size" >"$image.log" 2>&1 || {
    cat "$image.log" >&2
    die "mkfs.ext4 could not put $(du -sh "$root" | cut -f1) into a file system of $size; give more by --size"
}

# mkfs.ext4 takes over when the files here were last read and changed, which nobody can set. Inodes are given out from the first one on.
used=$(($(ext4_header "$image" 'Inode count') - $(ext4_header "$image" 'Free inodes')))
for field in atime ctime; do seq -f "set_inode_field <%.0f> $field @$epoch" 2 "$used"; done >"$image.fields"
debugfs -w -f "$image.fields" "$image" >"$image.log" 2>&1 || { tail -n 5 "$image.log" >&2; die "debugfs could not set the dates of $image"; }

e2fsck -fn "$image" >"$image.log" 2>&1 || { cat "$image.log" >&2; die "mkfs.ext4 made a file system that e2fsck finds fault with"; }
rm "$image.log" "$image.fields"
