//! The table of listeners that is kept up to date on a terminal. Pure: it knows the time and the window by being told.
//!
//! ```text
//!  unix:/run/guestd.sock: 3 listeners                     <- or why they may be out of date
//!     PORT  ADDRESS  EXPOSURE  PROCESS      URL
//!  +  80    [::]     direct    nginx (7)    https://…     <- added, changed (~) or gone (-) within the last seconds
//!  …
//!  17 more do not fit into the window
//!                                                         <- and, where there is room, what to do about the others
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::api::{Cause, Exposure, Family, Listener, TtySize};
use crate::cli::table::{Cell, Palette, Table, Tone};
use crate::cli::text::escape;

use super::report::{cells, note};

/// For how long a change is marked.
const MARKED: Duration = Duration::from_secs(3);

/// One line to a reader: workers that share a port, and a service that comes back, stay on it.
type RowKey = (u16, Family, IpAddr, u64, Option<String>, Option<u64>);

/// What of a line can change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    exposure: Exposure,
    cause: Option<Cause>,
    url: Option<String>,
    pid: Option<i32>,
    sockets: usize,
}

#[derive(Debug)]
struct Row {
    listener: Listener,
    content: Content,
    mark: Option<(Mark, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Added,
    Changed,
    Gone,
}

/// The table.
#[derive(Debug)]
pub(super) struct LiveTable {
    endpoint: String,
    all: bool,
    rows: BTreeMap<RowKey, Row>,
    /// Some listeners were seen: from then on, what comes is new.
    filled: bool,
    /// Why the table may be out of date, if it may.
    trouble: Option<String>,
}

impl LiveTable {
    pub(super) fn new(endpoint: String, all: bool) -> Self {
        Self { endpoint, all, rows: BTreeMap::new(), filled: false, trouble: Some("connecting".into()) }
    }

    /// From now on it may be out of date, for this reason.
    pub(super) fn trouble(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// It is up to date (again).
    pub(super) fn synced(&mut self) {
        self.trouble = None;
    }

    /// Brings it to these listeners, and marks what has changed.
    pub(super) fn update<'a>(&mut self, listeners: impl Iterator<Item = &'a Listener>, now: Instant) {
        let mut before = std::mem::take(&mut self.rows);
        for listener in listeners {
            match self.rows.entry(self.key(listener)) {
                Entry::Occupied(mut row) => row.get_mut().content.sockets += 1,
                Entry::Vacant(row) => {
                    let content = Content {
                        exposure: listener.exposure,
                        cause: listener.cause,
                        url: listener.url.clone(),
                        pid: listener.process.as_ref().map(|process| process.pid),
                        sockets: 1,
                    };
                    row.insert(Row { listener: listener.clone(), content, mark: None });
                }
            }
        }
        for (key, row) in &mut self.rows {
            row.mark = match before.remove(key) {
                None if self.filled => Some((Mark::Added, now)),
                Some(Row { mark: Some((Mark::Gone, _)), .. }) => Some((Mark::Added, now)),
                Some(before) if before.content != row.content => Some((Mark::Changed, now)),
                Some(before) => before.mark,
                None => None,
            };
        }
        for (key, mut row) in before {
            if !matches!(row.mark, Some((Mark::Gone, _))) {
                row.mark = Some((Mark::Gone, now));
            }
            self.rows.insert(key, row);
        }
        self.filled = true;
        self.expire(now);
    }

    fn key(&self, listener: &Listener) -> RowKey {
        let Listener { port, family, address, netns, inode, .. } = *listener;
        let name = listener.process.as_ref().map(|process| process.name.clone());
        (port, family, address, netns, name, self.all.then_some(inode))
    }

    /// Takes marks away whose time is over, and lines that are gone.
    fn expire(&mut self, now: Instant) {
        self.rows.retain(|_, row| {
            if row.mark.is_some_and(|(_, since)| now.duration_since(since) >= MARKED) {
                return row.mark.take().is_some_and(|(mark, _)| mark != Mark::Gone);
            }
            true
        });
    }

    /// When a mark's time is over next.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.rows.values().filter_map(|row| row.mark).map(|(_, since)| since + MARKED).min()
    }

    /// What makes a terminal of this size show it: printed over what was there before.
    pub(super) fn draw(&mut self, size: TtySize, palette: Palette, now: Instant) -> String {
        self.expire(now);
        let (height, width) = (usize::from(size.rows), usize::from(size.cols));
        let mut text = String::from("\x1b[H");
        for line in self.lines(height, width, palette) {
            // The rest of the line is erased first: at the right edge it would take the last character.
            let _ = write!(text, "{}\x1b[K{line}", if text.len() > 3 { "\r\n" } else { "" });
        }
        text.push_str("\x1b[J");
        text
    }

    fn lines(&self, height: usize, width: usize, palette: Palette) -> Vec<String> {
        let mut lines = vec![self.status(width, palette)];
        let room = height.saturating_sub(1);
        // The titles, and the count of what does not fit, need a line each.
        let fitting = if self.rows.len() < room { self.rows.len() } else { room.saturating_sub(2) };
        if !self.rows.is_empty() {
            let shown = self.rows.values().take(fitting);
            lines.extend(self.table(shown).render_within(palette, width).lines().map(str::to_owned));
        }
        if fitting < self.rows.len() {
            lines.push(cut(&format!("{} more do not fit into the window", self.rows.len() - fitting), width));
        }
        let notes = self.rows.values().filter(|row| !row.is_gone()).filter_map(|row| note(&row.listener));
        for note in notes {
            let heading = lines.len() == fitting + 2;
            let needed = note.lines().count() + usize::from(heading);
            if lines.len() + needed > height || fitting < self.rows.len() {
                break;
            }
            lines.extend(heading.then(String::new));
            lines.extend(note.lines().map(|line| cut(line, width)));
        }
        lines.truncate(height);
        lines
    }

    fn status(&self, width: usize, palette: Palette) -> String {
        let endpoint = &self.endpoint;
        let count = self.rows.values().filter(|row| !row.is_gone()).map(|row| row.content.sockets).sum::<usize>();
        let plural = if count == 1 { "" } else { "s" };
        let (tone, text) = match &self.trouble {
            None => (Tone::Title, format!("{endpoint}: {count} listener{plural}")),
            Some(why) if self.filled => {
                (Tone::Notice, format!("{endpoint}: {count} listener{plural} when last heard of; {why}"))
            }
            Some(why) => (Tone::Notice, format!("{endpoint}: {why}")),
        };
        palette.paint(tone, &cut(&escape(&text), width))
    }

    fn table<'a>(&self, rows: impl Iterator<Item = &'a Row>) -> Table {
        let titles = [" ", "PORT", "ADDRESS", "EXPOSURE", "PROCESS", "URL", "NETNS"];
        let mut table = Table::new(&titles[..if self.all { 7 } else { 6 }]);
        for row in rows {
            let (tone, mark) = match row.mark {
                Some((Mark::Added, _)) => (Tone::Good, "+"),
                Some((Mark::Changed, _)) => (Tone::Notice, "~"),
                Some((Mark::Gone, _)) => (Tone::Bad, "-"),
                None => (Tone::Neutral, " "),
            };
            let mut line = vec![Cell::toned(tone, mark)];
            line.extend(cells(&row.listener, row.content.sockets));
            if row.is_gone() {
                line[3] = Cell::toned(Tone::Bad, "gone");
                line[5] = Cell::new("-");
            }
            if self.all {
                line.push(Cell::new(row.listener.netns.to_string()));
            }
            table.row(line);
        }
        table
    }
}

impl Row {
    fn is_gone(&self) -> bool {
        matches!(self.mark, Some((Mark::Gone, _)))
    }
}

/// The beginning of a line, at most as wide as the window.
fn cut(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::super::mirror::tests::listener;
    use super::*;

    /// What a terminal that is cleared at first then shows.
    fn shown(table: &mut LiveTable, rows: u16, cols: u16, now: Instant) -> String {
        let drawn = table.draw(TtySize { rows, cols }, Palette::Plain, now);
        let text = drawn.strip_prefix("\x1b[H").unwrap().strip_suffix("\x1b[J").unwrap();
        let lines: Vec<&str> = text.split("\r\n").map(|line| line.strip_prefix("\x1b[K").unwrap()).collect();
        assert!(lines.len() <= usize::from(rows) && lines.iter().all(|line| line.chars().count() <= usize::from(cols)));
        assert!(!lines.iter().any(|line| line.contains(char::is_control)), "{lines:?}");
        lines.iter().map(|line| format!("|{line}\n")).collect()
    }

    fn table(listeners: &[Listener], now: Instant) -> LiveTable {
        let mut table = LiveTable::new("unix:/x".into(), false);
        table.update(listeners.iter(), now);
        table.synced();
        table
    }

    #[test]
    fn changes_are_marked_for_three_seconds_and_what_is_gone_goes_then() {
        let start = Instant::now();
        let mut table = table(&[listener(22, 1, "sshd"), listener(80, 2, "nginx"), listener(90, 3, "old")], start);
        insta::assert_snapshot!(shown(&mut table, 24, 80, start), @r"
        |unix:/x: 3 listeners
        |   PORT  ADDRESS  EXPOSURE  PROCESS    URL
        |   22    [::]     direct    sshd (7)   -
        |   80    [::]     direct    nginx (7)  -
        |   90    [::]     direct    old (7)    -
        ");
        let second = start + Duration::from_secs(1);
        let now = [
            listener(22, 1, "sshd"),
            listener(80, 2, "nginx"),
            listener(80, 9, "nginx"),
            Listener { cause: Some(Cause::BridgeOff), ..listener(91, 4, "new") },
        ];
        table.update(now.iter(), second);
        assert_eq!(table.next_expiry(), Some(second + MARKED));
        insta::assert_snapshot!(shown(&mut table, 24, 80, second + MARKED / 2), @r"
        |unix:/x: 4 listeners
        |   PORT  ADDRESS  EXPOSURE  PROCESS               URL
        |   22    [::]     direct    sshd (7)              -
        |~  80    [::]     direct    nginx (7, 2 sockets)  -
        |-  90    [::]     gone      old (7)               -
        |+  91    [::]     direct    new (7)               -
        |
        |[::]:91 is direct: an IPv4-only bind, and automatic bridging is off
        ");
        insta::assert_snapshot!(shown(&mut table, 24, 30, second + MARKED), @r"
        |unix:/x: 4 listeners
        |   PORT  ADDRESS  EXPOSURE  PR
        |   22    [::]     direct    ss
        |   80    [::]     direct    ng
        |   91    [::]     direct    ne
        |
        |[::]:91 is direct: an IPv4-onl
        ");
        assert_eq!(table.next_expiry(), None);
    }

    #[test]
    fn a_service_that_comes_back_keeps_its_line() {
        let start = Instant::now();
        let mut table = table(&[listener(80, 1, "nginx")], start);
        for inode in 2..1000 {
            table.update(std::iter::empty(), start);
            table.update([listener(80, inode, "nginx")].iter(), start);
        }
        insta::assert_snapshot!(shown(&mut table, 24, 80, start), @r"
        |unix:/x: 1 listener
        |   PORT  ADDRESS  EXPOSURE  PROCESS    URL
        |+  80    [::]     direct    nginx (7)  -
        ");
    }

    #[test]
    fn a_long_table_is_cut_at_the_window_and_says_how_much_is_missing() {
        let start = Instant::now();
        let many: Vec<_> = (1..=20_000).map(|port| listener(port, 1, "many")).collect();
        let mut table = table(&many, start);
        insta::assert_snapshot!(shown(&mut table, 5, 80, start), @r"
        |unix:/x: 20000 listeners
        |   PORT  ADDRESS  EXPOSURE  PROCESS   URL
        |   1     [::]     direct    many (7)  -
        |   2     [::]     direct    many (7)  -
        |19998 more do not fit into the window
        ");
        for rows in 1..5 {
            shown(&mut table, rows, 80, start);
        }
        // One line less than the window is the last that fits whole.
        let mut few = super::tests::table(&many[..3], start);
        assert!(!shown(&mut few, 5, 80, start).contains("do not fit"));
        let mut few = super::tests::table(&many[..4], start);
        assert!(shown(&mut few, 5, 80, start).contains("2 more do not fit"));
    }

    #[test]
    fn trouble_is_told_in_place_and_no_name_drives_the_terminal() {
        let start = Instant::now();
        let mut table = LiveTable::new("unix:/x".into(), false);
        insta::assert_snapshot!(shown(&mut table, 24, 80, start), @"|unix:/x: connecting");
        let mut hint = listener(80, 1, "\u{1b}[2J\r\n\u{202e}x");
        (hint.hint, hint.cause) = (Some("\u{9b}31m".into()), Some(Cause::BridgeOff));
        table.update([hint].iter(), start);
        table.trouble("lost: \u{1b}]0;x\u{7}".into());
        insta::assert_snapshot!(shown(&mut table, 24, 80, start), @r"
        |unix:/x: 1 listener when last heard of; lost: \u{1b}]0;x\u{7}
        |   PORT  ADDRESS  EXPOSURE  PROCESS                     URL
        |   80    [::]     direct    \u{1b}[2J\r\n\u{202e}x (7)  -
        |
        |[::]:80 is direct: an IPv4-only bind, and automatic bridging is off
        |    \u{9b}31m
        ");
        table.synced();
        assert!(shown(&mut table, 24, 80, start).starts_with("|unix:/x: 1 listener\n"));
    }
}
