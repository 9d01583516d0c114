# Shared by the scripts of this directory, which are POSIX sh and source it.
# shellcheck shell=sh

# say TEXT: progress, for people.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die TEXT: the end, with its cause and what to do.
die() {
    say "error: $*"
    exit 1
}

# need COMMAND PACKAGE: a missing prerequisite fails, before anything was begun.
need() {
    command -v "$1" >/dev/null 2>&1 || die "the command '$1' is missing: apt-get install --no-install-recommends $2 (./dev does that)"
}

# logged FILE WHAT COMMAND...: its output goes to FILE, and its last lines are shown only if it fails.
logged() {
    log=$1
    what=$2
    shift 2
    mkdir -p "$(dirname "$log")"
    "$@" >"$log" 2>&1 </dev/null && return
    tail -n 20 "$log" >&2
    die "cannot $what: '$*' failed, its last lines are above, the whole of it is in $log"
}

# words FILE: the lines of FILE without comments and empty lines.
words() { sed -e 's/[[:space:]]*#.*//' -e '/^[[:space:]]*$/d' "$1"; }

# digest: sha256 of standard input, as one bare word.
digest() { sha256sum | cut -d' ' -f1; }

# epoch: the date of what has no date of its own, and of all that is younger, in images: the same inputs give the same image.
epoch() { echo "${SOURCE_DATE_EPOCH:-1735689600}"; }

# ext4_header IMAGE FIELD: what the superblock says of it, such as "Inode count".
ext4_header() { dumpe2fs -h "$1" 2>/dev/null | sed -n "s/^$2: *//p"; }

# tree_digest DIR: one digest over names, modes and contents below DIR, whatever its dates and owners.
tree_digest() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf - . | digest; }
