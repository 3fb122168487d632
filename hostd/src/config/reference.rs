//! Makes `docs/configuration.md` from the types of the configuration.
//!
//! The texts are the doc comments of types and keys, and defaults and ranges are the types' own: schemars collects them
//! in a JSON schema. A schema does not know in which order the keys of a type are declared; serde does.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use schemars::schema_for;
use serde_json::Value;

use super::Config;

/// What the page says before its text.
const HEAD: &str = "# Configuration\n\n\
    <!-- Made from the types: HEARTH_WRITE=1 cargo nextest run -p hearth-hostd reference -->\n";
/// The mark for a key without a default.
const NONE: &str = "–";

/// A part of the path to a section.
#[derive(Debug, Clone)]
enum Part {
    /// A table under this key.
    Table(String),
    /// Each table of the list under this key.
    List(String),
    /// The tables under this key have names that the operator chooses; the second is what stands for one.
    Named(String, String),
}

/// The path to a section.
#[derive(Debug, Clone, Default)]
struct Path(Vec<Part>);

impl Path {
    fn with(&self, part: Part) -> Self {
        Self(self.0.iter().cloned().chain([part]).collect())
    }

    /// The section's header in a file.
    fn header(&self) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Table(key) | Part::List(key) => key.clone(),
            Part::Named(key, name) => format!("{key}.{name}"),
        });
        let name = parts.collect::<Vec<_>>().join(".");
        match self.0.last() {
            None => String::new(),
            Some(Part::List(_)) => format!("[[{name}]]"),
            Some(_) => format!("[{name}]"),
        }
    }

    /// The section's keys in the order of their declaration: those in serde's error about an unknown key.
    fn keys(&self) -> Vec<String> {
        let mut text = String::new();
        for length in 1..=self.0.len() {
            let path = Self(self.0[..length].to_vec());
            if length == self.0.len() || matches!(self.0[length - 1], Part::List(_)) {
                let _ = writeln!(text, "{}", path.header());
            }
        }
        let error = toml::from_str::<Config>(&format!("{text}__none = 1\n")).unwrap_err().to_string();
        let expected = error.split("expected ").nth(1).unwrap_or_else(|| panic!("{text}: {error}"));
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// Whether a file may contain the section once, and nothing but a key of it.
    fn is_plain(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Table(_)))
    }
}

/// A key with a range.
#[derive(Debug)]
pub(super) struct Ranged {
    /// Header of the section, or nothing for the top level.
    pub(super) section: String,
    pub(super) key: String,
    pub(super) min: Option<i64>,
    pub(super) max: Option<i64>,
}

/// The page under construction.
struct Page {
    schema: Value,
    text: String,
    ranged: Vec<Ranged>,
    /// Sections of types with a heading of their own. They follow the section of the top level that they belong to.
    own: Vec<(String, Path, Value)>,
}

/// The text of the page.
pub(super) fn page() -> String {
    make().text
}

/// The keys with a range, but for those in sections that need other keys, too.
pub(super) fn ranged() -> Vec<Ranged> {
    make().ranged
}

fn make() -> Page {
    let schema = schema_for!(Config).to_value();
    let text = format!("{HEAD}\n{}\n", described(&schema));
    let mut page = Page { schema: schema.clone(), text, ranged: Vec::new(), own: Vec::new() };
    page.section("Top level", &Path::default(), &schema);
    page
}

fn described(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

impl Page {
    /// Describes a section, then those in it.
    fn section(&mut self, heading: &str, path: &Path, schema: &Value) {
        let keys = path.keys();
        let properties = schema["properties"].as_object().expect("a table");
        let (known, declared): (BTreeSet<_>, BTreeSet<_>) =
            (keys.iter().collect(), properties.keys().collect());
        assert_eq!(known, declared, "{heading}: what serde and the schema know");
        let _ = write!(self.text, "\n## {heading}\n");
        if !path.0.is_empty() {
            let _ = write!(self.text, "\n{}\n", described(schema));
        }
        self.table(path, &keys, schema);
        for key in &keys {
            let Some((part, name)) = self.inner(key, &properties[key]) else { continue };
            let (path, schema) = (path.with(part), self.schema["$defs"][&name].clone());
            match schema["x-heading"].as_str() {
                None => self.section(&format!("`{}`", path.header()), &path, &schema),
                Some(heading) if self.own.iter().all(|(known, ..)| known != heading) => {
                    self.own.push((heading.to_owned(), path, schema.clone()));
                }
                Some(_) => {} // the type occurs twice
            }
        }
        if path.0.len() == 1 {
            for (heading, path, schema) in std::mem::take(&mut self.own) {
                self.section(&heading, &path, &schema);
            }
        }
    }

    /// The table of a section's keys. Tables that are always there are sections, and no rows.
    fn table(&mut self, path: &Path, keys: &[String], schema: &Value) {
        let rows = keys.iter().map(|key| (key, &schema["properties"][key]));
        let is_section =
            |key: &str, property: &Value| property["$ref"].is_string() && self.inner(key, property).is_some();
        let rows: Vec<_> = rows.filter(|(key, property)| !is_section(key, property)).collect();
        if rows.is_empty() {
            return;
        }
        let with_ranges = rows.iter().any(|(_, property)| range(property) != (None, None));
        let (head, line) = if with_ranges { (" Range |", "---|") } else { ("", "") };
        let _ = write!(self.text, "\n| Key | Default |{head} What it is |\n|---|---|{line}---|\n");
        for (key, property) in rows {
            let (min, max) = range(property);
            let range = match (min, max) {
                _ if !with_ranges => String::new(),
                (Some(min), Some(max)) => format!(" {min} to {max} |"),
                (Some(min), None) => format!(" at least {min} |"),
                (None, Some(max)) => format!(" at most {max} |"),
                (None, None) => " |".to_owned(),
            };
            let what = described(property).replace('\n', " ");
            assert!(!what.is_empty() && !what.contains('|'), "{} {key}: {what:?}", path.header());
            let what = what.trim_end_matches('.');
            let _ = writeln!(self.text, "| `{key}` | {} |{range} {what} |", default(property));
            if (min, max) != (None, None) && path.is_plain() {
                self.ranged.push(Ranged { section: path.header(), key: key.clone(), min, max });
            }
        }
    }

    /// The section that a key leads to, if it does: its part of the path, and the name of its type.
    fn inner(&self, key: &str, property: &Value) -> Option<(Part, String)> {
        let table = |value: &Value| {
            let name = value["$ref"].as_str()?.strip_prefix("#/$defs/")?;
            self.schema["$defs"][name]["properties"].is_object().then(|| name.to_owned())
        };
        let key = key.to_owned();
        if let Some(name) = table(property) {
            return Some((Part::Table(key), name));
        }
        if let Some(name) = property["anyOf"].as_array().and_then(|any| any.iter().find_map(table)) {
            return Some((Part::Table(key), name));
        }
        if let Some(name) = table(&property["items"]) {
            return Some((Part::List(key), name));
        }
        let name = table(&property["additionalProperties"])?;
        let stands_for = property["x-name"].as_str().expect("what stands for a name").to_owned();
        Some((Part::Named(key, stands_for), name))
    }
}

/// The least and the greatest value of a key, unless they are those of its type.
fn range(property: &Value) -> (Option<i64>, Option<i64>) {
    let of_type = match property["format"].as_str() {
        Some("uint8") => Some(i64::from(u8::MAX)),
        Some("uint16") => Some(i64::from(u16::MAX)),
        _ => None,
    };
    let min = property["minimum"].as_i64().filter(|min| *min != 0);
    (min, property["maximum"].as_i64().filter(|max| Some(*max) != of_type))
}

/// The default of a key, in TOML.
fn default(property: &Value) -> String {
    match property.get("default") {
        None | Some(Value::Null) => NONE.to_owned(),
        Some(value) => format!("`{}`", toml::Value::try_from(value).unwrap()),
    }
}
