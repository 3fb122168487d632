//! The line that tells how far packing and uploading are.

use std::collections::VecDeque;
use std::time::Duration;

use hearth_artifact::Progress;

use crate::out::bytes;

/// Interval at which the line is updated.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Width of the bar in characters.
const WIDTH: usize = 24;
/// Time over which the rate is measured.
const WINDOW: Duration = Duration::from_secs(5);
/// Time after which a rate, and from it the time that is left, is said.
const SETTLED: Duration = Duration::from_secs(1);

/// An upload's bar, with its rate and the time that is left.
#[derive(Debug)]
pub(super) struct Bar {
    total: u64,
    /// Times since the begin, and the bytes that had been sent then.
    samples: VecDeque<(Duration, u64)>,
}

impl Bar {
    pub(super) fn new(total: u64) -> Self {
        Self { total, samples: VecDeque::from([(Duration::ZERO, 0)]) }
    }

    /// The line at a time since the begin.
    pub(super) fn at(&mut self, now: Duration, sent: u64) -> String {
        self.samples.push_back((now, sent));
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            self.samples.pop_front();
        }
        let of = format!("{} of {}", size(sent), size(self.total));
        let rate = self.rate().filter(|_| now >= SETTLED);
        let pace = rate.map(|rate| {
            let left = self.total.saturating_sub(sent).checked_div(rate).map(left);
            let left = left.unwrap_or_else(|| "stalled".to_owned());
            format!(", {}/s, {left}", size(rate))
        });
        format!("uploading [{:<WIDTH$}] {of}{}", filled(sent, self.total), pace.unwrap_or_default())
    }

    /// The line that stays when everything was sent.
    pub(super) fn end(&self, took: Duration) -> String {
        let rate = u64::try_from(u128::from(self.total) * 1000 / took.as_millis().max(1)).unwrap_or(u64::MAX);
        format!("uploaded {} in {:.1} s ({}/s)", size(self.total), took.as_secs_f64(), size(rate))
    }

    /// Bytes per second of the last seconds.
    fn rate(&self) -> Option<u64> {
        let ((from, before), (to, after)) = (self.samples.front()?, self.samples.back()?);
        let millis = to.saturating_sub(*from).as_millis();
        let bytes = u128::from(after.saturating_sub(*before));
        u64::try_from((bytes * 1000).checked_div(millis)?).ok()
    }
}

/// The line while a folder is packed.
pub(super) fn packing(progress: Progress) -> String {
    match progress {
        Progress::Listing { entries } => format!("looking at the folder: {entries} files"),
        Progress::Packing { bytes, total } => {
            format!("packing   [{:<WIDTH$}] {} of {}", filled(bytes, total), size(bytes), size(total))
        }
    }
}

fn filled(done: u64, total: u64) -> String {
    let filled = u128::from(done) * WIDTH as u128 / u128::from(total.max(1));
    "=".repeat(usize::try_from(filled).unwrap_or(WIDTH).min(WIDTH))
}

fn size(count: u64) -> String {
    bytes(i64::try_from(count).unwrap_or(i64::MAX))
}

fn left(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s left"),
        120..7200 => format!("{} min left", seconds / 60),
        _ => format!("{} h left", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_bar_is_full_at_the_end_and_nothing_is_no_failure() {
        let bar = |sent, total| Bar::new(total).at(Duration::ZERO, sent);
        let half = "=".repeat(12) + &" ".repeat(12);
        assert_eq!(bar(512, 1024), format!("uploading [{half}] 512 B of 1.0 KiB"));
        assert_eq!(bar(1024, 1024), format!("uploading [{}] 1.0 KiB of 1.0 KiB", "=".repeat(24)));
        assert_eq!(bar(0, 0), format!("uploading [{}] 0 B of 0 B", " ".repeat(24)));
        let line = packing(Progress::Packing { bytes: 512, total: 1024 });
        assert_eq!(line, format!("packing   [{half}] 512 B of 1.0 KiB"));
    }

    #[test]
    fn rate_and_time_left_are_those_of_the_last_seconds() {
        let mut bar = Bar::new(1000 * MIB);
        let second = Duration::from_secs;
        let pace = |line: String| line.split_once(" MiB, ").map(|(_, pace)| pace.to_owned());
        assert_eq!(pace(bar.at(Duration::from_millis(500), 5 * MIB)), None);
        assert_eq!(pace(bar.at(second(2), 20 * MIB)).as_deref(), Some("10.0 MiB/s, 98 s left"));
        for (at, sent) in [(10, 100), (12, 102), (15, 105)] {
            bar.at(second(at), sent * MIB);
        }
        assert_eq!(pace(bar.at(second(16), 106 * MIB)).as_deref(), Some("1.0 MiB/s, 14 min left"));
        for at in 17..30 {
            bar.at(second(at), 106 * MIB);
        }
        assert_eq!(pace(bar.at(second(30), 106 * MIB)).as_deref(), Some("0 B/s, stalled"));
        assert_eq!(bar.end(second(40)), "uploaded 1000.0 MiB in 40.0 s (25.0 MiB/s)");
    }
}
