# Everything that is done with this repository. `./dev RECIPE` is the same after installing what is missing.

image := "target/image"
shell_scripts := "dev image/*.sh image/initramfs-init .ci/run"

# What there is.
[private]
default:
    @just --list --unsorted

# The static guestd (target/static/guestd) and guestctl for this machine.
build:
    @image/build-static.sh
    @image/check-static.sh
    @cargo build --quiet --locked --bin guestctl

# Golden image, the tests' image with its legacy services and rsync, and the tests' kernel: all in target/image.
image: build
    @image/kernel.sh
    @image/build.sh --overlay {{ image }}/kernel/overlay --out {{ image }}/golden.ext4
    @image/packages-overlay.sh tests/e2e/packages.txt {{ image }}/e2e-packages
    @image/build.sh --overlay {{ image }}/kernel/overlay --overlay {{ image }}/e2e-packages --overlay tests/e2e/overlay --out {{ image }}/e2e.ext4

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

# Only the tests in real VMs.
[no-exit-message]
e2e *ARGS: image
    @cargo nextest run --locked --test e2e {{ ARGS }}

# Format, lints, the client alone, documentation, static binary, dependencies, scripts.
[no-exit-message]
check: build
    cargo fmt --check
    cargo clippy --quiet --locked --all-targets -- -D warnings
    cargo clippy --quiet --locked --lib --no-default-features --features client -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --no-deps --document-private-items
    cargo deny --offline --log-level error check bans licenses sources
    shellcheck --external-sources --source-path=SCRIPTDIR {{ shell_scripts }}

# Thousands of execs of every kind and a GiB each way, after which nothing may be left; report in target/soak.
soak: build
    @cargo run --quiet --locked --release --example soak

# Measure one thing, reports in target/bench: base (size, start, memory), exec (beside ssh and qemu-ga), bridge (beside other relays); see tests/bench/README.md.
bench NAME='base': image
    @cargo build --quiet --locked --release --bin guestctl --example bench-bridge-realm
    @cargo run --quiet --locked --release --example bench-{{ NAME }}
