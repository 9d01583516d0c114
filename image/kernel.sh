#!/bin/sh
# Makes one of the kernels that the tests boot. On the platform itself Firecracker brings its own.
#
#   target/image/kernel-NAME/vmlinuz, initramfs.cpio.gz   Debian's kernels: their drivers are modules ...
#   target/image/kernel-NAME/overlay/                     ... of which these are to be laid on the root file system
#   target/image/kernel-firecracker/vmlinux               our own: an ELF file with everything in it; its overlay is empty
#   target/image/kernel-NAME/config, version              its configuration, and what `uname -r` says in the VM
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/lib.sh"

usage='usage: image/kernel.sh debian|generic|firecracker
  debian       Debian'\''s kernel for cloud machines, which the tests boot unless told otherwise
  generic      Debian'\''s kernel for all machines
  firecracker  built from Debian'\''s source with image/kernel/firecracker.config, in some minutes'
[ $# -eq 1 ] || die "$usage"
out=$here/../target/image/kernel-$1
mkdir -p "$out"
out=$(realpath "$out")
case $1 in
    debian) "$here/kernel/debian.sh" linux-image-cloud-amd64 "$out" ;;
    generic) "$here/kernel/debian.sh" linux-image-amd64 "$out" ;;
    firecracker) "$here/kernel/firecracker.sh" "$out" ;;
    *) die "no kernel is called '$1'
$usage" ;;
esac
