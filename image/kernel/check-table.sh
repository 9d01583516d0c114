#!/bin/sh
# check-table.sh NAME CONFIG: fails unless the table in README.md beside this says of the kernel NAME what its configuration CONFIG says.
#
# A row names options (`VSOCKETS` for CONFIG_VSOCKETS) in its second column; its cell under NAME must be "y" where all of them are built
# in, "m" where all are there and some are modules, "no" where one is missing. CONFIG may also be a fragment such as firecracker.config.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/../lib.sh"
[ $# -eq 2 ] || die "usage: image/kernel/check-table.sh NAME CONFIG"
[ -f "$2" ] || die "$2: no such configuration"

awk -v name="$1" -v config="$2" '
    function trim(text) { gsub(/^[ ]+|[ ]+$/, "", text); return text }
    # Between the option and its value.
    FNR == NR { if (match($0, /^CONFIG_[A-Z0-9_]+=/)) value[substr($0, 8, RLENGTH - 8)] = substr($0, RLENGTH + 1); next }
    /^\| of guestd / { cells = split($0, cell, "|"); for (i = 1; i <= cells; i++) if (trim(cell[i]) == name) column = i; reading = 1; next }
    !/^\|/ { reading = 0 }
    !reading || /^\|-/ { next }
    {
        split($0, cell, "|")
        options = cell[3]
        has = "y"
        while (match(options, /`[A-Z0-9_]+`/)) {
            option = substr(options, RSTART + 1, RLENGTH - 2)
            options = substr(options, RSTART + RLENGTH)
            if (value[option] == "m" && has == "y") has = "m"
            if (value[option] != "y" && value[option] != "m") has = "no"
            seen++
        }
        said = trim(cell[column])
        if (column && said != has) { print "  " trim(cell[2]) " (" trim(cell[3]) "): the table says " said ", the kernel " has; wrong++ }
    }
    END {
        if (!column) { print "  no column is called " name; wrong++ }
        if (!seen) { print "  no row names an option"; wrong++ }
        exit wrong > 0
    }' "$2" "$here/README.md" >&2 || die "image/kernel/README.md is not true of the kernel $1 as $2 has it"
