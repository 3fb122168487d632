//! `touch-bench`: the cost for a guest of touching a page, by its first and its second access.
//!
//! An experiment: a virtual machine with one CPU, no operating system and pages of 4 KiB that hold one instruction each, in a private
//! mapping of a file, as a snapshot's memory is. The guest reads, fetches (calls) or writes all of them, one after the other, and then
//! accesses them in another way. It runs only on the metal.
//!
//! * [`guest`] – the machine, and the programs that it runs

#[cfg(target_arch = "aarch64")]
mod guest;

use std::process::ExitCode;

fn main() -> ExitCode {
    hearth_benches::report::exit("touch-bench", run())
}

#[cfg(not(target_arch = "aarch64"))]
fn run() -> anyhow::Result<()> {
    anyhow::bail!("this measures KVM on aarch64")
}

#[cfg(target_arch = "aarch64")]
fn run() -> anyhow::Result<()> {
    use std::path::Path;
    use std::time::Instant;

    use anyhow::Context as _;
    use guest::{Access, Guest, PAGES};
    use hearth_benches::report;
    use hearth_benches::trace::fault::Kind;
    use hearth_benches::trace::profile::Row;
    use hearth_benches::trace::rounds::Rounds;
    use hearth_benches::trace::tracefs::{TRACEFS, Tracer};

    /// The host's access to the pages before, the guest's first access, and its second.
    const CASES: [(&str, Option<i32>, [Access; 2]); 8] = [
        ("host has not touched it: read, fetch", None, [Access::Read, Access::Fetch]),
        ("host has read it: read, fetch", Some(libc::MADV_POPULATE_READ), [Access::Read, Access::Fetch]),
        ("host has read it: fetch, read", Some(libc::MADV_POPULATE_READ), [Access::Fetch, Access::Read]),
        ("host has read it: read, write", Some(libc::MADV_POPULATE_READ), [Access::Read, Access::Write]),
        ("host has read it: write, fetch", Some(libc::MADV_POPULATE_READ), [Access::Write, Access::Fetch]),
        ("host has written it: read, write", Some(libc::MADV_POPULATE_WRITE), [Access::Read, Access::Write]),
        (
            "host has written it: fetch, write",
            Some(libc::MADV_POPULATE_WRITE),
            [Access::Fetch, Access::Write],
        ),
        ("host has written it: read, fetch", Some(libc::MADV_POPULATE_WRITE), [Access::Read, Access::Fetch]),
    ];
    const ROUNDS: usize = 2;

    let tracer = Tracer::open(Path::new(TRACEFS))?;
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        for (name, populate, accesses) in CASES {
            for traced in [false, true] {
                let mut guest = Guest::new(populate).with_context(|| name.to_owned())?;
                for (place, access) in ["first", "then"].into_iter().zip(accesses) {
                    if traced {
                        tracer.begin()?;
                    }
                    let start = Instant::now();
                    guest.touch(access).with_context(|| name.to_owned())?;
                    let took = start.elapsed();
                    #[expect(clippy::cast_precision_loss, reason = "a number of pages")]
                    let each = |value: f64| value / PAGES as f64;
                    let row = |name: &str, unit, value| Row { name: format!("{place} {name}"), unit, value };
                    let mut rows = vec![row("page", "µs", each(took.as_secs_f64() * 1e6))];
                    if traced {
                        tracer.mark("touch")?;
                        let profile = tracer.end()?.whole();
                        let kinds = profile.faults.iter().filter(|(kind, _)| **kind != Kind::Device);
                        rows = kinds
                            .map(|(kind, spent)| {
                                #[expect(clippy::cast_precision_loss, reason = "a number of faults")]
                                let count = spent.count as f64;
                                row(&format!("faults of a page: {}", kind.name()), "", each(count))
                            })
                            .collect();
                    }
                    rounds.add(round, name, rows);
                }
            }
        }
    }
    eprint!("{}", report::table(&rounds.figures(ROUNDS)));
    Ok(())
}
