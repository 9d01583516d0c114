//! What the documents promise must be shown: every test that they name exists.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::{fs, path::Path};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust sources below a directory, in one text.
fn sources(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    text
}

/// The last column of a table's rows, where the threat model names its tests.
fn named_tests(document: &str) -> Vec<&str> {
    let rows = document.lines().filter(|line| line.starts_with("| ") && line.matches('|').count() == 4);
    let columns = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
    columns.flat_map(|column| column.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let document = fs::read_to_string(root().join("THREAT_MODEL.md")).unwrap();
    let code = sources(&root().join("src")) + &sources(&root().join("tests"));
    let names = named_tests(&document);
    assert!(names.len() >= 10, "found only {names:?}");
    for name in names {
        assert!(code.contains(&format!("fn {name}(")), "THREAT_MODEL.md names `{name}`, which is no test");
    }
}

#[test]
fn every_setting_is_in_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for key in guestd::config::known_keys() {
        assert!(readme.contains(&format!("`{key}`")), "README.md does not tell of `{key}`");
    }
}

#[test]
fn every_rule_of_the_lint_is_in_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let row = |rule: &guestd::lint::Rule| format!("| `{}` | {} | {} |\n", rule.id, rule.severity.name(), rule.wants);
    let table: String = guestd::lint::rules().map(row).collect();
    let table = format!("| rule | severity | wants |\n|---|---|---|\n{table}\n");
    assert!(readme.contains(&table), "README.md has not this table of rules:\n{table}");
}
