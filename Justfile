# Everything that is done with this repository. `./dev RECIPE` is the same after installing what is missing.

image := "target/image"
shell_scripts := "dev image/*.sh image/kernel/*.sh image/kernel/initramfs-init image/examples/*.sh .ci/run tests/install_inits/rootfs.sh image/init-overlays/*/etc/init.d/* image/init-overlays/*/etc/sv/*/run image/init-overlays/*/usr/local/share/guestd/*"

# The kernel of VMs, which the tests read too: debian (its kernel for clouds), generic (its other one) or firecracker (our own).
export GUESTD_E2E_KERNEL := env("GUESTD_E2E_KERNEL", "debian")

# What there is.
[private]
default:
    @just --list --unsorted

# The static guestd (target/static/guestd) and guestctl for this machine.
build:
    @image/build-static.sh
    @image/check-static.sh
    @cargo build --quiet --locked --bin guestctl

# Golden and minimal image, a kernel for the tests, their images for it (legacy services and rsync; three inits to boot with; the minimal one with its modules), and a root file system with other init systems: all in target/image.
image KERNEL=GUESTD_E2E_KERNEL: build
    @image/kernel.sh {{ KERNEL }}
    @tests/install_inits/rootfs.sh {{ image }}/inits
    @image/build.sh --out {{ image }}/golden.ext4
    @image/build.sh --rootfs "$(image/minimal-rootfs.sh)" --size 64M --out {{ image }}/minimal.ext4
    @image/build.sh --rootfs "$(image/minimal-rootfs.sh)" --size 96M --overlay {{ image }}/kernel-{{ KERNEL }}/overlay --out {{ image }}/minimal-{{ KERNEL }}.ext4
    @image/packages-overlay.sh tests/e2e/packages.txt {{ image }}/e2e-packages
    @image/build.sh --overlay {{ image }}/kernel-{{ KERNEL }}/overlay --overlay {{ image }}/e2e-packages --overlay tests/e2e/overlay --out {{ image }}/e2e-{{ KERNEL }}.ext4
    @image/build.sh --overlay {{ image }}/kernel-{{ KERNEL }}/overlay --overlay tests/e2e/init-overlay --out {{ image }}/inits-{{ KERNEL }}.ext4

# Make golden and minimal image twice, from nothing and in two places: they must be the same.
image-twice: build
    @image/twice.sh

# A kernel like those of Firecracker's VMs, target/image/kernel-firecracker/vmlinux: built from Debian's source in some minutes.
kernel:
    @image/kernel.sh firecracker

# Boot a VM, leave it running and say how to reach it; it ends with ctrl-C.
[no-exit-message]
vm: image
    @cargo run --quiet --locked --example vm

# Show the whole platform working, with timings; fails unless all of it is true.
[no-exit-message]
demo: image
    @cargo run --quiet --locked --example demo

# All tests, those in real VMs among them; arguments go to cargo nextest run.
[no-exit-message]
test *ARGS: image
    @cargo test --quiet --locked --doc
    @cargo nextest run --locked {{ ARGS }}

# Only the tests in real VMs; `--kernel generic` or `--kernel firecracker` first for another kernel than Debian's for clouds.
[no-exit-message]
[positional-arguments]
e2e *ARGS:
    #!/bin/sh
    set -eu
    if [ "${1-}" = --kernel ]; then
        GUESTD_E2E_KERNEL=${2:?--kernel wants debian, generic or firecracker}
        shift 2
    fi
    '{{ just_executable() }}' image "$GUESTD_E2E_KERNEL"
    cargo nextest run --locked --test e2e "$@"

# Format, lints, the client alone, documentation, static binary, dependencies, scripts.
[no-exit-message]
check: build
    cargo fmt --check
    cargo clippy --quiet --locked --all-targets -- -D warnings
    cargo clippy --quiet --locked --lib --no-default-features --features client -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --no-deps --document-private-items
    # The crates of other platforms, too, which no build needs and whose licences are looked at as well.
    cargo fetch --quiet --locked
    cargo deny --offline --log-level error check bans licenses sources
    shellcheck --external-sources --source-path=SCRIPTDIR {{ shell_scripts }}

# Thousands of execs of every kind and a GiB each way, after which nothing may be left; report in target/soak.
soak: build
    @cargo run --quiet --locked --release --example soak

# Restart services of every kind of bind under steered connections, with and without steering; report in target/matrix.json.
restart-matrix ROUNDS='300':
    @cargo run --quiet --locked --release --example restart-matrix {{ ROUNDS }}

# Measure one thing, reports in target/bench: base (size, start, memory), exec (beside ssh and qemu-ga), listeners (beside ss), bridge (beside other relays), boot (guestd init beside systemd and busybox); see tests/bench/README.md.
bench NAME='base': image
    @cargo build --quiet --locked --release --bin guestctl --example bench-bridge-realm
    @cargo run --quiet --locked --release --example bench-{{ NAME }}
