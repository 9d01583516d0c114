//! What an installation did, for people and for tests.

use std::fmt;

/// What became of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Was not there.
    Created,
    /// Was there as it should be.
    Unchanged,
    /// Was an older version, or had another mode or owner.
    Updated,
    /// Was edited by somebody and stays as it is.
    Kept,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Created => "created",
            Self::Unchanged => "unchanged",
            Self::Updated => "updated",
            Self::Kept => "kept",
        })
    }
}

/// One path of an image and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Path in the image.
    pub path: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, where that is not plain.
    pub remark: Option<String>,
}

/// What an installation did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Every path, in the order of the installation.
    pub lines: Vec<Line>,
    /// What the builder of the image should know, a sentence each.
    pub notes: Vec<String>,
}

impl Report {
    /// Number of paths with this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.lines.iter().filter(|line| line.outcome == outcome).count()
    }

    /// What became of `path`, if it was looked at.
    pub fn outcome(&self, path: &str) -> Option<Outcome> {
        self.lines.iter().find(|line| line.path == path).map(|line| line.outcome)
    }

    pub(super) fn push(&mut self, path: &str, outcome: Outcome, remark: Option<String>) {
        self.lines.push(Line { path: path.to_owned(), outcome, remark });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { path, outcome, remark } in &self.lines {
            write!(formatter, "{outcome:<9}  {path}")?;
            match remark {
                Some(remark) => writeln!(formatter, "  ({remark})")?,
                None => writeln!(formatter)?,
            }
        }
        for note in &self.notes {
            writeln!(formatter, "note: {note}")?;
        }
        let [created, updated, kept] = [Outcome::Created, Outcome::Updated, Outcome::Kept].map(|it| self.count(it));
        let unchanged = self.count(Outcome::Unchanged);
        if created + updated + kept == 0 {
            writeln!(formatter, "nothing to do: all {unchanged} are in place")
        } else {
            writeln!(formatter, "{created} created, {updated} updated, {kept} kept, {unchanged} unchanged")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_as_a_table_with_notes_and_a_sum() {
        let mut report = Report::default();
        report.push("/usr/local/bin/guestd", Outcome::Created, None);
        report.push("/etc/guestd/config.toml", Outcome::Kept, Some("edited".into()));
        report.notes.push("no sshd".into());
        assert_eq!(
            report.to_string(),
            "created    /usr/local/bin/guestd\n\
             kept       /etc/guestd/config.toml  (edited)\n\
             note: no sshd\n\
             1 created, 0 updated, 1 kept, 0 unchanged\n"
        );
    }
}
