//! `launch-bench`: times of the daemon's operations on microVMs, and of their steps.
//!
//! `cargo xtask bench api` runs it on the metal, in instruction counting, against a daemon that is otherwise idle. Times are
//! the client's: from its request until the daemon reports the requested state (`WatchEvents`). The steps are the
//! daemon's own, from its metrics before and after.
//!
//! With `--profile`, it prints the cost of launches, suspends and resumes for the host, from its tracepoints ([`hearth_benches::trace`]).
//! Tracing takes time, so that times are measured without it.
//!
//! * [`endpoint`] – a client of a microVM's endpoint
//! * [`metrics`] – the daemon's metrics

#![forbid(unsafe_code)]

mod endpoint;
mod metrics;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use hearth_proto::host::v1::host_service_client::HostServiceClient;
use hearth_proto::host::v1::{Event, GetHostStatusRequest, WatchEventsRequest};
use hearth_proto::microvms::v1::microvm_service_client::MicrovmServiceClient;
use hearth_proto::microvms::v1::port_specification::Specification;
use hearth_proto::microvms::v1::{
    CreateMicrovmAuthTokenRequest, IdlePolicy, Microvm, PortSpecification, ResumeMicrovmRequest,
    RunMicrovmRequest, SuspendMicrovmRequest, TerminateMicrovmRequest,
};
use tonic::Streaming;
use tonic::transport::Channel;

use endpoint::Endpoint;
use hearth_benches::report::{self, Better, Figure, Samples};
use hearth_benches::trace::rounds::Rounds;
use hearth_benches::trace::tracefs::{TRACEFS, Tracer};
use metrics::{Steps, scrape};

/// Timeout of every wait for a state.
const WAIT_TIMEOUT: Duration = Duration::from_secs(600);
/// Time for a guest's remaining work after an operation.
const SETTLE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(20);
/// The port of the app.
const PORT: i32 = 8080;
/// Header with the token, and the token's name in the API's response.
const AUTH: &str = "X-aws-proxy-auth";

/// Measures launch, suspend, resume and terminate through the daemon's API
#[derive(Debug, Parser)]
struct Options {
    /// The daemon's socket
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Address of the daemon's metrics
    #[arg(long, value_name = "HOST:PORT")]
    metrics: String,
    /// What is run
    #[arg(long, value_name = "NAME")]
    image: String,
    /// How often each figure is taken
    #[arg(long, value_name = "COUNT", default_value_t = 7)]
    rounds: usize,
    /// How many microVMs are launched at once, at last
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    many: usize,
    /// Where the figures go as JSON
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    /// Tell exits, faults and pages touched by launches, suspends and resumes instead; it takes root and tracefs
    #[arg(long)]
    profile: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("starting a runtime").and_then(|runtime| runtime.block_on(run(&options)));
    report::exit("launch-bench", done)
}

async fn run(options: &Options) -> Result<()> {
    let mut bench = Bench::connect(options).await?;
    // The first round fills the pools for this shape, and reads cold files.
    bench.round(&mut Durations::default()).await?;
    bench.steps = Steps::default();
    bench.profiler = options.profile.then(Profiler::open).transpose()?;
    let mut durations = Durations::default();
    for _ in 0..options.rounds {
        bench.round(&mut durations).await?;
        if let Some(profiler) = &mut bench.profiler {
            profiler.round += 1;
        }
    }
    eprintln!("\nsteps of {} rounds, by the daemon's metrics, on average:\n{}", options.rounds, bench.steps);
    let figures = if let Some(profiler) = bench.profiler.take() {
        profiler.rounds.figures(options.rounds)
    } else {
        bench.steps = Steps::default();
        bench.many(options.many, &mut durations).await?;
        eprintln!("\nsteps of {} launches at once:\n{}", options.many, bench.steps);
        let mut figures = durations.figures();
        figures.extend(bench.rates.into_iter().map(|rate| figure(rate, "1/s", Better::Higher)));
        figures
    };
    eprint!("{}", report::table(&figures));
    report::save(&figures, &options.json)
}

/// Milliseconds by name, in the order in which the names were first measured.
#[derive(Default)]
struct Durations(Vec<(String, Vec<f64>)>);

impl Durations {
    fn add(&mut self, name: &str, time: Duration) {
        let value = time.as_secs_f64() * 1000.0;
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    fn figures(self) -> Vec<Figure> {
        self.0.into_iter().map(|durations| figure(durations, "ms", Better::Lower)).collect()
    }
}

fn figure((name, values): (String, Vec<f64>), unit: &'static str, better: Better) -> Figure {
    Figure { name, unit, better, goal: None, samples: vec![Samples::new("hearth", values)] }
}

/// Profiles operations by the host's tracepoints.
struct Profiler {
    tracer: Tracer,
    round: usize,
    rounds: Rounds,
}

impl Profiler {
    fn open() -> Result<Self> {
        Ok(Self { tracer: Tracer::open(Path::new(TRACEFS))?, round: 0, rounds: Rounds::default() })
    }

    fn end(&mut self, operation: &str) -> Result<()> {
        self.tracer.mark(operation)?;
        let trace = self.tracer.end()?;
        if trace.garbled > 0 {
            eprintln!(
                "launch-bench: {} lines of the trace of a {operation} were not understood",
                trace.garbled
            );
        }
        self.rounds.add(self.round, operation, trace.whole().rows());
        Ok(())
    }
}

/// The daemon under measurement.
struct Bench<'a> {
    options: &'a Options,
    microvms: MicrovmServiceClient<Channel>,
    host: HostServiceClient<Channel>,
    events: Streaming<Event>,
    steps: Steps,
    rates: Vec<(String, Vec<f64>)>,
    profiler: Option<Profiler>,
}

impl<'a> Bench<'a> {
    async fn connect(options: &'a Options) -> Result<Self> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", options.socket.display()))?;
        let channel = endpoint.connect().await.context("connecting to the daemon")?;
        let mut host = HostServiceClient::new(channel.clone());
        let events = host.watch_events(WatchEventsRequest::default()).await?.into_inner();
        let microvms = MicrovmServiceClient::new(channel);
        let (steps, rates) = (Steps::default(), Vec::new());
        Ok(Self { options, microvms, host, events, steps, rates, profiler: None })
    }

    /// Starts the profile of an operation.
    fn begin(&self) -> Result<()> {
        self.profiler.as_ref().map_or(Ok(()), |profiler| profiler.tracer.begin())
    }

    /// Ends the profile of an operation.
    fn end(&mut self, operation: &str) -> Result<()> {
        self.profiler.as_mut().map_or(Ok(()), |profiler| profiler.end(operation))
    }

    /// Runs one microVM through all operations, step by step.
    async fn round(&mut self, durations: &mut Durations) -> Result<()> {
        self.quiet().await?;
        self.begin()?;
        let start = Instant::now();
        let microvm = self.launch().await?;
        let id = microvm.microvm_id.clone();
        durations.add("RunMicrovm: answered", start.elapsed());
        self.until(&id, "RUNNING").await?;
        durations.add("RunMicrovm: /run answered, RUNNING", start.elapsed());
        self.end("launch")?;
        self.note("launch").await?;

        self.begin()?;
        let start = Instant::now();
        self.suspend(&id).await?;
        durations.add("SuspendMicrovm: SUSPENDED", start.elapsed());
        self.end("suspend")?;
        self.note("suspend").await?;

        self.begin()?;
        let start = Instant::now();
        let microvm_identifier = Some(id.clone());
        self.microvms.resume_microvm(ResumeMicrovmRequest { microvm_identifier }).await?;
        self.until(&id, "RUNNING").await?;
        durations.add("ResumeMicrovm: /resume answered, RUNNING", start.elapsed());
        self.end("resume")?;
        self.note("resume").await?;

        let mut endpoint = self.endpoint(microvm).await?;
        endpoint.first_byte().await?;
        tokio::time::sleep(SETTLE).await;
        durations.add("a request while it runs: first byte", endpoint.first_byte().await?);
        self.suspend(&id).await?;
        self.quiet().await?;
        durations.add("a request while it is suspended: resume, first byte", endpoint.first_byte().await?);
        self.until(&id, "RUNNING").await?;
        self.note("auto-resume").await?;

        let start = Instant::now();
        self.terminate(&id).await?;
        self.until(&id, "TERMINATED").await?;
        durations.add("TerminateMicrovm: TERMINATED", start.elapsed());
        self.note("terminate").await
    }

    /// Launches many microVMs at once, and keeps all of them until the last one runs.
    async fn many(&mut self, count: usize, durations: &mut Durations) -> Result<()> {
        self.quiet().await?;
        let start = Instant::now();
        let mut ids = HashSet::new();
        for _ in 0..count {
            ids.insert(self.launch().await?.microvm_id);
        }
        durations.add(&format!("{count} launches at once: all answered"), start.elapsed());
        self.until_all(&ids, "RUNNING").await?;
        let all = start.elapsed();
        durations.add(&format!("{count} launches at once: all RUNNING"), all);
        let each = all / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        durations.add(&format!("{count} launches at once: for each"), each);
        let rate = 1.0 / each.as_secs_f64();
        self.rates.push((format!("{count} launches at once"), vec![rate]));
        self.note("launch").await?;
        let start = Instant::now();
        for id in &ids {
            self.terminate(id).await?;
        }
        self.until_all(&ids, "TERMINATED").await?;
        durations.add(&format!("{count} terminated at once: all TERMINATED"), start.elapsed());
        self.note("terminate").await
    }

    async fn launch(&mut self) -> Result<Microvm> {
        let policy = IdlePolicy {
            max_idle_duration_seconds: Some(3600),
            suspended_duration_seconds: Some(3600),
            auto_resume_enabled: Some(true),
        };
        let request = RunMicrovmRequest {
            image_identifier: Some(self.options.image.clone()),
            idle_policy: Some(policy),
            ..RunMicrovmRequest::default()
        };
        Ok(self.microvms.run_microvm(request).await?.into_inner())
    }

    /// Suspends a microVM and waits until it is suspended.
    async fn suspend(&mut self, id: &str) -> Result<()> {
        let microvm_identifier = Some(id.to_owned());
        self.microvms.suspend_microvm(SuspendMicrovmRequest { microvm_identifier }).await?;
        self.until(id, "SUSPENDED").await
    }

    /// A connection to a microVM's endpoint.
    async fn endpoint(&mut self, microvm: Microvm) -> Result<Endpoint> {
        let status = self.host.get_host_status(GetHostStatusRequest {}).await?.into_inner();
        let host = status.endpoint.context("the daemon has no endpoints")?;
        let request = CreateMicrovmAuthTokenRequest {
            microvm_identifier: Some(microvm.microvm_id),
            expiration_in_minutes: Some(60),
            allowed_ports: vec![PortSpecification { specification: Some(Specification::Port(PORT)) }],
        };
        let mut made = self.microvms.create_microvm_auth_token(request).await?.into_inner();
        let token = made.auth_token.remove(AUTH).context("the daemon makes no token")?;
        Endpoint::connect(&host, microvm.endpoint, token).await
    }

    async fn terminate(&mut self, id: &str) -> Result<()> {
        let microvm_identifier = Some(id.to_owned());
        self.microvms.terminate_microvm(TerminateMicrovmRequest { microvm_identifier }).await?;
        Ok(())
    }

    async fn until(&mut self, id: &str, state: &str) -> Result<()> {
        self.until_all(&HashSet::from([id.to_owned()]), state).await
    }

    /// Waits until all these microVMs are in a state.
    async fn until_all(&mut self, ids: &HashSet<String>, state: &str) -> Result<()> {
        let mut missing = ids.clone();
        while !missing.is_empty() {
            let event = tokio::time::timeout(WAIT_TIMEOUT, self.events.message()).await;
            let event = event.with_context(|| format!("{} are not {state}", missing.len()))??;
            let event = event.context("the daemon has ended the stream of events")?;
            if !missing.contains(&event.resource) {
                continue;
            }
            if event.to_state == state {
                missing.remove(&event.resource);
            } else if event.to_state == "TERMINATED" {
                bail!("{} has ended: {:?}", event.resource, event.reason);
            }
        }
        Ok(())
    }

    /// Waits until the pools are full and the last operation has no remaining work.
    async fn quiet(&mut self) -> Result<()> {
        loop {
            let status = self.host.get_host_status(GetHostStatusRequest {}).await?.into_inner();
            if status.pools.iter().all(|pool| pool.ready >= pool.wanted) {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(SETTLE).await;
        self.steps.forget(scrape(&self.options.metrics)?);
        Ok(())
    }

    /// Records the daemon's measurements since the last call.
    async fn note(&mut self, operation: &str) -> Result<()> {
        tokio::time::sleep(SETTLE).await;
        self.steps.note(operation, scrape(&self.options.metrics)?);
        Ok(())
    }
}
