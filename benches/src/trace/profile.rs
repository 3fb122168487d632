//! Counts and times of a step's events.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::fault::Kind;
use super::line::{Event, EventKind};

/// A count and a total time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Number of events.
    pub count: u64,
    /// Total time in microseconds.
    pub microseconds: u64,
}

impl Spent {
    fn add(&mut self, microseconds: u64) {
        self.count += 1;
        self.microseconds += microseconds;
    }
}

/// Activity of guests between two marks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// Time from the first to the last event, in microseconds.
    pub microseconds: u64,
    /// Time from the first event to the guest's first instruction, in microseconds, if it has run.
    pub first_entry: Option<u64>,
    /// Total time in which guests ran, in microseconds.
    pub running: u64,
    /// Exits by reason, with the time until the guest ran again.
    pub exits: BTreeMap<String, Spent>,
    /// The exits that were faults, by kind.
    pub faults: BTreeMap<Kind, Spent>,
    /// Pages of memory, of 4 KiB, with faults.
    pages: BTreeSet<u64>,
    /// The pages among them with a fault by a write.
    written: BTreeSet<u64>,
}

/// One figure of a profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Name of the figure.
    pub name: String,
    /// Unit of the value.
    pub unit: &'static str,
    /// The value.
    pub value: f64,
}

/// State of a thread.
#[derive(Default)]
struct Thread {
    entered: Option<u64>,
    left: Option<(u64, String)>,
    fault: Option<Kind>,
}

/// Address bits within a page; then those within the two kinds of larger blocks that are counted as well.
const PAGE_BITS: u32 = 12;
const LARGE_PAGE_BITS: u32 = 14;
const BLOCK_BITS: u32 = 21;

impl Profile {
    /// The profile of events, in the order in which they happened, of any number of threads.
    #[must_use]
    pub fn of(events: &[Event]) -> Self {
        let mut profile = Self::default();
        let mut threads: HashMap<u32, Thread> = HashMap::new();
        let start = events.first().map_or(0, |event| event.microseconds);
        for Event { thread, microseconds: now, what } in events {
            let thread = threads.entry(*thread).or_default();
            // The clocks of processors may differ a little.
            let since = |then: u64| now.saturating_sub(then);
            profile.microseconds = profile.microseconds.max(since(start));
            match what {
                EventKind::Entry => {
                    profile.first_entry.get_or_insert(since(start));
                    if let Some((left, reason)) = thread.left.take() {
                        profile.exits.entry(reason).or_default().add(since(left));
                        if let Some(kind) = thread.fault.take() {
                            profile.faults.entry(kind).or_default().add(since(left));
                        }
                    }
                    thread.entered = Some(*now);
                }
                EventKind::Exit(reason) => {
                    if let Some(entered) = thread.entered.take() {
                        profile.running += since(entered);
                    }
                    thread.left = Some((*now, reason.clone()));
                    thread.fault = None;
                }
                EventKind::Fault(kind, ipa) => {
                    thread.fault = Some(*kind);
                    if *kind != Kind::Device {
                        profile.pages.insert(ipa >> PAGE_BITS);
                    }
                    if matches!(kind, Kind::Write | Kind::WriteToMapped) {
                        profile.written.insert(ipa >> PAGE_BITS);
                    }
                }
                EventKind::Mark(_) => {}
            }
        }
        // Exits after which the guest did not run again.
        for thread in threads.into_values() {
            if let Some((_, reason)) = thread.left {
                profile.exits.entry(reason).or_default().count += 1;
            }
            if let Some(kind) = thread.fault {
                profile.faults.entry(kind).or_default().count += 1;
            }
        }
        profile
    }

    /// Faults of all kinds on memory.
    #[must_use]
    pub fn memory_faults(&self) -> Spent {
        let memory = self.faults.iter().filter(|(kind, _)| **kind != Kind::Device);
        memory.fold(Spent::default(), |sum, (_, spent)| Spent {
            count: sum.count + spent.count,
            microseconds: sum.microseconds + spent.microseconds,
        })
    }

    /// All figures; the rows are always the same except for the reasons of exits.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |name: &str, unit: &'static str, value: f64| {
            rows.push(Row { name: name.to_owned(), unit, value });
        };
        row("time", "ms", milliseconds(self.microseconds));
        row(
            "time: to the first instruction",
            "ms",
            milliseconds(self.first_entry.unwrap_or(self.microseconds)),
        );
        row("time: the guest runs", "ms", milliseconds(self.running));
        let faults = self.memory_faults();
        row("time: faults", "ms", milliseconds(faults.microseconds));
        let mut exits = Spent::default();
        for (reason, spent) in &self.exits {
            exits.count += spent.count;
            if !EventKind::is_wait(reason) {
                exits.microseconds += spent.microseconds;
            }
        }
        let others = exits.microseconds.saturating_sub(faults.microseconds);
        row("time: other exits, waiting aside", "ms", milliseconds(others));
        row("exits", "", number(exits.count));
        for (reason, spent) in &self.exits {
            row(&format!("exits: {reason}"), "", number(spent.count));
        }
        row("faults", "", number(faults.count));
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Device) {
            let spent = self.faults.get(&kind).copied().unwrap_or_default();
            row(&format!("faults: {}", kind.name()), "", number(spent.count));
        }
        #[expect(clippy::cast_precision_loss, reason = "microseconds and counts of a bench")]
        let each = faults.microseconds as f64 / faults.count.max(1) as f64;
        row("faults: time of each", "µs", each);
        row("pages of 4 KiB", "", number(count(&self.pages, PAGE_BITS)));
        row("pages of 16 KiB", "", number(count(&self.pages, LARGE_PAGE_BITS)));
        row("blocks of 2 MiB", "", number(count(&self.pages, BLOCK_BITS)));
        row("blocks of 2 MiB: with a write", "", number(count(&self.written, BLOCK_BITS)));
        rows
    }
}

/// Number of different blocks of 2^`bits` bytes that contain these pages.
fn count(pages: &BTreeSet<u64>, bits: u32) -> u64 {
    let blocks: BTreeSet<u64> = pages.iter().map(|page| page >> (bits - PAGE_BITS)).collect();
    u64::try_from(blocks.len()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
fn number(count: u64) -> f64 {
    count as f64
}

fn milliseconds(microseconds: u64) -> f64 {
    number(microseconds) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(thread: u32, microseconds: u64, what: EventKind) -> Event {
        Event { thread, microseconds, what }
    }

    fn exit(reason: &str) -> EventKind {
        EventKind::Exit(reason.into())
    }

    fn row(profile: &Profile, name: &str) -> f64 {
        let rows = profile.rows();
        rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no {name} in {rows:?}")).value
    }

    #[test]
    fn time_belongs_to_the_guest_to_faults_to_other_exits_or_to_nobody() {
        let profile = Profile::of(&[
            event(9, 100, EventKind::Mark("hearth: begin".into())),
            event(1, 1_100, EventKind::Entry),
            event(1, 1_200, exit("DABT_LOW")),
            event(1, 1_203, EventKind::Fault(Kind::Read, 0x8000_0000)),
            event(1, 1_208, EventKind::Entry),
            event(1, 1_300, exit("IABT_LOW")),
            event(1, 1_303, EventKind::Fault(Kind::Fetch, 0x8000_3000)),
            event(1, 1_312, EventKind::Entry),
            event(1, 1_400, exit("DABT_LOW")),
            event(1, 1_401, EventKind::Fault(Kind::Device, 0x0a00_0000)),
            event(1, 1_500, EventKind::Entry),
            event(1, 1_600, exit("WFx")),
            event(1, 9_600, EventKind::Entry),
            event(1, 9_700, exit("IRQ")),
            event(1, 9_701, EventKind::Entry),
            event(9, 10_100, EventKind::Mark("hearth: end".into())),
        ]);
        for (name, value) in [
            ("time", 10.0),
            ("time: to the first instruction", 1.0),
            ("time: the guest runs", 0.48),
            ("time: faults", 0.02),
            ("time: other exits, waiting aside", 0.101),
            ("exits", 5.0),
            ("exits: DABT_LOW", 2.0),
            ("exits: WFx", 1.0),
            ("faults", 2.0),
            ("faults: fetch", 1.0),
            ("faults: write", 0.0),
            ("faults: time of each", 10.0),
            ("pages of 4 KiB", 2.0),
            ("pages of 16 KiB", 1.0),
            ("blocks of 2 MiB", 1.0),
            ("blocks of 2 MiB: with a write", 0.0),
        ] {
            assert!((row(&profile, name) - value).abs() < 1e-9, "{name}: {}", row(&profile, name));
        }
    }

    #[test]
    fn a_page_counts_once_however_often_it_faults() {
        let fault = |kind, ipa| {
            [
                event(1, 0, exit("DABT_LOW")),
                event(1, 1, EventKind::Fault(kind, ipa)),
                event(1, 2, EventKind::Entry),
            ]
        };
        let events = [
            fault(Kind::Read, 0x8000_0000),
            fault(Kind::WriteToMapped, 0x8000_0fff),
            fault(Kind::Write, 0x8020_0000),
            fault(Kind::Read, 0x8040_0000),
        ];
        let profile = Profile::of(&events.concat());
        assert!((row(&profile, "faults") - 4.0).abs() < 1e-9);
        assert!((row(&profile, "pages of 4 KiB") - 3.0).abs() < 1e-9);
        assert!((row(&profile, "blocks of 2 MiB") - 3.0).abs() < 1e-9);
        assert!((row(&profile, "blocks of 2 MiB: with a write") - 2.0).abs() < 1e-9);
    }

    #[test]
    fn threads_do_not_mix_and_halves_do_no_harm() {
        let profile = Profile::of(&[
            event(2, 7, EventKind::Fault(Kind::Write, u64::MAX)),
            event(1, 10, exit("IRQ")),
            event(2, 11, EventKind::Entry),
            event(1, 5, EventKind::Entry),
            event(2, 30, exit("HVC64")),
            event(1, 31, exit("WFx")),
            event(1, 32, exit("WFx")),
        ]);
        assert_eq!(profile.running, 19 + 26);
        assert_eq!(profile.exits["IRQ"], Spent { count: 1, microseconds: 0 });
        assert_eq!(profile.exits["HVC64"], Spent { count: 1, microseconds: 0 });
        assert_eq!(profile.exits["WFx"].count, 1);
        assert_eq!(Profile::of(&[]).memory_faults(), Spent::default());
    }
}
