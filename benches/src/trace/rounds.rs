//! Profiles of several rounds, as figures.

use super::profile::Row;
use crate::report::{Better, Figure, Samples};

/// Rows of steps, each with a value for every round.
#[derive(Debug, Default)]
pub struct Rounds {
    rows: Vec<(String, &'static str, Vec<f64>)>,
}

impl Rounds {
    /// Adds the rows of a step in round `round`, counted from 0. A row that a round lacks counts as 0: nothing of that kind happened.
    pub fn add(&mut self, round: usize, step: &str, rows: Vec<Row>) {
        // Position after the last row of this step that was found: a new row is inserted there.
        let mut place = None;
        for Row { name, unit, value } in rows {
            let name = format!("{step}: {name}");
            let index = self.rows.iter().position(|(known, ..)| *known == name).unwrap_or_else(|| {
                let index = place.map_or(self.rows.len(), |place: usize| place + 1);
                self.rows.insert(index, (name, unit, Vec::new()));
                index
            });
            place = Some(index);
            if let Some((_, _, values)) = self.rows.get_mut(index) {
                values.resize(round, 0.0);
                values.push(value);
            }
        }
    }

    /// The figures of `count` rounds.
    #[must_use]
    pub fn figures(self, count: usize) -> Vec<Figure> {
        let figure = |(name, unit, mut values): (String, &'static str, Vec<f64>)| {
            values.resize(count, 0.0);
            Figure {
                name,
                unit,
                better: Better::Lower,
                goal: None,
                samples: vec![Samples::new("hearth", values)],
            }
        };
        self.rows.into_iter().map(figure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_round_lacks_is_none_in_it() {
        let row = |name: &str, value| Row { name: name.into(), unit: "", value };
        let mut rounds = Rounds::default();
        rounds.add(0, "launch", vec![row("exits", 1.0), row("faults", 10.0)]);
        rounds.add(1, "launch", vec![row("exits", 3.0), row("exits: IRQ", 5.0), row("faults", 30.0)]);
        rounds.add(1, "resume", vec![row("exits", 7.0)]);
        rounds.add(2, "launch", vec![row("exits", 2.0), row("faults", 20.0)]);
        let figures = rounds.figures(3);
        let told: Vec<_> = figures
            .iter()
            .map(|figure| (figure.name.as_str(), figure.samples[0].values.as_slice()))
            .collect();
        let wanted: [(&str, &[f64]); 4] = [
            ("launch: exits", &[1.0, 3.0, 2.0]),
            ("launch: exits: IRQ", &[0.0, 5.0, 0.0]),
            ("launch: faults", &[10.0, 30.0, 20.0]),
            ("resume: exits", &[0.0, 7.0, 0.0]),
        ];
        assert_eq!(told, wanted);
    }
}
