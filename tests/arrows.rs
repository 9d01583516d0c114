//! Data flows one way: which module of the library may use which.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// For each module, what it may use of the crate. Everything in `src` must be here.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("limits", &[]),
    ("client", &["api", "limits"]),
    ("display", &[]),
    ("calendar", &[]),
    ("dial", &[]),
    ("tls", &["limits"]),
    ("cli", &["api", "limits", "client", "archive", "sys", "dial", "tls", "display", "calendar"]),
    ("facts", &[]),
    ("accounts", &[]),
    ("signals", &[]),
    ("throttle", &[]),
    ("marked", &[]),
    ("sys", &["facts", "limits", "calendar"]),
    ("archive", &["limits", "sys"]),
    ("config", &["api", "limits"]),
    ("listeners", &["api", "limits", "config", "facts", "sys"]),
    ("bridge", &["api", "limits", "config", "facts", "sys", "listeners", "throttle"]),
    ("probe", &["api", "limits"]),
    ("account_env", &["limits", "sys"]),
    ("exec", &["accounts", "account_env", "api", "limits", "facts", "signals", "sys"]),
    ("files", &["api", "limits", "facts", "sys", "archive"]),
    ("keys", &["api", "limits", "sys", "calendar"]),
    ("install", &["limits", "sys", "keys", "marked"]),
    ("names", &["limits", "config", "sys", "marked"]),
    ("lint", &["limits", "sys", "config", "keys", "install", "display"]),
    ("control", &["api", "limits", "sys"]),
    // Process 1: nothing of the agent's, and so nothing of tokio.
    ("init", &["accounts", "api", "config", "control", "growth", "limits", "signals", "sys"]),
    ("health", &["api", "limits", "config", "facts", "listeners", "bridge", "keys"]),
    ("generation", &["api", "limits", "sys", "account_env", "exec", "bridge", "listeners", "keys", "names"]),
    ("growth", &["api", "limits", "sys"]),
    ("registry", &["api", "limits", "client", "config", "facts", "dial", "tls", "listeners", "bridge", "health"]),
    (
        "server",
        &[
            "api",
            "limits",
            "config",
            "sys",
            "listeners",
            "bridge",
            "probe",
            "exec",
            "files",
            "keys",
            "control",
            "health",
            "registry",
            "throttle",
            "account_env",
            "generation",
            "growth",
        ],
    ),
    (
        "agent",
        &[
            "limits",
            "config",
            "sys",
            "listeners",
            "bridge",
            "exec",
            "files",
            "keys",
            "health",
            "names",
            "registry",
            "server",
            "account_env",
            "generation",
            "growth",
        ],
    ),
];

/// Nothing of the kind may be used outside of these.
const UNSAFE_IN: &str = "sys";

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Module of `src` that each file belongs to; the binaries and the crate's root are none.
fn modules() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let module = |path: &Path| {
        let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
        first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
    };
    let all = files.into_iter().map(|path| (path.clone(), module(&path)));
    all.filter(|(_, module)| !matches!(module.as_str(), "lib" | "main" | "bin")).collect()
}

/// Modules of the crate that a source names: `crate::x`, also within `use crate::{x, y::{…}}`.
fn uses(source: &str) -> Vec<String> {
    let code: String =
        source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut used = Vec::new();
    for (position, _) in code.match_indices("crate::") {
        let rest = &code[position + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => used.push(name(rest)),
            Some(group) => {
                let mut depth = 0usize;
                let mut at_name = true;
                for (index, character) in group.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => at_name = true,
                        other if at_name && !other.is_whitespace() => {
                            used.push(name(&group[index..]));
                            at_name = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    used
}

fn name(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[test]
fn every_module_uses_only_what_its_arrows_allow() {
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, module) in modules() {
        let may = allowed.get(module.as_str()).unwrap_or_else(|| panic!("module {module} has no arrows; give it some"));
        for used in uses(&fs::read_to_string(&path).unwrap()) {
            if used != module && !may.contains(&used.as_str()) {
                wrong.push(format!("{}: {module} -> {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows against the flow:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    for (path, module) in modules() {
        let opens = fs::read_to_string(&path).unwrap().contains("expect(unsafe_code");
        assert!(!opens || module == UNSAFE_IN, "{} opens unsafe code", path.display());
    }
}

#[test]
fn grouped_nested_and_plain_paths_are_all_seen() {
    let source =
        "use crate::{\n api::{A, B},\n limits,\n sys::x as y,\n};\nfn f() { crate::facts::G } // crate::comment";
    assert_eq!(uses(source), ["api", "limits", "sys", "facts"]);
}
