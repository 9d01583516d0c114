//! Aligned tables with few colours. Pure: the same rows and the same palette give the same text.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _},
};

use super::text::escape;

/// Are colours wanted?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Palette {
    Plain,
    Colour,
}

/// What a cell means, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Neutral,
    Title,
    Good,
    Notice,
    Bad,
}

impl Palette {
    /// As standard output and the environment want it.
    pub(crate) fn of_stdout() -> Self {
        Self::wanted(io::stdout().is_terminal(), env::var_os("NO_COLOR"), env::var_os("TERM"))
    }

    /// Colours on a terminal, unless NO_COLOR (no-color.org) or a terminal without them says no.
    fn wanted(terminal: bool, no_color: Option<OsString>, term: Option<OsString>) -> Self {
        let refused = no_color.is_some_and(|value| !value.is_empty()) || term.is_some_and(|term| term == "dumb");
        if terminal && !refused { Self::Colour } else { Self::Plain }
    }

    /// Text in the colour of a tone.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match (self, tone) {
            (Self::Plain, _) | (_, Tone::Neutral) => return text.to_owned(),
            (_, Tone::Title) => "1",
            (_, Tone::Good) => "32",
            (_, Tone::Notice) => "33",
            (_, Tone::Bad) => "31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// One field of a row. Its text is safe for a terminal by construction.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::toned(Tone::Neutral, text)
    }

    pub(crate) fn toned(tone: Tone, text: impl AsRef<str>) -> Self {
        let text = escape(text.as_ref()).into_owned();
        Self { text, tone }
    }

    /// A dash where there is nothing to show.
    pub(crate) fn or_dash(text: Option<impl AsRef<str>>) -> Self {
        text.map_or_else(|| Self::new("-"), Self::new)
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }

    /// Its beginning, at most this wide.
    fn cut(&self, width: usize) -> &str {
        self.text.char_indices().nth(width).map_or(&self.text, |(at, _)| &self.text[..at])
    }
}

/// A table; columns are as wide as their widest cell, and two blanks apart.
#[derive(Debug)]
pub(crate) struct Table {
    titles: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with titles over its columns; with none, it has no line of titles.
    pub(crate) fn new(titles: &[&str]) -> Self {
        let titles = titles.iter().map(|title| Cell::toned(Tone::Title, title));
        Self { titles: titles.collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    /// The table as lines.
    pub(crate) fn render(&self, palette: Palette) -> String {
        self.render_within(palette, usize::MAX)
    }

    /// The table as lines that are cut where they are longer than a window is wide.
    pub(crate) fn render_within(&self, palette: Palette, window: usize) -> String {
        let lines = || [&self.titles].into_iter().chain(&self.rows).filter(|line| !line.is_empty());
        let mut widths = Vec::new();
        for line in lines() {
            widths.resize(widths.len().max(line.len()), 0);
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.width().max(*width);
            }
        }
        let mut text = String::new();
        for line in lines() {
            let mut left = window;
            for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
                text.push_str(&palette.paint(cell.tone, cell.cut(left)));
                left = left.saturating_sub(cell.width());
                if at + 1 < line.len() {
                    let gap = (width - cell.width() + 2).min(left);
                    text.extend(std::iter::repeat_n(' ', gap));
                    left -= gap;
                }
                if left == 0 {
                    break;
                }
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["PORT", "NAME"]);
        table.row([Cell::new("22"), Cell::toned(Tone::Good, "größe")]);
        table.row([Cell::new("30000"), Cell::or_dash(None::<&str>)]);
        table
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let xterm = || Some(OsString::from("xterm"));
        assert_eq!(Palette::wanted(true, None, xterm()), Palette::Colour);
        assert_eq!(Palette::wanted(true, Some(OsString::new()), None), Palette::Colour);
        assert_eq!(Palette::wanted(false, None, xterm()), Palette::Plain);
        assert_eq!(Palette::wanted(true, Some("1".into()), xterm()), Palette::Plain);
        assert_eq!(Palette::wanted(true, None, Some("dumb".into())), Palette::Plain);
    }

    #[test]
    fn columns_are_aligned_by_characters() {
        insta::assert_snapshot!(sample().render(Palette::Plain), @r"
        PORT   NAME
        22     größe
        30000  -
        ");
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let coloured = sample().render(Palette::Colour);
        insta::assert_snapshot!(coloured.escape_debug(), @r"\u{1b}[1mPORT\u{1b}[0m   \u{1b}[1mNAME\u{1b}[0m\n22     \u{1b}[32mgröße\u{1b}[0m\n30000  -\n");
    }

    #[test]
    fn lines_are_cut_at_the_window_and_colours_with_them() {
        insta::assert_snapshot!(sample().render_within(Palette::Plain, 9), @r"
        PORT   NA
        22     gr
        30000  -
        ");
        assert_eq!(sample().render_within(Palette::Colour, 3).lines().nth(2), Some("300"));
        assert_eq!(sample().render_within(Palette::Colour, 9).lines().nth(1), Some("22     \u{1b}[32mgr\u{1b}[0m"));
    }

    #[test]
    fn what_a_cell_is_made_of_cannot_break_its_line() {
        let mut table = Table::new(&[]);
        table.row([Cell::new("a\nb\u{1b}]0;x\u{7}"), Cell::new("c")]);
        insta::assert_snapshot!(table.render(Palette::Plain), @r"a\nb\u{1b}]0;x\u{7}  c");
    }
}
