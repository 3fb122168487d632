//! Reads and pages through the API, by clients on the same processors: gRPC on the daemon's socket, and gRPC beside REST over TCP on
//! the loopback device.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::grpc::Grpc;
use crate::records::id;
use crate::rest::RestClient;
use crate::service::{Served, serve};
use crate::{Dice, Plan, figure, per_second};
use hearth_benches::report::{Better, Figure, Samples};

/// Numbers of requests under way at a time.
const CLIENTS: [usize; 2] = [1, 64];
/// Goal: the rate of requests over REST as a share of those over gRPC.
const GOAL: f64 = 0.5;

/// A client that makes one request after the other.
pub(crate) trait Client: Send + 'static {
    /// Reads a microVM.
    fn get(&mut self, id: String) -> impl Future<Output = Result<()>> + Send;

    /// Reads the next page of 50 microVMs.
    fn page(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Kind of request.
#[derive(Clone, Copy)]
enum Kind {
    Get,
    Page,
}

const KINDS: [(&str, Kind); 2] = [("GetMicrovm", Kind::Get), ("pages of 50", Kind::Page)];

/// Serves the store in `data` and measures it; files are made in `folder`.
pub(crate) fn measure(folder: &Path, data: &Path, plan: &Plan) -> Result<Vec<Figure>> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(async {
        let served = serve(folder, data).await?;
        let mut figures = on_socket(&served, plan).await?;
        figures.extend(over_tcp(&served, plan).await?);
        Ok(figures)
    })
}

async fn on_socket(served: &Served, plan: &Plan) -> Result<Vec<Figure>> {
    let grpc = Grpc::on_socket(&served.socket).await?;
    let mut figures = Vec::new();
    for (clients, (name, kind)) in combinations() {
        let mut rates = Vec::new();
        for _ in 0..plan.rounds {
            rates.push(round(plan, grpc.clients(clients), kind).await?);
        }
        figures.push(figure(&format!("gRPC: {name}, {clients} at a time"), "1/s", Better::Higher, rates));
    }
    Ok(figures)
}

/// Each round measures REST and gRPC one after the other, so that whatever else the machine does concerns both.
async fn over_tcp(served: &Served, plan: &Plan) -> Result<Vec<Figure>> {
    let grpc = Grpc::over_tcp(served.grpc).await?;
    let mut figures = Vec::new();
    for (clients, (name, kind)) in combinations() {
        let (mut rest_rates, mut grpc_rates) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            let mut rest = Vec::new();
            for _ in 0..clients {
                rest.push(RestClient::connect(served.aws).await?);
            }
            rest_rates.push(round(plan, rest, kind).await?);
            grpc_rates.push(round(plan, grpc.clients(clients), kind).await?);
        }
        figures.push(Figure {
            name: format!("over TCP: {name}, {clients} at a time"),
            unit: "1/s",
            better: Better::Higher,
            goal: Some(GOAL),
            samples: vec![Samples::new("REST", rest_rates), Samples::new("gRPC", grpc_rates)],
        });
    }
    Ok(figures)
}

fn combinations() -> impl Iterator<Item = (usize, (&'static str, Kind))> {
    CLIENTS.into_iter().flat_map(|clients| KINDS.map(|kind| (clients, kind)))
}

/// Requests per second of these clients together, over one round.
async fn round<C: Client>(plan: &Plan, clients: Vec<C>, kind: Kind) -> Result<f64> {
    let (start, round, microvms) = (Instant::now(), plan.round, plan.microvms);
    let mut tasks = JoinSet::new();
    for (number, mut client) in (0..).zip(clients) {
        tasks.spawn(async move {
            let (mut dice, mut done) = (Dice(number), 0);
            while start.elapsed() < round {
                match kind {
                    Kind::Get => client.get(id(dice.below(microvms))).await?,
                    Kind::Page => client.page().await?,
                }
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(result) = tasks.join_next().await {
        done += result??;
    }
    Ok(per_second(done, start.elapsed()))
}
