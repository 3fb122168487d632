//! Limits for stored logs.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::MAX_RECORD;

use crate::setting::Problem;

/// How much of the output of microVMs and builds is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// Days after which lines are removed; 0 keeps them until there are too many.
    pub retention_days: u32,
    /// Bytes of all logs of the host; beyond it, the oldest of the account that has most go.
    pub max_bytes: u64,
    /// Bytes of a log group; beyond it, its oldest go.
    pub max_group_bytes: u64,
    /// Bytes of a log stream; beyond it, its oldest go.
    pub max_stream_bytes: u64,
    /// Bytes of a stream that are removed at a time, and searched to find a place in it.
    #[schemars(range(min = 524_288, max = 268_435_456))]
    pub segment_bytes: u64,
    /// Log files that are kept open.
    #[schemars(range(min = 1))]
    pub max_open_files: usize,
    /// Seconds between two looks for what is too old or too much.
    #[schemars(range(min = 1))]
    pub sweep_interval_seconds: u64,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self {
            retention_days: 14,
            max_bytes: 16 << 30,
            max_group_bytes: 1 << 30,
            max_stream_bytes: 256 << 20,
            segment_bytes: 4 << 20,
            max_open_files: 512,
            sweep_interval_seconds: 60,
        }
    }
}

impl LogsConfig {
    /// Checks the values and their combination.
    ///
    /// # Errors
    /// The problem.
    pub fn check(&self) -> Result<(), Problem> {
        let smallest = u64::try_from(2 * MAX_RECORD).unwrap_or(u64::MAX).next_power_of_two() / 2;
        if !(smallest..=256 << 20).contains(&self.segment_bytes) {
            let why = format!("{} is out of range: write {smallest} to {}", self.segment_bytes, 256 << 20);
            return Err(Problem::new("logs.segment_bytes", why));
        }
        for (key, value) in [
            ("logs.max_stream_bytes", self.max_stream_bytes),
            ("logs.max_group_bytes", self.max_group_bytes),
            ("logs.max_bytes", self.max_bytes),
        ] {
            if value < self.segment_bytes {
                return Err(Problem::new(key, "write at least as much as logs.segment_bytes"));
            }
        }
        if self.max_open_files == 0 {
            return Err(Problem::new("logs.max_open_files", "write at least 1"));
        }
        if self.sweep_interval_seconds == 0 {
            return Err(Problem::new("logs.sweep_interval_seconds", "write at least 1"));
        }
        Ok(())
    }

    /// How long lines are kept; `None` for ever.
    pub(super) fn retention(&self) -> Option<Duration> {
        const DAY: u64 = 24 * 60 * 60;
        (self.retention_days > 0).then(|| Duration::from_secs(u64::from(self.retention_days) * DAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_check_and_unknown_keys_are_refused() {
        LogsConfig::default().check().unwrap();
        let given: LogsConfig = toml::from_str("retention_days = 3").unwrap();
        assert_eq!(given, LogsConfig { retention_days: 3, ..LogsConfig::default() });
        assert!(toml::from_str::<LogsConfig>("retention = 3").is_err());
    }

    #[test]
    fn limits_below_a_segment_are_refused() {
        let small = LogsConfig { max_stream_bytes: 1 << 20, ..LogsConfig::default() };
        assert!(small.check().unwrap_err().key == "logs.max_stream_bytes");
        let tiny = LogsConfig { segment_bytes: 1000, ..LogsConfig::default() };
        assert!(tiny.check().unwrap_err().why.contains("524288"));
    }
}
