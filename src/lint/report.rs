//! What a lint has found, for people and for programs. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::finding::{Finding, Rule, Severity};
use crate::display::table::{Cell, Palette, Table, Tone};

/// A check that was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotRun {
    /// What would have been asked.
    pub check: &'static str,
    /// Why it was not.
    pub why: String,
}

/// What a lint has found.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was looked at, as it was named.
    pub source: String,
    /// Whether that was an ext4 image.
    pub ext4: bool,
    /// The gravest first, then by rule and path.
    pub findings: Vec<Finding>,
    /// Checks that were not made.
    pub not_run: Vec<NotRun>,
}

/// A finding as it is in JSON. Names and meanings stay.
#[derive(Debug, Serialize)]
struct JsonFinding<'report> {
    rule: &'static str,
    severity: &'static str,
    path: &'report str,
    message: &'report str,
    reason: &'static str,
    fix: &'static str,
    bytes: Option<u64>,
    waived: Option<&'report str>,
}

#[derive(Debug, Serialize)]
struct JsonReport<'report> {
    source: &'report str,
    kind: &'static str,
    errors: usize,
    warnings: usize,
    infos: usize,
    waived: usize,
    findings: Vec<JsonFinding<'report>>,
    not_run: &'report [NotRun],
}

#[derive(Debug, Serialize)]
struct JsonRule {
    rule: &'static str,
    severity: &'static str,
    wants: &'static str,
    reason: &'static str,
    fix: &'static str,
}

impl Report {
    /// Findings of a severity that are not waived.
    pub fn count(&self, severity: Severity) -> usize {
        self.open().filter(|finding| finding.rule.severity == severity).count()
    }

    /// Whether there is an error that is not waived.
    pub fn failed(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    fn open(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.waived.is_none())
    }

    fn waived(&self) -> usize {
        self.findings.len() - self.open().count()
    }

    /// One document, with a line feed at its end.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        let findings = self.findings.iter().map(|finding| JsonFinding {
            rule: finding.rule.id,
            severity: finding.rule.severity.name(),
            path: &finding.path,
            message: &finding.message,
            reason: finding.rule.reason,
            fix: finding.rule.fix,
            bytes: finding.bytes,
            waived: finding.waived.as_deref(),
        });
        let [errors, warnings, infos] = [Severity::Error, Severity::Warning, Severity::Info].map(|it| self.count(it));
        document(&JsonReport {
            source: &self.source,
            kind: if self.ext4 { "ext4" } else { "directory" },
            errors,
            warnings,
            infos,
            waived: self.waived(),
            findings: findings.collect(),
            not_run: &self.not_run,
        })
    }

    /// A table of the findings, then each rule's reason and what to do, then the sum.
    pub(super) fn text(&self, palette: Palette) -> String {
        let mut text = String::new();
        if !self.findings.is_empty() {
            let mut table = Table::new(&["SEVERITY", "RULE", "PATH", "FINDING"]);
            for finding in &self.findings {
                let (severity, message) = match &finding.waived {
                    None => (severity_cell(finding.rule.severity), finding.message.clone()),
                    Some(reason) => (Cell::new("waived"), format!("{}; waived: {reason}", finding.message)),
                };
                table.row([severity, Cell::new(finding.rule.id), Cell::new(&finding.path), Cell::new(message)]);
            }
            text.push_str(&table.render(palette));
            text.push('\n');
        }
        let rules: BTreeMap<_, _> = self.open().map(|it| ((it.rule.severity, it.rule.id), it.rule)).collect();
        for rule in rules.values() {
            // Writing to a string cannot fail.
            let _ =
                writeln!(text, "{}\n  why: {}\n  fix: {}", palette.paint(Tone::Title, rule.id), rule.reason, rule.fix);
        }
        if !rules.is_empty() {
            text.push('\n');
        }
        for NotRun { check, why } in &self.not_run {
            let _ = writeln!(text, "not run: {check}: {why}");
        }
        let [errors, warnings, infos] =
            [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "info")]
                .map(|(severity, name)| plural(self.count(severity), name));
        let _ = writeln!(text, "{errors}, {warnings}, {infos}, {} waived", self.waived());
        text
    }
}

fn plural(count: usize, name: &str) -> String {
    if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") }
}

fn severity_cell(severity: Severity) -> Cell {
    let tone = match severity {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Notice,
        Severity::Info => Tone::Neutral,
    };
    Cell::toned(tone, severity.name())
}

/// All rules for programs.
pub(super) fn rules_json(rules: impl Iterator<Item = &'static Rule>) -> serde_json::Result<String> {
    let rules = rules.map(|rule| JsonRule {
        rule: rule.id,
        severity: rule.severity.name(),
        wants: rule.wants,
        reason: rule.reason,
        fix: rule.fix,
    });
    document(&rules.collect::<Vec<_>>())
}

/// All rules for people.
pub(super) fn rules_text(rules: impl Iterator<Item = &'static Rule>, palette: Palette) -> String {
    let mut table = Table::new(&["RULE", "SEVERITY", "WANTS"]);
    for rule in rules {
        table.row([Cell::new(rule.id), severity_cell(rule.severity), Cell::new(rule.wants)]);
    }
    table.render(palette)
}

fn document(value: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(value)?;
    Ok(format!("{}\n", crate::display::text::escape_json(&json)))
}

#[cfg(test)]
mod tests {
    use super::*;

    static LEAK: Rule =
        Rule { id: "leak", severity: Severity::Error, wants: "none", reason: "it leaks", fix: "mend it" };
    static SIZE: Rule =
        Rule { id: "size", severity: Severity::Info, wants: "small", reason: "it is large", fix: "remove it" };

    fn finding(rule: &'static Rule, path: &str, waived: Option<&str>) -> Finding {
        Finding { rule, path: path.into(), message: "found".into(), bytes: None, waived: waived.map(str::to_owned) }
    }

    fn report(findings: Vec<Finding>) -> Report {
        let not_run = vec![NotRun { check: "sshd -t", why: "it was not asked for".into() }];
        Report { source: "image".into(), ext4: true, findings, not_run }
    }

    #[test]
    fn people_get_a_table_each_rules_reason_once_and_the_sum() {
        let findings =
            vec![finding(&LEAK, "/a\u{1b}[2J", None), finding(&LEAK, "/bb", Some("meant")), finding(&SIZE, "/c", None)];
        insta::assert_snapshot!(report(findings).text(Palette::Plain), @r"
        SEVERITY  RULE  PATH         FINDING
        error     leak  /a\u{1b}[2J  found
        waived    leak  /bb          found; waived: meant
        info      size  /c           found

        leak
          why: it leaks
          fix: mend it
        size
          why: it is large
          fix: remove it

        not run: sshd -t: it was not asked for
        1 error, 0 warnings, 1 info, 1 waived
        ");
    }

    #[test]
    fn programs_get_every_field_of_every_finding() {
        let json = report(vec![finding(&LEAK, "/a\u{9b}", Some("meant"))]).json().unwrap();
        assert!(!json.contains('\u{9b}'));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let wanted = serde_json::json!({
            "source": "image", "kind": "ext4", "errors": 0, "warnings": 0, "infos": 0, "waived": 1,
            "findings": [{
                "rule": "leak", "severity": "error", "path": "/a\u{9b}", "message": "found", "reason": "it leaks",
                "fix": "mend it", "bytes": null, "waived": "meant",
            }],
            "not_run": [{"check": "sshd -t", "why": "it was not asked for"}],
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn only_an_error_that_is_not_waived_fails() {
        assert!(report(vec![finding(&LEAK, "/a", None)]).failed());
        assert!(!report(vec![finding(&LEAK, "/a", Some("meant")), finding(&SIZE, "/b", None)]).failed());
    }
}
