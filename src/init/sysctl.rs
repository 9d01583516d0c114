//! Settings of the kernel by sysctl.d(5). Pure.

/// A setting to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// Below `/proc/sys`.
    pub(super) path: String,
    pub(super) value: String,
    /// It is no fault where it cannot be set.
    pub(super) lenient: bool,
}

/// Settings of a file, and the lines that are none.
pub(super) fn parse(text: &str) -> (Vec<Setting>, Vec<String>) {
    let (mut settings, mut bad) = (Vec::new(), Vec::new());
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    for line in lines {
        match setting(line) {
            Some(setting) => settings.push(setting),
            None => bad.push(line.to_owned()),
        }
    }
    (settings, bad)
}

fn setting(line: &str) -> Option<Setting> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    let (lenient, key) = key.strip_prefix('-').map_or((false, key), |key| (true, key));
    // Of `.` and `/` the first that comes separates, and the other is a part of a name (`net.ipv4.conf.eth0/1.forwarding`).
    let path: String = match key.find(['.', '/']).and_then(|at| key[at..].chars().next()) {
        Some('.') => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_owned(),
    };
    let is_below =
        !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    // Globs are not expanded: a setting for all interfaces has the name `all`.
    (is_below && !path.contains(['*', '?', '['])).then(|| Setting { path, value: value.trim().to_owned(), lenient })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        parse(text).0.into_iter().map(|setting| format!("{}={}", setting.path, setting.value)).collect()
    }

    #[test]
    fn keys_are_paths_in_either_form() {
        let text = "# c\n; c\nnet.core.somaxconn = 4096\nkernel/printk= 4 4\nnet.ipv4.conf.eth0/1.forwarding=1\nnet/ipv4/conf/eth0.1/forwarding=1\n";
        let expected = [
            "net/core/somaxconn=4096",
            "kernel/printk=4 4",
            "net/ipv4/conf/eth0.1/forwarding=1",
            "net/ipv4/conf/eth0.1/forwarding=1",
        ];
        assert_eq!(paths(text), expected);
    }

    #[test]
    fn a_dash_makes_it_lenient() {
        let (settings, _) = parse("-vm.swappiness=1");
        assert!(settings[0].lenient && settings[0].path == "vm/swappiness");
    }

    #[test]
    fn what_leads_out_of_the_tree_or_is_no_setting_is_refused() {
        let (settings, bad) = parse("../etc/passwd=x\n/etc/passwd=x\na..b=1\nnonsense\nnet.*.x=1\n=1\n");
        assert_eq!((settings, bad.len()), (vec![], 6));
    }
}
