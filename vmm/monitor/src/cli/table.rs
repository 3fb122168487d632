//! Formats the durations of the steps of an operation, and the numbers of pages, for people.

use std::fmt::Write as _;

use hearth_proto::vmm::v1::{Counter, Step};
use hearth_vmm::memory::MIB;
use hearth_vmm::snapshot::PAGE;

/// Formats a line per step, their sum, and a line per kind of page. There is no newline at the end.
pub(super) fn table(steps: &[Step], pages: &[Counter]) -> String {
    let mut text = String::new();
    let total = steps.iter().map(|step| step.nanoseconds).fold(0, u64::saturating_add);
    let times = steps.iter().map(|step| (step.name.as_str(), step.nanoseconds));
    for (name, time) in times.chain([("total", total)]) {
        let micros = time / 1000;
        let _ = writeln!(text, "  {name:<24}{:>9}.{:03} ms", micros / 1000, micros % 1000);
    }
    for page in pages {
        let tenths = page.value.saturating_mul(PAGE * 10) / MIB;
        let name = page.name.replace('_', " ");
        let _ = writeln!(text, "  {name:<18}{:>12} pages{:>6}.{} MiB", page.value, tenths / 10, tenths % 10);
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_added_up_and_pages_have_a_size() {
        let step = |name: &str, nanoseconds| Step { name: name.into(), nanoseconds };
        let pages = [Counter { name: "working_set".into(), value: 384 }];
        let text = table(&[step("pause", 1_234_567), step("memory", 20_000_000)], &pages);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "  pause                           1.234 ms");
        assert_eq!(lines[2], "  total                          21.234 ms");
        assert_eq!(lines[3], "  working set                384 pages     1.5 MiB");
    }
}
