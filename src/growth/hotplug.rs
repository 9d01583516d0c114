//! Memory blocks and CPUs below /sys/devices/system.

use std::fs;
use std::io;
use std::path::Path;

const SYSTEM: &str = "/sys/devices/system";

/// Brings a memory block or a CPU online. Whether it was not; one whose driver does not let it be switched is left alone.
pub(super) fn online(device: &Path) -> io::Result<bool> {
    // Memory that may be moved can be taken away again; where the kernel knows no such zone, plain.
    for (file, offline, orders) in [("state", "offline", &["online_movable", "online"][..]), ("online", "0", &["1"])] {
        let path = device.join(file);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim() == offline => {
                let mut result = Ok(());
                for order in orders {
                    result = fs::write(&path, order);
                    if result.is_ok() {
                        break;
                    }
                }
                return result.map(|()| true);
            }
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// All that are there.
pub(super) fn online_all() -> io::Result<()> {
    for class in ["memory", "cpu"] {
        let Ok(entries) = fs::read_dir(Path::new(SYSTEM).join(class)) else { continue };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(class));
            if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())) {
                super::online(&entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offline_is_switched_on_and_nothing_else_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert!(!online(path).unwrap(), "a CPU that cannot be switched has no such file");
        fs::write(path.join("online"), "0\n").unwrap();
        assert!(online(path).unwrap());
        assert_eq!(fs::read_to_string(path.join("online")).unwrap(), "1");
        assert!(!online(path).unwrap());
        fs::write(path.join("state"), "offline\n").unwrap();
        assert!(online(path).unwrap());
        assert_eq!(fs::read_to_string(path.join("state")).unwrap(), "online_movable");
    }
}
