#!/bin/sh
# Makes a golden image from a Dockerfile: builds it, exports a container of it, and gives the files to image/build.sh.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/../lib.sh"

usage='usage: image/examples/from-container.sh CONTEXT IMAGE.ext4 [OPTION]...
  CONTEXT     directory with a Dockerfile, such as image/examples
  IMAGE.ext4  the image to make
  OPTION      further ones for image/build.sh, such as --size 8G
ENGINE=podman uses podman in the place of docker.'
[ $# -ge 2 ] || die "$usage"
context=$1
out=$2
shift 2
[ -d "$context" ] || die "$context: no such directory
$usage"
engine=${ENGINE:-docker}
command -v "$engine" >/dev/null 2>&1 || die "there is no $engine; a tar of a root file system can also be given to image/build.sh --rootfs"

mkdir -p "$(dirname "$out")"
container=
work=$(mktemp -d "$out.XXXXXX")
trap '[ -z "$container" ] || "$engine" rm "$container" >/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

say "building $context with $engine"
image=$("$engine" build --quiet "$context") || die "'$engine build $context' failed; its own message is above"
# Made and never started: what is exported are the files of the image. A command must be named where the image names none.
container=$("$engine" create "$image" /bin/true) || die "'$engine create' failed; its own message is above"
"$engine" export --output "$work/rootfs.tar" "$container" || die "'$engine export' failed; its own message is above"
"$here/../build.sh" --rootfs "$work/rootfs.tar" --out "$out" "$@"
