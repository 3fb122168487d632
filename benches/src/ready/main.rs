//! `ready-bench`: what a launch from a machine that stands ready would take, and a resume of a process that was kept.
//!
//! An experiment, with what there is: monitors are told to pause and to resume. Nothing of it is how the daemon works, which restores for each
//! launch and each resume. What comes before a launch or resume is asked for is not measured; what is measured ends with the app's answer to
//! the hook.
//!
//! ```text
//!                       before                                        │ measured
//!  launch: cold         a monitor with a virtual machine              │ restore ─► agent ─► identity ─► hook
//!  launch: ready        … restore ─► agent ─► pause                   │ resume ───────────► identity ─► hook
//!  launch: ready, aged  … restore ─► agent ─► 3 s ─► pause            │ the same
//!  launch: rehearsed    … restore ─► agent ─► identity ─► hook ─► … ─► freeze ─► pause │ the same
//!  resume: cold         a suspended state, and a monitor              │ restore ─► agent ─► identity ─► hook
//!  resume: kept         a process that was saved, and stands          │ resume ───────────► identity ─► hook
//! ```
//!
//! A rehearsed machine has run as somebody already, which no machine of a pool may: it is the least that is left when every page is entered that a
//! launch needs.
//!
//! * [`machine`] – a monitor, its network and its guest
//! * [`steps`] – times or traces of the steps

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

/// How long machines stand before they are asked for: long enough that nothing of what was before goes on.
const WAIT: Duration = Duration::from_secs(1);
/// How long a guest needs until its own work in the background is done: it reports free pages two seconds after a restore.
const AGE: Duration = Duration::from_secs(3);
/// What the guest does after a hook, before it is suspended.
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

/// What is done before it is asked for.
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
    // The first one finds cold files.
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

/// One launch or resume, with all that comes before it.
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

/// A launch that is not measured, and what the guest does after it.
async fn launch(machine: &mut Machine) -> Result<()> {
    machine.restore(&Source::Image)?;
    machine.answer().await?;
    machine.identify().await?;
    machine.hook(Hook::Run).await?;
    sleep(SETTLE).await;
    Ok(())
}
