//! The daemon's metrics: how often something was done, and its total time, between two samples.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail};

/// A sample: sums and counts of the histograms of times, by name with labels.
pub(crate) type Sample = BTreeMap<String, (f64, f64)>;

/// Times of steps, by operation.
#[derive(Default)]
pub(crate) struct Steps {
    last: Sample,
    taken: BTreeMap<(String, String), (f64, f64)>,
}

/// Reads the metrics.
pub(crate) fn scrape(address: &str) -> Result<Sample> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("{address} speaks no HTTP") };
    if !head.lines().next().is_some_and(|line| line.contains(" 200 ")) {
        bail!("{address} answers {:?}", head.lines().next());
    }
    Ok(parse(body))
}

/// Parses the times in metrics in Prometheus' text format: `NAME_seconds_sum{LABELS} VALUE`, and `_count`.
fn parse(text: &str) -> Sample {
    let mut sample = Sample::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        let (family, labels) = name
            .split_once('{')
            .map_or((name, String::new()), |(family, labels)| (family, format!("{{{labels}")));
        if let Some(family) = family.strip_suffix("_seconds_sum") {
            sample.entry(format!("{family}{labels}")).or_default().0 = value;
        } else if let Some(family) = family.strip_suffix("_seconds_count") {
            sample.entry(format!("{family}{labels}")).or_default().1 = value;
        }
    }
    sample
}

impl Steps {
    /// Starts with a sample: everything before it is not counted.
    pub(crate) fn forget(&mut self, sample: Sample) {
        self.last = sample;
    }

    /// Counts everything since the last sample for `operation`.
    pub(crate) fn note(&mut self, operation: &str, sample: Sample) {
        for (name, (sum, count)) in &sample {
            let (old_sum, old_count) = self.last.get(name).copied().unwrap_or_default();
            if *count > old_count {
                let taken = self.taken.entry((operation.to_owned(), name.clone())).or_default();
                taken.0 += sum - old_sum;
                taken.1 += count - old_count;
            }
        }
        self.last = sample;
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((operation, name), (sum, count)) in &self.taken {
            writeln!(f, "{operation:<10} {:>9.3} ms  {count:>5} times  {name}", sum / count * 1000.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_between_two_samples_is_told() {
        let text = "# TYPE a_seconds histogram\na_seconds_sum{step=\"x y\"} 0.5\na_seconds_count{step=\"x y\"} 2\n\
                    a_seconds_bucket{le=\"1\"} 2\nother 3\n";
        let first = parse(text);
        assert_eq!(first, Sample::from([("a{step=\"x y\"}".to_owned(), (0.5, 2.0))]));
        let mut steps = Steps::default();
        steps.forget(first);
        steps.note("launch", parse(&text.replace("0.5", "0.75").replace("} 2", "} 4")));
        assert_eq!(steps.to_string(), "launch       125.000 ms      2 times  a{step=\"x y\"}\n");
    }
}
