//! Commits, restores and what is done around them.

use std::time::Duration;

/// Generations before the present one whose ids are remembered, so that a late announcement of one is known for what it is. A VM is
/// seldom restored more often than that within the time that a host repeats its calls.
pub const GENERATIONS_REMEMBERED: usize = 64;

/// Signs of a restore that are kept until it is announced.
pub const RESTORE_SIGNS: usize = 16;

/// After an announcement was carried out, how long a sign of a restore is taken to be of that one: the kernel's word of it can
/// come after the host's.
pub const RESTORE_SIGN_GRACE: Duration = Duration::from_secs(2);

/// From `prepare` to the thaw that nobody asked for, unless the host says otherwise: a commit takes a second or so. Counted in time
/// that the VM sees, so that a copy that is restored a week later still has it before it.
pub const SNAPSHOT_WATCHDOG: Duration = Duration::from_secs(30);

/// The longest that a host may set that time to.
pub const SNAPSHOT_WATCHDOG_MOST: Duration = Duration::from_secs(300);

/// Ids of generations, VMs and commits, in bytes.
pub const GENERATION_ID_BYTES: usize = 128;

/// Random bytes of an announcement: what the kernel's generator needs, and what some hosts like to give.
pub const GENERATION_ENTROPY_BYTES: (usize, usize) = (32, 1024);

/// Keys of an announcement that may log in, and the length of each in bytes; RSA with 16,384 bits fits.
pub const GENERATION_KEYS: (usize, usize) = (64, 8192);

/// `/run/guestd/state.json`, in bytes: two reports of some dozens of steps.
pub const GENERATION_STATE_BYTES: u64 = 1024 * 1024;

/// One step after a restore, hooks apart. They take microseconds to milliseconds; one that hangs, on a disk or in the kernel, must not keep the VM
/// closed.
pub const GENERATION_STEP_TIME: Duration = Duration::from_secs(5);

/// The same for SSH keys: they are made, written through to the disk, and sshd is asked whether it would start with them, which an emulated VM
/// on a busy machine takes seconds for.
pub const GENERATION_KEYS_TIME: Duration = Duration::from_secs(20);

/// A clock that differs by less from the host's is left alone: so long a request may have been under way.
pub const CLOCK_STEP: Duration = Duration::from_millis(20);

/// By more than this, a clock that differs from the host's by a device is set unasked. Real-time clocks know whole seconds.
pub const CLOCK_SKEW: Duration = Duration::from_secs(2);

/// Between two looks at the host's clock where nothing happens. A look when a host connects comes sooner; a VM that idles is not woken up
/// more often than this.
pub const CLOCK_LOOK: Duration = Duration::from_secs(180);

/// Hooks of one stage.
pub const HOOKS: usize = 32;

/// One hook before a commit, and one before the thaw: the VM stands still for it.
pub const HOOK_TIME: Duration = Duration::from_secs(5);

/// One hook after a restore.
pub const POST_RESTORE_HOOK_TIME: Duration = Duration::from_secs(30);

/// For a file system to grow. It takes milliseconds for each GB; while it is frozen, for ever.
pub const DISK_GROW_TIME: Duration = Duration::from_secs(20);

/// Names in a directory of hooks that are read, to find the first by their order.
pub const HOOK_NAMES: usize = 1024;
