//! What process 1 of a VM asks of the kernel: mounts, modules, the end of the machine.

mod machine;
mod mount;

pub use machine::{
    Reboot, adopt_orphans, ctrl_alt_del_is_a_signal, emergency_read_only, load_module, reboot, set_host_name,
    set_open_files, signal_at_parents_death,
};
pub use mount::{MountFlags, is_mount_point, mount, remount_read_only, remount_read_write, share, unmount};
