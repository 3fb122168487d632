//! `ready-bench`: times of a launch from a machine that is kept ready, and of a resume of a process that was kept.
//!
//! An experiment with the existing parts: monitors are paused and resumed. The daemon does not work like this; it restores for each
//! launch and each resume. The work before the request for a launch or resume is not measured; the measurement ends with the app's response
//! to the hook.
//!
//! ```text
//!                       before                                        │ measured
//!  launch: cold         a monitor with a virtual machine              │ restore ─► agent ─► identity ─► hook
//!  launch: ready        … restore ─► agent ─► pause                   │ resume ───────────► identity ─► hook
//!  launch: ready, aged  … restore ─► agent ─► 3 s ─► pause            │ as above
//!  launch: rehearsed    … restore ─► agent ─► identity ─► hook ─► … ─► freeze ─► pause │ as above
//!  resume: cold         a suspended state, and a monitor              │ restore ─► agent ─► identity ─► hook
//!  resume: kept         a process that was saved, and is paused       │ resume ───────────► identity ─► hook
//! ```
//!
//! A rehearsed machine has run with another identity before, which no machine of a pool may have: it shows the lower limit of the time,
//! when every page that a launch needs is mapped.
//!
//! * [`machine`] – a monitor, its network and its guest
//! * [`steps`] – times or traces of the steps

#![forbid(unsafe_code)]

mod machine;
mod steps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use hearth_benches::report;
use hearth_benches::trace::rounds::Rounds;
use hearth_benches::trace::tracefs::{TRACEFS, Tracer};
use hearth_proto::guest::v1::Hook;
use tokio::time::sleep;

use machine::{Host, Machine, Source};
use steps::Steps;

/// How long machines are paused before they are requested: long enough for all earlier work to be done.
const WAIT: Duration = Duration::from_secs(1);
/// Time that a guest needs for its own work in the background: it reports free pages two seconds after a restore.
const AGE: Duration = Duration::from_secs(3);
/// Time for the guest's remaining work after a hook, before it is suspended.
const SETTLE: Duration = Duration::from_millis(200);

/// Measures launches from machines that stand ready, and resumes of processes that were kept
#[derive(Debug, Parser)]
struct Options {
    /// The monitor
    #[arg(long, value_name = "PATH", env = "HEARTH_VMM")]
    vmm: PathBuf,
    /// Folder of an image whose app takes the hooks /run, /suspend and /resume
    #[arg(long, value_name = "FOLDER")]
    image: PathBuf,
    /// The port of the hooks
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// An empty folder for overlays and suspended states
    #[arg(long, value_name = "FOLDER")]
    work: PathBuf,
    /// How often each figure is taken
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Where the figures go as JSON
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
}

/// The work that is done before the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Answered,
    Aged,
    Rehearsed,
    Suspended,
    Kept,
}

impl Before {
    const ALL: [(Self, &str); 6] = [
        (Self::Nothing, "launch, cold"),
        (Self::Answered, "launch, ready"),
        (Self::Aged, "launch, ready, aged"),
        (Self::Rehearsed, "launch, rehearsed"),
        (Self::Suspended, "resume, cold"),
        (Self::Kept, "resume, kept"),
    ];
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("starting a runtime").and_then(|runtime| runtime.block_on(run(&options)));
    report::exit("ready-bench", done)
}

async fn run(options: &Options) -> Result<()> {
    let tracer = Tracer::open(Path::new(TRACEFS))?;
    let mut host = Host::open(&options.vmm, &options.image, &options.work, options.port)?;
    // The first round reads cold files, and is not counted.
    measure(&mut host, Before::Suspended, Steps::timed()).await?;
    let mut rounds = Rounds::default();
    for traced in [false, true] {
        for round in 0..options.rounds {
            for (before, name) in Before::ALL {
                let steps = if traced { Steps::traced(&tracer) } else { Steps::timed() };
                let steps = measure(&mut host, before, steps).await;
                rounds.add(round, name, steps.with_context(|| name.to_owned())?.rows()?);
            }
        }
    }
    let figures = rounds.figures(options.rounds);
    eprint!("{}", report::table(&figures));
    report::save(&figures, &options.json)
}

/// Measures one launch or resume, after the work before it.
async fn measure<'a>(host: &mut Host, before: Before, mut steps: Steps<'a>) -> Result<Steps<'a>> {
    let mut machine = host.monitor()?;
    let (source, hook) = match before {
        Before::Nothing => (Some(Source::Image), Hook::Run),
        Before::Answered | Before::Aged => {
            machine.restore(&Source::Image)?;
            machine.answer().await?;
            if before == Before::Aged {
                sleep(AGE).await;
            }
            machine.pause()?;
            (None, Hook::Run)
        }
        Before::Rehearsed => {
            launch(&mut machine).await?;
            machine.freeze().await?;
            machine.pause()?;
            (None, Hook::Run)
        }
        Before::Suspended => {
            launch(&mut machine).await?;
            machine.hook(Hook::Suspend).await?;
            machine.freeze().await?;
            let state = machine.suspend()?;
            machine = host.monitor()?;
            (Some(Source::Suspended(state)), Hook::Resume)
        }
        Before::Kept => {
            launch(&mut machine).await?;
            machine.hook(Hook::Suspend).await?;
            machine.freeze().await?;
            machine.save()?;
            (None, Hook::Resume)
        }
    };
    sleep(WAIT).await;

    steps.begin()?;
    if let Some(source) = &source {
        machine.restore(source)?;
        steps.done("restore")?;
        machine.answer().await?;
        steps.done("agent")?;
    } else {
        machine.resume()?;
        steps.done("resume")?;
    }
    machine.identify().await?;
    steps.done("identity")?;
    machine.hook(hook).await?;
    steps.done("hook")?;
    machine.end()?;
    Ok(steps)
}

/// A launch that is not measured, including the guest's remaining work.
async fn launch(machine: &mut Machine) -> Result<()> {
    machine.restore(&Source::Image)?;
    machine.answer().await?;
    machine.identify().await?;
    machine.hook(Hook::Run).await?;
    sleep(SETTLE).await;
    Ok(())
}
