//! A table of settings, taken out one by one: what is left in the end is unknown.
//!
//! By hand rather than by serde's derive, whose code for TOML is a hundred times as large as this.

use std::time::Duration;

use toml::{Table, Value};

/// The settings of one table.
#[derive(Debug)]
pub(super) struct Fields {
    /// Before each name in sentences: `limits.`, or nothing.
    prefix: &'static str,
    table: Table,
}

type Taken<T> = Result<Option<T>, String>;

impl Fields {
    /// Reads a text.
    ///
    /// # Errors
    /// A sentence that names the line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let table = text.parse::<Table>().map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            format!("line {line}: {}", error.message())
        })?;
        Ok(Self { prefix: "", table })
    }

    fn take<T>(&mut self, name: &str, takes: &str, read: impl FnOnce(Value) -> Option<T>) -> Taken<T> {
        let Some(value) = self.table.remove(name) else { return Ok(None) };
        let prefix = self.prefix;
        read(value).map(Some).ok_or_else(|| format!("`{prefix}{name}` takes {takes}"))
    }

    pub(super) fn text(&mut self, name: &str) -> Taken<String> {
        self.take(name, "a text", text)
    }

    pub(super) fn texts(&mut self, name: &str) -> Taken<Vec<String>> {
        self.take(name, "a list of texts, such as [\"a\", \"b\"]", |value| match value {
            Value::Array(items) => items.into_iter().map(text).collect(),
            _ => None,
        })
    }

    /// Names and values of a table within.
    pub(super) fn pairs(&mut self, name: &str) -> Taken<Vec<(String, String)>> {
        self.take(name, "a table of texts, such as { A = \"b\" }", |value| match value {
            Value::Table(table) => table.into_iter().map(|(key, value)| Some((key, text(value)?))).collect(),
            _ => None,
        })
    }

    pub(super) fn number<N: TryFrom<i64>>(&mut self, name: &str) -> Taken<N> {
        self.take(name, "a whole number that is not too large", |value| value.as_integer()?.try_into().ok())
    }

    /// Of milliseconds.
    pub(super) fn time(&mut self, name: &str) -> Taken<Duration> {
        Ok(self.number(name)?.map(Duration::from_millis))
    }

    pub(super) fn switch(&mut self, name: &str) -> Taken<bool> {
        self.take(name, "true or false", |value| value.as_bool())
    }

    /// A table within; an empty one where it is not there.
    pub(super) fn within(&mut self, name: &str, prefix: &'static str) -> Result<Self, String> {
        let table = self.take(name, "a table", |value| match value {
            Value::Table(table) => Some(table),
            _ => None,
        })?;
        Ok(Self { prefix, table: table.unwrap_or_default() })
    }

    /// There is nothing more.
    ///
    /// # Errors
    /// A sentence that names what there is.
    pub(super) fn end(self) -> Result<(), String> {
        match self.table.keys().next() {
            Some(unknown) => Err(format!("there is no setting `{}{unknown}`", self.prefix)),
            None => Ok(()),
        }
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}
