//! Prints results on stdout: tables and fields for people, JSON for scripts, ids for other commands.

mod json;
mod table;
mod text;

use std::io::{self, IsTerminal as _, Write as _};

use prost::{Message, Name};

pub(crate) use self::json::value;
pub(crate) use self::table::{Fields, Table};
pub(crate) use self::text::{age, bytes, moment, printable};
use crate::error::Failure;
use crate::options::Global;

/// Format of results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    /// Whether colours may be used on stdout.
    pub(crate) colour: bool,
}

impl Out {
    pub(crate) fn new(global: &Global) -> Self {
        Self { json: global.json, quiet: global.quiet, colour: colours() && io::stdout().is_terminal() }
    }

    /// Prints a line.
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        Ok(stdout.flush()?)
    }

    /// Prints lines.
    pub(crate) fn lines<T: AsRef<str>>(self, lines: impl IntoIterator<Item = T>) -> Result<(), Failure> {
        let mut text = String::new();
        for line in lines {
            text.push_str(line.as_ref());
            text.push('\n');
        }
        self.text(&text)
    }

    /// Prints text that ends with a newline, or is empty.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// Prints a message as JSON, for people to read and for scripts to parse.
    pub(crate) fn json<M: Message + Name>(self, message: &M) -> Result<(), Failure> {
        self.json_value(&value(message)?)
    }

    /// Prints JSON that is not just a message.
    pub(crate) fn json_value(self, value: &serde_json::Value) -> Result<(), Failure> {
        self.line(&format!("{value:#}"))
    }

    /// Prints one of many messages, as a line of JSON.
    pub(crate) fn json_line<M: Message + Name>(self, message: &M) -> Result<(), Failure> {
        self.line(&value(message)?.to_string())
    }

    /// Prints messages as JSON: one value for one message, a list for more.
    pub(crate) fn json_list<M: Message + Name>(self, messages: &[M]) -> Result<(), Failure> {
        let mut values = messages.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        match values.len() {
            1 => self.json_value(&values.remove(0)),
            _ => self.json_value(&serde_json::Value::Array(values)),
        }
    }
}

/// Whether colours are permitted: <https://no-color.org>.
pub(crate) fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
