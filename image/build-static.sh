#!/bin/sh
# Builds the static guestd, target/static/guestd, for x86_64-unknown-linux-musl.
#
#   GUESTD_STATIC=rustup  with rustup's musl target, added when it is not there
#   GUESTD_STATIC=zig     without it: the standard library from Debian's rust-web-src, linked by zig (PyPI)
#
# Unset: rustup where that has the target or gets it, else zig. Both give the same program.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/lib.sh"
cd "$here/.."
target=x86_64-unknown-linux-musl

with_rustup() {
    # ring, which TLS needs, has parts in C. They include headers and call nothing of a libc, so that the machine's own compiler
    # will do and no musl-gcc is needed; but a compiler that fortifies by itself would make them call what musl does not have.
    CC_x86_64_unknown_linux_musl=${CC_x86_64_unknown_linux_musl-cc}
    CFLAGS_x86_64_unknown_linux_musl="${CFLAGS_x86_64_unknown_linux_musl-} -U_FORTIFY_SOURCE"
    export CC_x86_64_unknown_linux_musl CFLAGS_x86_64_unknown_linux_musl
    # Packed relocations (DT_RELR, which musl knows since 1.2.4) are 130 KB less, in a program that stays position-independent.
    RUSTFLAGS='-C link-arg=-Wl,-z,pack-relative-relocs' \
        cargo build --quiet --locked --release --target "$target" --bin guestd
    built=target/$target/release/guestd
}

has_rustup_target() {
    command -v rustup >/dev/null 2>&1 || return 1
    rustup target list --installed 2>/dev/null | grep -qx "$target" || rustup --quiet target add "$target" >&2
}

# Debian's compiler beside its own sources of std; PyPI's zig brings musl and an unwinder that fits it (Debian's wants glibc).
with_zig() {
    if [ ! -x /usr/bin/rustc ] || [ ! -x /usr/bin/cargo ] || ! dpkg -s rust-web-src >/dev/null 2>&1; then
        [ "$(id -u)" = 0 ] || die "Debian's rustc-web, cargo-web and rust-web-src are missing, and only root can install them"
        say "installing Debian's rustc-web, cargo-web, rust-web-src"
        logged target/tools/apt.log "update apt's lists" apt-get -q update
        logged target/tools/apt.log "install Debian's Rust" \
            env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends rustc-web cargo-web rust-web-src
    fi
    tools=$PWD/target/tools/zig
    if [ ! -x "$tools/bin/cargo-zigbuild" ]; then
        say "installing cargo-zigbuild and ziglang from PyPI into target/tools/zig"
        logged target/tools/pip.log "install zig" python3 -m pip install --target "$tools" cargo-zigbuild ziglang
    fi
    # A target directory of its own: two compilers would throw away each other's work.
    PYTHONPATH=$tools PATH=$tools/bin:$PATH RUSTC=/usr/bin/rustc CARGO=/usr/bin/cargo RUSTC_BOOTSTRAP=1 \
        RUSTFLAGS='-C link-self-contained=no' CARGO_TARGET_DIR=target/zig \
        cargo-zigbuild zigbuild --quiet --locked --release -Zbuild-std=std,panic_unwind --target "$target" --bin guestd
    built=target/zig/$target/release/guestd
}

case ${GUESTD_STATIC-} in
    rustup)
        has_rustup_target || die "rustup cannot add the target $target; GUESTD_STATIC=zig builds without it"
        with_rustup
        ;;
    zig) with_zig ;;
    '')
        if has_rustup_target; then
            with_rustup
        else
            say "rustup has no $target: building with Debian's std source and zig"
            with_zig
        fi
        ;;
    *) die "GUESTD_STATIC=$GUESTD_STATIC is neither 'rustup' nor 'zig'" ;;
esac

# An unchanged binary keeps its date, so that nothing made from it is made again.
mkdir -p target/static
if ! cmp -s "$built" target/static/guestd; then
    cp "$built" target/static/guestd.new
    mv target/static/guestd.new target/static/guestd
fi
say "target/static/guestd, $(stat -c %s target/static/guestd) bytes"
