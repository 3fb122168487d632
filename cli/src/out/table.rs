//! Columns and fields, aligned.

use super::text::printable;

/// Spaces between columns.
const GAP: &str = "  ";
/// Longest cell; longer ones are cut, except in the last column.
const MAX_WIDTH: usize = 64;

/// A table: a head and rows.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_owned).to_vec()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)).to_vec());
    }

    /// The whole table with newlines.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).min(MAX_WIDTH)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                if column + 1 == columns {
                    line.push_str(cell);
                } else {
                    line.push_str(&format!("{:<width$}{GAP}", cut(cell, width)));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Fields of one object, one per line; those without a value are left out.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    fields: Vec<(&'static str, String)>,
}

impl Fields {
    pub(crate) fn add(&mut self, name: &'static str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.fields.push((name, printable(&value)));
        }
    }

    pub(crate) fn maybe(&mut self, name: &'static str, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// All fields with newlines.
    pub(crate) fn text(&self) -> String {
        let width = self.fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.fields.iter().map(|(name, value)| format!("{name:<width$}{GAP}{value}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_long_cells_are_cut() {
        let mut table = Table::new(["NAME", "STATE", "WHY"]);
        table.row(["a".into(), "CREATED".into(), String::new()]);
        table.row(["x".repeat(70), "é".into(), "\x1b[2J".into()]);
        let text = table.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], format!("NAME{}STATE    WHY", " ".repeat(62)));
        assert_eq!(lines[1], format!("a{}CREATED", " ".repeat(65)));
        assert_eq!(lines[2], format!("{}…  é        \u{fffd}[2J", "x".repeat(63)));
    }

    #[test]
    fn fields_without_a_value_are_left_out() {
        let mut fields = Fields::default();
        fields.add("id", "1");
        fields.add("reason", "");
        fields.maybe("longer", Some("2"));
        fields.maybe("none", None::<String>);
        assert_eq!(fields.text(), "id      1\nlonger  2\n");
    }
}
