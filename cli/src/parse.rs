//! Parses values of options.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Parses a duration: `90`, `90s`, `15m`, `2h` or `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write 90s, 15m, 2h or 1d");
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => (text.get(..at).unwrap_or_default(), unit),
        _ => (text, 's'),
    };
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// Parses a duration in whole seconds, for requests.
pub(crate) fn seconds(text: &str) -> Result<i32, String> {
    let duration = duration(text)?;
    i32::try_from(duration.as_secs()).map_err(|_| format!("{text:?} is too long"))
}

/// Parses a time: RFC 3339, or an age.
pub(crate) fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(duration) = duration(text) {
        return SystemTime::now().checked_sub(duration).ok_or_else(|| format!("{text:?} is too long ago"));
    }
    OffsetDateTime::parse(text, &Rfc3339).map(SystemTime::from).map_err(|_| {
        format!("{text:?} is no moment: write 15m for fifteen minutes ago, or 2026-01-31T12:00:00Z")
    })
}

/// Parses `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        // The text is not repeated in the message, because values may be secret.
        _ => Err("it is not NAME=VALUE".to_owned()),
    }
}

/// Parses the lines `NAME=VALUE` of a file; empty ones and those that begin with `#` are skipped.
pub(crate) fn env_file(text: &str) -> Result<Vec<(String, String)>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with('#')
    });
    lines.map(|(number, line)| pair(line).map_err(|why| format!("line {}: {why}", number + 1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_seconds_need_none() {
        let seconds = |text: &str| duration(text).map(|duration| duration.as_secs());
        assert_eq!(
            [seconds("90"), seconds("15m"), seconds("2h"), seconds("1d")],
            [Ok(90), Ok(900), Ok(7200), Ok(86_400)]
        );
        for wrong in ["", "m", "1w", "-1s", "1.5h", "99999999999999999999d", "ä"] {
            assert!(duration(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn moments_are_ages_or_times() {
        let ago = moment("1h").unwrap();
        assert!(ago.elapsed().unwrap() >= Duration::from_secs(3600));
        let time = moment("1970-01-01T01:00:00+00:30").unwrap();
        assert_eq!(time.duration_since(SystemTime::UNIX_EPOCH).unwrap(), Duration::from_secs(1800));
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn a_file_of_variables_has_comments_and_its_errors_have_lines_but_not_values() {
        let parsed = env_file("# of the app\nA=1\n\n  # more\nB=x=y z\n").unwrap();
        assert_eq!(parsed, [("A".into(), "1".into()), ("B".into(), "x=y z".into())]);
        assert_eq!(env_file("A=1\nsecret\n").unwrap_err(), "line 2: it is not NAME=VALUE");
    }
}
