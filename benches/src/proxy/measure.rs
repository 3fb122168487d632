//! The figures, in rounds: in each, every figure is taken of Hearth and of nginx, in alternating order.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::hold;
use crate::load::{Amount, H2load, Load, Outcome, Protocol, Request, Target};
use crate::nginx::{BIG, SMALL, UPLOAD};
use crate::relay::Relay;
use hearth_benches::report::{Better, Figure, Samples};

/// Bytes of the big file.
const BIG_SIZE: u64 = 64 << 20;
/// Transfers of the big file for one value.
const TRANSFERS: u32 = 8;
/// Transfers of the big file for one value with the high latency.
const FAR_TRANSFERS: u32 = 2;
/// High latency, one way: half of the round trip of 93 ms at which AWS was measured.
const FAR: Duration = Duration::from_micros(46_500);
/// AWS's measured upload rate over HTTP/2 at that latency, in MB/s. Hearth's windows are larger
/// (docs/behaviour.md, "Limits of the endpoint").
const AWS: f64 = 0.6;
/// Goal: Hearth's requests per second as a share of nginx's.
const REQUESTS_GOAL: f64 = 0.8;
/// Goal: Hearth's upload rate at the high latency as a multiple of AWS's.
const UPLOAD_GOAL: f64 = 5.0;
/// Number of idle connections.
const IDLE: u32 = 2000;
/// Goal: most memory of an idle connection, in KiB.
const IDLE_LIMIT: f64 = 32.0;
const PROTOCOLS: [(&str, Protocol); 2] = [("h1", Protocol::Http1), ("h2", Protocol::Http2)];
const PERCENTILES: [u32; 2] = [50, 99];

/// The measurement's programs, files and addresses.
pub(crate) struct Bench {
    pub(crate) h2load: H2load,
    /// The big file.
    pub(crate) file: PathBuf,
    pub(crate) app: SocketAddr,
    pub(crate) nginx: SocketAddr,
    pub(crate) hearth: SocketAddr,
    pub(crate) rounds: usize,
    pub(crate) seconds: u32,
}

/// Makes the file that is uploaded and downloaded.
pub(crate) fn big_file(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("big");
    let file = File::create(&path).context("making a big file")?;
    file.set_len(BIG_SIZE).context("making a big file")?;
    Ok(path)
}

/// Measures the cost of idle connections, in rounds.
pub(crate) fn idle(app: SocketAddr, folder: &Path, rounds: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, protocol) in PROTOCOLS {
        let costs = (0..rounds).map(|_| hold::cost(app, folder, IDLE, protocol));
        let costs = costs.collect::<Result<Vec<f64>>>().context("holding idle connections")?;
        figures.push(Figure {
            name: format!("{name}: memory of an idle connection, of {IDLE}"),
            unit: "KiB",
            better: Better::Lower,
            goal: Some(1.0),
            samples: vec![Samples::new("hearth", costs), Samples::new("limit", vec![IDLE_LIMIT])],
        });
    }
    Ok(figures)
}

/// The values of one figure, round by round.
#[derive(Debug, Default)]
struct Pair {
    hearth: Vec<f64>,
    nginx: Vec<f64>,
}

impl Pair {
    fn samples(&self) -> Vec<Samples> {
        vec![Samples::new("hearth", self.hearth.clone()), Samples::new("nginx", self.nginx.clone())]
    }

    fn figure(&self, name: String, unit: &'static str, better: Better, goal: Option<f64>) -> Figure {
        Figure { name, unit, better, goal, samples: self.samples() }
    }
}

/// Values of all rounds, each by protocol.
#[derive(Debug, Default)]
struct Values {
    rates: [Pair; 2],
    latencies: [Latencies; 2],
    down: [Pair; 2],
    up: [Pair; 2],
    far: Pair,
}

/// Latencies of one protocol, by percentile, in µs.
#[derive(Debug, Default)]
struct Latencies {
    through: [Pair; 2],
    direct: [Vec<f64>; 2],
}

impl Bench {
    /// Takes all figures.
    pub(crate) async fn measure(&self) -> Result<Vec<Figure>> {
        self.check().await?;
        let far = (Relay::start(self.hearth, FAR).await?, Relay::start(self.nginx, FAR).await?);
        let mut values = Values::default();
        for round in 0..self.rounds {
            eprintln!("round {} of {}", round + 1, self.rounds);
            for (index, (name, protocol)) in PROTOCOLS.into_iter().enumerate() {
                self.round(round, index, protocol, &mut values)
                    .await
                    .with_context(|| format!("over {name}"))?;
            }
            let load = self.transfer(Protocol::Http2, UPLOAD, FAR_TRANSFERS);
            let sides = (far.0.address, far.1.address);
            self.both(round, sides, load, &mut values.far, carried).await.context("from far away")?;
        }
        Ok(values.figures())
    }

    /// Checks that both proxies use the same TLS parameters, and that only Hearth requires tokens.
    async fn check(&self) -> Result<()> {
        for (name, protocol) in PROTOCOLS {
            let load = self.small(protocol, (1, 1), Amount::Requests(1));
            let refused = self.h2load.refusals(Target::Proxy(self.hearth), load).await?;
            ensure!(refused == 1, "Hearth answers {name} without a token");
            let hearth = self.h2load.run(Target::Proxy(self.hearth), load).await.context("asking Hearth")?;
            let nginx = self.h2load.run(Target::Proxy(self.nginx), load).await.context("asking nginx")?;
            let (ours, theirs) = (hearth.tls.unwrap_or_default(), nginx.tls.unwrap_or_default());
            ensure!(ours == theirs, "Hearth speaks {ours}, nginx {theirs}");
            eprintln!("{name}: both speak {ours}");
        }
        Ok(())
    }

    /// Takes the values of one protocol, which has this index.
    async fn round(&self, round: usize, index: usize, protocol: Protocol, values: &mut Values) -> Result<()> {
        let sides = (self.hearth, self.nginx);
        let Values { rates, latencies, down, up, .. } = values;
        if let Some(pair) = rates.get_mut(index) {
            let load = self.small(protocol, crowd(protocol), Amount::Seconds(self.seconds));
            self.both(round, sides, load, pair, |outcome| outcome.rate).await?;
        }
        if let Some(latencies) = latencies.get_mut(index) {
            self.latencies(round, protocol, latencies).await?;
        }
        if let Some(pair) = down.get_mut(index) {
            self.both(round, sides, self.transfer(protocol, BIG, TRANSFERS), pair, carried).await?;
        }
        if let Some(pair) = up.get_mut(index) {
            self.both(round, sides, self.transfer(protocol, UPLOAD, TRANSFERS), pair, carried).await?;
        }
        Ok(())
    }

    /// Measures one request at a time, directly to the app and through both proxies.
    async fn latencies(&self, round: usize, protocol: Protocol, latencies: &mut Latencies) -> Result<()> {
        let load = |protocol| self.small(protocol, (1, 1), Amount::Seconds(self.seconds));
        // Both proxies use HTTP/1.1 to the app, whatever their clients use.
        let direct = self.h2load.run(Target::App(self.app), load(Protocol::Http1)).await?;
        let (hearth, nginx) = self.each(round, (self.hearth, self.nginx), load(protocol)).await?;
        for (index, percent) in PERCENTILES.into_iter().enumerate() {
            let at = |outcome: &Outcome| percentile(&outcome.requests, percent);
            if let (Some(pair), Some(straight)) =
                (latencies.through.get_mut(index), latencies.direct.get_mut(index))
            {
                pair.hearth.push(at(&hearth));
                pair.nginx.push(at(&nginx));
                straight.push(at(&direct));
            }
        }
        Ok(())
    }

    /// Measures and adds a value of both proxies.
    async fn both(
        &self,
        round: usize,
        sides: (SocketAddr, SocketAddr),
        load: Load<'_>,
        pair: &mut Pair,
        value: impl Fn(&Outcome) -> f64,
    ) -> Result<()> {
        let (hearth, nginx) = self.each(round, sides, load).await?;
        pair.hearth.push(value(&hearth));
        pair.nginx.push(value(&nginx));
        Ok(())
    }

    /// Makes the same requests of Hearth and of nginx.
    async fn each(
        &self,
        round: usize,
        (hearth, nginx): (SocketAddr, SocketAddr),
        load: Load<'_>,
    ) -> Result<(Outcome, Outcome)> {
        let ask = async |address, name| {
            self.h2load.run(Target::Proxy(address), load).await.with_context(|| format!("through {name}"))
        };
        if round.is_multiple_of(2) {
            let first = ask(hearth, "Hearth").await?;
            Ok((first, ask(nginx, "nginx").await?))
        } else {
            let first = ask(nginx, "nginx").await?;
            Ok((ask(hearth, "Hearth").await?, first))
        }
    }

    fn small(&self, protocol: Protocol, connections: (u32, u32), amount: Amount) -> Load<'_> {
        Load { protocol, connections, amount, path: SMALL, upload: None }
    }

    /// Transfers of the big file, `count` times, one after the other.
    fn transfer<'a>(&'a self, protocol: Protocol, path: &'a str, count: u32) -> Load<'a> {
        let upload = (path == UPLOAD).then_some(self.file.as_path());
        Load { protocol, connections: (1, 1), amount: Amount::Requests(count), path, upload }
    }
}

/// Number of connections, and of concurrent requests on each, for measuring rates.
fn crowd(protocol: Protocol) -> (u32, u32) {
    match protocol {
        Protocol::Http1 => (64, 1),
        Protocol::Http2 => (16, 10),
    }
}

impl Values {
    fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for ((name, protocol), pair) in PROTOCOLS.into_iter().zip(&self.rates) {
            let (connections, streams) = crowd(protocol);
            let name = format!("{name}: requests, {connections} connections, {streams} at a time on each");
            figures.push(pair.figure(name, "1/s", Better::Higher, Some(REQUESTS_GOAL)));
        }
        for ((name, _), latencies) in PROTOCOLS.into_iter().zip(&self.latencies) {
            figures.extend(latencies.figures(name));
        }
        for (way, pairs) in [("down", &self.down), ("up", &self.up)] {
            for ((name, _), pair) in PROTOCOLS.into_iter().zip(pairs) {
                let name = format!("{name}: 64 MiB {way}, one at a time");
                figures.push(pair.figure(name, "MB/s", Better::Higher, None));
            }
        }
        let name = "h2: 64 MiB up, 93 ms away";
        figures.push(self.far.figure(name.to_owned(), "MB/s", Better::Higher, None));
        figures.push(Figure {
            name: format!("{name}, beside AWS as measured"),
            unit: "MB/s",
            better: Better::Higher,
            goal: Some(UPLOAD_GOAL),
            samples: vec![Samples::new("hearth", self.far.hearth.clone()), Samples::new("aws", vec![AWS])],
        });
        figures
    }
}

impl Latencies {
    fn figures(&self, name: &str) -> Vec<Figure> {
        let mut figures = Vec::new();
        for ((percent, pair), direct) in PERCENTILES.into_iter().zip(&self.through).zip(&self.direct) {
            let mut whole = pair.figure(format!("{name}: latency p{percent}"), "µs", Better::Lower, None);
            whole.samples.push(Samples::new("direct", direct.clone()));
            figures.push(whole);
            let added = Pair { hearth: minus(&pair.hearth, direct), nginx: minus(&pair.nginx, direct) };
            figures.push(added.figure(
                format!("{name}: added latency p{percent}"),
                "µs",
                Better::Lower,
                None,
            ));
        }
        figures
    }
}

fn minus(values: &[f64], others: &[f64]) -> Vec<f64> {
    values.iter().zip(others).map(|(value, other)| value - other).collect()
}

/// A percentile of the requests' durations, in µs.
#[expect(clippy::cast_precision_loss, reason = "times are far below 2^52 µs")]
fn percentile(requests: &[Request], percent: u32) -> f64 {
    let mut times: Vec<u64> = requests.iter().map(|request| request.took).collect();
    times.sort_unstable();
    let rank = (times.len() * percent as usize).div_ceil(100);
    times.get(rank.saturating_sub(1)).map_or(f64::NAN, |time| *time as f64)
}

/// Rate of the big file's transfers, in MB/s: bytes per µs.
#[expect(clippy::cast_precision_loss, reason = "bytes and times are far below 2^52")]
fn carried(outcome: &Outcome) -> f64 {
    let requests = &outcome.requests;
    let began = requests.iter().map(|request| request.began).min().unwrap_or_default();
    let ended = requests.iter().map(|request| request.began + request.took).max().unwrap_or_default();
    (BIG_SIZE * requests.len() as u64) as f64 / (ended - began) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(requests: &[(u64, u64)]) -> Outcome {
        let requests = requests.iter().map(|(began, took)| Request { began: *began, took: *took }).collect();
        Outcome { rate: 0.0, tls: None, requests }
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let requests = outcome(&(1..=200).rev().map(|time| (0, time)).collect::<Vec<_>>()).requests;
        assert!((percentile(&requests, 50) - 100.0).abs() < f64::EPSILON);
        assert!((percentile(&requests, 99) - 198.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn bytes_are_counted_from_the_first_request_to_the_last_answer() {
        let two = outcome(&[(1_000_000, 500_000), (1_600_000, 400_000)]);
        let expected = 2.0 * 67.108_864;
        assert!((carried(&two) - expected).abs() < 1e-9, "{}", carried(&two));
    }

    #[test]
    fn what_is_added_is_told_beside_what_it_took() {
        let through = Pair { hearth: vec![50.0, 60.0], nginx: vec![40.0, 45.0] };
        let latencies =
            Latencies { through: [through, Pair::default()], direct: [vec![20.0, 25.0], Vec::new()] };
        let figures = latencies.figures("h1");
        let values: Vec<&[f64]> = figures
            .iter()
            .take(2)
            .flat_map(|figure| &figure.samples)
            .map(|samples| &*samples.values)
            .collect();
        let whole: [&[f64]; 3] = [&[50.0, 60.0], &[40.0, 45.0], &[20.0, 25.0]];
        let added: [&[f64]; 2] = [&[30.0, 35.0], &[20.0, 20.0]];
        assert_eq!(values, [&whole[..], &added[..]].concat());
    }
}
