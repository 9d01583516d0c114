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
    /// Was guestd's, and is gone.
    Removed,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Created, Self::Updated, Self::Removed, Self::Kept, Self::Unchanged];

    /// The word for what was done, and for what would be.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Created => ("created", "create"),
            Self::Unchanged => ("unchanged", "unchanged"),
            Self::Updated => ("updated", "update"),
            Self::Kept => ("kept", "keep"),
            Self::Removed => ("removed", "remove"),
        }
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

/// What an installation or its undoing did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Nothing was done: this is what would be.
    pub is_dry: bool,
    /// Every path, in the order of the work.
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
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |outcome: Outcome| if self.is_dry { outcome.words().1 } else { outcome.words().0 };
        for Line { path, outcome, remark } in &self.lines {
            write!(formatter, "{:<9}  {path}", word(*outcome))?;
            match remark {
                Some(remark) => writeln!(formatter, "  ({remark})")?,
                None => writeln!(formatter)?,
            }
        }
        for note in &self.notes {
            writeln!(formatter, "note: {note}")?;
        }
        if self.is_dry {
            formatter.write_str("dry run, nothing was changed: ")?;
        }
        let unchanged = self.count(Outcome::Unchanged);
        if unchanged == self.lines.len() {
            return writeln!(formatter, "nothing to do{}", if unchanged > 0 { ": all is in place" } else { "" });
        }
        let to = |outcome| if self.is_dry && outcome != Outcome::Unchanged { "to " } else { "" };
        let some: Vec<_> = Outcome::ALL
            .into_iter()
            .filter(|outcome| self.count(*outcome) > 0)
            .map(|outcome| format!("{} {}{}", self.count(outcome), to(outcome), word(outcome)))
            .collect();
        writeln!(formatter, "{}", some.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str, outcome: Outcome, remark: Option<&str>) -> Line {
        Line { path: path.into(), outcome, remark: remark.map(str::to_owned) }
    }

    #[test]
    fn a_report_reads_as_a_table_with_notes_and_a_sum() {
        let mut report = Report {
            is_dry: false,
            lines: vec![
                line("/usr/local/bin/guestd", Outcome::Created, None),
                line("/etc/guestd/config.toml", Outcome::Kept, Some("edited")),
            ],
            notes: vec!["no sshd".into()],
        };
        assert_eq!(
            report.to_string(),
            "created    /usr/local/bin/guestd\n\
             kept       /etc/guestd/config.toml  (edited)\n\
             note: no sshd\n\
             1 created, 1 kept\n"
        );
        report.is_dry = true;
        assert_eq!(
            report.to_string(),
            "create     /usr/local/bin/guestd\n\
             keep       /etc/guestd/config.toml  (edited)\n\
             note: no sshd\n\
             dry run, nothing was changed: 1 to create, 1 to keep\n"
        );
    }

    #[test]
    fn a_report_of_nothing_says_so() {
        assert_eq!(Report::default().to_string(), "nothing to do\n");
        let one = Report { lines: vec![line("/a", Outcome::Unchanged, None)], ..Report::default() };
        assert_eq!(one.to_string(), "unchanged  /a\nnothing to do: all is in place\n");
    }
}
