//! Where a test has the agent die: `GUESTD_FAULT=POINT` in its environment ends it there as `kill -9` would. Only in builds for tests.

/// A point in the protocol.
pub(super) fn point(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("GUESTD_FAULT").is_some_and(|fault| fault == name) {
        let us = nix::unistd::getpid();
        let _ = nix::sys::signal::kill(us, nix::sys::signal::Signal::SIGKILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
