//! Where settings come from. Each source is read into strings; reading never fails, it reports.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::{Problem, keys};
use crate::limits;

/// The configuration file of an installed guestd.
pub const DEFAULT_FILE: &str = "/etc/guestd/config.toml";

/// Settings of one source, as strings by dotted key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    /// How messages name the source.
    pub origin: String,
    /// Key and value, in the source's order.
    pub values: Vec<(String, String)>,
    /// What could not be read at all.
    pub problems: Vec<Problem>,
}

impl Layer {
    fn new(origin: impl Into<String>) -> Self {
        Self { origin: origin.into(), ..Self::default() }
    }

    fn report(&mut self, message: String) {
        self.problems.push(Problem { origin: self.origin.clone(), message });
    }
}

/// The TOML file at `path`. A file that does not exist is an empty layer.
pub fn file(path: &Path) -> Layer {
    let origin = path.display().to_string();
    match read_bounded(path) {
        Ok(content) => text(&origin, &content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Layer::new(origin),
        Err(error) => {
            let mut layer = Layer::new(origin);
            layer.report(format!("cannot be read: {error}; the defaults are used"));
            layer
        }
    }
}

/// The content of a TOML file, which messages name by `origin`.
pub fn text(origin: &str, content: &str) -> Layer {
    let mut layer = Layer::new(origin);
    match content.parse::<toml::Table>() {
        Ok(table) => flatten("", &toml::Value::Table(table), &mut layer),
        Err(error) => {
            let line = error.span().map_or(1, |span| content[..span.start].matches('\n').count() + 1);
            layer.report(format!("is no TOML at line {line}: {}; the defaults are used", error.message()));
        }
    }
    layer
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(limits::CONFIG_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limits::CONFIG_FILE_BYTES {
        return Err(io::Error::other(format!("it is larger than {} bytes", limits::CONFIG_FILE_BYTES)));
    }
    Ok(text)
}

fn flatten(prefix: &str, value: &toml::Value, layer: &mut Layer) {
    let scalar = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        _ => None,
    };
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, layer);
            }
        }
        toml::Value::Array(items) => match items.iter().map(scalar).collect::<Option<Vec<_>>>() {
            Some(items) => layer.values.push((prefix.to_owned(), items.join(","))),
            None => layer.report(format!("`{prefix}` is a list of something else than strings and numbers")),
        },
        other => match scalar(other) {
            Some(text) => layer.values.push((prefix.to_owned(), text)),
            None => layer.report(format!("`{prefix}` is of a type that no key takes")),
        },
    }
}

/// `guestd.KEY=VALUE` words of a kernel command line (`/proc/cmdline`).
pub fn kernel_command_line(text: &str) -> Layer {
    let mut layer = Layer::new("kernel command line");
    for word in words(text) {
        let word = word.replace('"', "");
        let Some(setting) = word.strip_prefix("guestd.") else { continue };
        match setting.split_once('=') {
            Some((key, value)) => layer.values.push((key.to_owned(), value.to_owned())),
            None => layer.report(format!("`{word}` has no value; it takes the form guestd.KEY=VALUE")),
        }
    }
    layer
}

/// Words of a kernel command line: blanks between quotes do not end one (`next_arg()` of the kernel).
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let ends = move |byte: char| {
        quoted ^= byte == '"';
        byte.is_ascii_whitespace() && !quoted
    };
    text.split(ends).filter(|word| !word.is_empty())
}

/// `GUESTD_KEY` variables, with `_` for the dots of a key, and the platform's `VERS_VM_ID`, `VERS_AUTH_TOKEN` and
/// `VERS_INFRA_URL`.
pub fn environment(variables: impl IntoIterator<Item = (String, String)>) -> Layer {
    let mut layer = Layer::new("environment");
    let mut ours = Vec::new();
    for (name, value) in variables {
        match name.as_str() {
            "VERS_VM_ID" => layer.values.push(("vm_id".to_owned(), value)),
            "VERS_AUTH_TOKEN" => layer.values.push(("auth_token".to_owned(), value)),
            "VERS_INFRA_URL" => layer.values.push(("registry.url".to_owned(), value)),
            // The client's default endpoint; the agent's way to `guestd init`.
            "GUESTD_VM" | "GUESTD_INIT_SOCKET" => {}
            _ => match name.strip_prefix("GUESTD_") {
                Some(key) => {
                    let key = key.to_ascii_lowercase();
                    let known = keys::names().find(|known| known.replace('.', "_") == key);
                    ours.push((known.map_or(key, str::to_owned), value));
                }
                None => continue,
            },
        }
    }
    // guestd's own names are stronger than the platform's, and their order must not depend on the environment's.
    ours.sort();
    layer.values.extend(ours);
    layer
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn values(layer: &Layer) -> Vec<(&str, &str)> {
        layer.values.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    fn file_of(text: &str) -> Layer {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        super::file(file.path())
    }

    #[test]
    fn tables_and_lists_of_the_file_become_dotted_keys() {
        let layer = file_of("vm_id = \"a\"\n[network]\nroutable_ports = [3000, 8080]\n[bridge]\nauto = false\n");
        assert_eq!(values(&layer), [("bridge.auto", "false"), ("network.routable_ports", "3000,8080"), ("vm_id", "a")]);
    }

    #[test]
    fn a_broken_file_is_reported_with_its_line() {
        let layer = file_of("vm_id = \"a\"\n[bridge\n");
        assert!(layer.problems[0].message.starts_with("is no TOML at line 2: "), "{}", layer.problems[0]);
        assert_eq!(layer.values, []);
    }

    #[test]
    fn an_absent_file_is_no_problem_and_an_unreadable_one_is() {
        assert_eq!(super::file(Path::new("/nonexistent/guestd.toml")).problems, []);
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(super::file(directory.path()).problems.len(), 1);
    }

    #[test]
    fn an_endless_file_is_not_read_to_its_end() {
        assert!(super::file(Path::new("/dev/zero")).problems[0].message.contains("larger than"));
    }

    #[test]
    fn blanks_between_quotes_are_part_of_a_value_on_the_kernel_command_line() {
        let layer = kernel_command_line("quiet guestd.dns=\"fd00::53, fd00::54\" \"guestd.vm_id=a b\" guestd.x=\"\"\n");
        assert_eq!(values(&layer), [("dns", "fd00::53, fd00::54"), ("vm_id", "a b"), ("x", "")]);
    }

    #[test]
    fn the_kernel_command_line_gives_guestd_words_only() {
        let layer = kernel_command_line("console=ttyS0 guestd.vm_id=a quiet guestd.ip6=fd00::2/64,fd00::1 guestd.x\n");
        assert_eq!(values(&layer), [("vm_id", "a"), ("ip6", "fd00::2/64,fd00::1")]);
        assert!(layer.problems[0].message.contains("`guestd.x` has no value"));
    }

    #[test]
    fn environment_names_are_keys_with_underscores() {
        let variables = [
            ("GUESTD_VSOCK_PORT", "7"),
            ("VERS_VM_ID", "a"),
            ("VERS_INFRA_URL", "http://c"),
            ("GUESTD_VM_ID", "b"),
            ("GUESTD_VM", "unix:/x"),
            ("GUESTD_INIT_SOCKET", "/x"),
            ("HOME", "/"),
        ];
        let layer = environment(variables.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(values(&layer), [("vm_id", "a"), ("registry.url", "http://c"), ("vm_id", "b"), ("vsock.port", "7")]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in ".{0,200}") {
            kernel_command_line(&text);
            file_of(&text);
        }
    }
}
