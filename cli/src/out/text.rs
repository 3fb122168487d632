//! Formats times, sizes and foreign text for people.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

/// The age of a time: `5s`, `3m`, `2h`, `4d`; empty if it is unknown.
pub(crate) fn age(moment: Option<&Timestamp>) -> String {
    let Some(moment) = moment.and_then(|moment| SystemTime::try_from(*moment).ok()) else {
        return String::new();
    };
    short(SystemTime::now().duration_since(moment).unwrap_or_default())
}

fn short(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A time with its age.
pub(crate) fn moment(moment: Option<&Timestamp>) -> String {
    moment.map(|at| format!("{} ({} ago)", rfc3339(at), age(Some(at)))).unwrap_or_default()
}

/// A time, to the second.
fn rfc3339(moment: &Timestamp) -> String {
    Timestamp { nanos: 0, ..*moment }.to_string()
}

/// A size with a binary unit.
pub(crate) fn bytes(count: i64) -> String {
    let mut count = u64::try_from(count).unwrap_or(0);
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = 0;
    let mut name = "";
    for unit in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        tenths = count % 1024 * 10 / 1024;
        count /= 1024;
        name = unit;
        if count < 1024 {
            break;
        }
    }
    format!("{count}.{tenths} {name}")
}

/// Text without control characters, which could move the cursor: it comes from guests and from other people.
pub(crate) fn printable(text: &str) -> String {
    let replace = |character: char| {
        if character.is_control() && character != '\t' { '\u{fffd}' } else { character }
    };
    text.chars().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_have_the_unit_that_fits() {
        let texts =
            [0, 119, 120, 7199, 7200, 172_799, 172_800].map(|seconds| short(Duration::from_secs(seconds)));
        assert_eq!(texts, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
        let texts = [-1, 1023, 1024, 1536, 5 << 20, i64::MAX].map(bytes);
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "7.9 EiB"]);
    }
}
