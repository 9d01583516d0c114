//! What is looked for, and what was found.

use std::{collections::BTreeMap, fmt};

use super::{tree::Place, waivers::Waivers};
use crate::limits;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It leaks, or it does not work.
    Error,
    /// It is wrong in most images, and somebody has to look.
    Warning,
    /// Good to know: what could go.
    Info,
}

impl Severity {
    /// As it is written in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// Something that must or must not be in a golden image.
#[derive(Debug)]
pub struct Rule {
    /// Stable name, for waivers and programs.
    pub id: &'static str,
    /// How much a finding of it matters.
    pub severity: Severity,
    /// What it wants, in a few words.
    pub wants: &'static str,
    /// Why.
    pub reason: &'static str,
    /// What to do about a finding.
    pub fix: &'static str,
}

/// A place that is not as a rule wants it.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Which rule.
    pub rule: &'static Rule,
    /// Where, in the image.
    pub path: String,
    /// What is there. Never a secret.
    pub message: String,
    /// How large it is, where that is the matter.
    pub bytes: Option<u64>,
    /// Why it may be so, by a waiver.
    pub waived: Option<String>,
}

/// Findings while they are collected: waived as they come, and bounded for each rule.
#[derive(Debug, Default)]
pub(super) struct Findings {
    rules: BTreeMap<(Severity, &'static str), OfRule>,
    waivers: Waivers,
}

#[derive(Debug, Default)]
struct OfRule {
    listed: Vec<Finding>,
    waived: usize,
    /// Not waived; of very many, not all are listed.
    open: usize,
}

impl Findings {
    pub(super) fn new(waivers: Waivers) -> Self {
        Self { waivers, ..Self::default() }
    }

    pub(super) fn add(&mut self, rule: &'static Rule, path: &str, message: fmt::Arguments<'_>) {
        self.push(Finding { rule, path: path.to_owned(), message: message.to_string(), bytes: None, waived: None });
    }

    pub(super) fn at(&mut self, rule: &'static Rule, place: Place<'_>, message: fmt::Arguments<'_>) {
        self.add(rule, &place.path(), message);
    }

    pub(super) fn sized(&mut self, rule: &'static Rule, place: Place<'_>, message: fmt::Arguments<'_>, bytes: u64) {
        let (path, message) = (place.path(), message.to_string());
        self.push(Finding { rule, path, message, bytes: Some(bytes), waived: None });
    }

    fn push(&mut self, mut finding: Finding) {
        finding.waived = self.waivers.reason_for(finding.rule.id, &finding.path);
        let of_rule = self.rules.entry((finding.rule.severity, finding.rule.id)).or_default();
        let so_far = if finding.waived.is_some() { &mut of_rule.waived } else { &mut of_rule.open };
        *so_far += 1;
        if *so_far <= limits::LINT_FINDINGS {
            of_rule.listed.push(finding);
        }
    }

    /// All of them, the gravest first, then by rule and path.
    pub(super) fn finish(self) -> Vec<Finding> {
        let mut all = Vec::new();
        for (_, OfRule { mut listed, open, .. }) in self.rules {
            let left_out = open.saturating_sub(limits::LINT_FINDINGS);
            listed.sort_by(|one, other| one.path.cmp(&other.path));
            let rule = listed.first().map(|finding| finding.rule);
            all.append(&mut listed);
            if let Some(rule) = rule.filter(|_| left_out > 0) {
                let message = format!("{left_out} more of the kind, which are not listed");
                all.push(Finding { rule, path: "/".to_owned(), message, bytes: None, waived: None });
            }
        }
        all
    }

    /// What the waivers did not do.
    pub(super) fn waivers(&self) -> &Waivers {
        &self.waivers
    }
}
