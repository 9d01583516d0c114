//! Which kernel modules to load, in which order, by the texts of `modules-load.d` and of the kernel's `modules.*`. Pure.
//!
//! The formats are modules-load.d(5) and modules.dep(5). A module that is built in, or that the kernel does not have, is no fault: one image serves
//! kernels of both kinds.

use std::collections::{HashMap, HashSet};

/// Names in a file of `modules-load.d`, as the kernel writes them.
pub(super) fn names(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    lines.map(canonical)
}

/// The kernel takes `-` and `_` for the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// What `modules.dep` knows, by name: path below the modules' directory, and paths of all that the module needs.
#[derive(Debug, Default)]
pub(super) struct Dependencies<'a> {
    by_name: HashMap<String, (&'a str, &'a str)>,
    by_path: HashMap<&'a str, &'a str>,
}

impl<'a> Dependencies<'a> {
    /// Lines of `PATH: PATH PATH…`.
    pub(super) fn parse(text: &'a str) -> Self {
        let mut all = Self::default();
        for (path, needs) in text.lines().filter_map(|line| line.split_once(':')) {
            all.by_name.insert(name_of(path), (path, needs));
            all.by_path.insert(path, needs);
        }
        all
    }

    /// Paths to load for these names, each after what it needs, and none twice. Names that are not known are left out.
    pub(super) fn order(&self, names: impl IntoIterator<Item = String>) -> Vec<&'a str> {
        let (mut order, mut seen) = (Vec::new(), HashSet::new());
        for name in names {
            let Some((path, needs)) = self.by_name.get(&name) else { continue };
            // depmod lists all that is needed, also at second hand, what is needed first at the end (modules.dep(5)).
            for path in needs.split_ascii_whitespace().rev().chain([*path]) {
                if seen.insert(path) {
                    order.push(path);
                }
            }
        }
        order
    }
}

/// `kernel/net/a-b.ko.xz` is `a_b`.
pub(super) fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    canonical(file.split(".ko").next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/net/vmw_vsock/vsock.ko:
kernel/net/vmw_vsock/common.ko: kernel/net/vmw_vsock/vsock.ko
kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko: kernel/net/vmw_vsock/common.ko kernel/net/vmw_vsock/vsock.ko
kernel/drivers/net/virtio-net.ko.xz:
";

    #[test]
    fn a_module_comes_after_what_it_needs_and_none_comes_twice() {
        let wanted = ["vmw_vsock_virtio_transport", "vsock", "virtio_net", "unknown"].map(str::to_owned);
        let order: Vec<_> = Dependencies::parse(DEP).order(wanted).into_iter().map(name_of).collect();
        assert_eq!(order, ["vsock", "common", "vmw_vsock_virtio_transport", "virtio_net"]);
    }

    #[test]
    fn comments_and_blank_lines_name_no_module() {
        let text = "# a\n; b\n\n  virtio-net  \nloop\n";
        assert!(names(text).eq(["virtio_net", "loop"]));
    }

    #[test]
    fn nonsense_is_no_module() {
        let nothing = Dependencies::parse("no colon\n:\n");
        assert!(nothing.order(["x".to_owned()]).is_empty());
    }
}
