//! How much a microVM may read, write, receive and send: rate limits by memory class, in the operator's words.
//!
//! The limits are for neighbours, not for apps: the defaults let a microVM of the default class have about a tenth of
//! one NVMe disk and a gigabit per second for any time, and a multiple of that for seconds. A monitor enforces them
//! (`vmm/monitor/src/rate_limiter.rs`); a snapshot does not carry them from host to host.

use hearth_vmm_api::config::rate_limiter::{BucketConfig, DeviceLimits, MAX_REFILL_MS, RateLimiterConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;
/// The memory class in MiB that the configuration's numbers are for.
const UNIT_MIB: u64 = 1024;
/// Milliseconds in a second.
const SECOND_MS: u64 = 1000;
/// Largest ratio of a burst to its rate, in seconds: an empty bucket is full again after that time.
const MAX_REFILL_SECONDS: u64 = MAX_REFILL_MS / SECOND_MS;

/// Rate limits of microVMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Limits of disks.
    pub disk: DiskLimits,
    /// Limits of network cards.
    pub network: NetworkLimits,
}

/// How much a microVM may read from and write to its disk, for each GiB of its memory class. A microVM that does more
/// waits; nothing fails. The limits that are here when a microVM is launched, resumed or adopted are its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiskLimits {
    /// Bytes in a second, reads and writes together; 0 is no limit.
    pub bytes_per_second: u64,
    /// Bytes at once after a time with fewer; at least those of a second, at most those of a day.
    pub burst_bytes: u64,
    /// Requests in a second, reads, writes, flushes and discards together; 0 is no limit.
    pub operations_per_second: u64,
    /// Requests at once after a time with fewer; at least those of a second, at most those of a day.
    pub burst_operations: u64,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self {
            bytes_per_second: 128 * MIB,
            burst_bytes: 1024 * MIB,
            operations_per_second: 8000,
            burst_operations: 64_000,
        }
    }
}

/// How much a microVM may receive and send over its network card, for each GiB of its memory class, in each direction.
/// Requests to its endpoint do not go through the card. What exceeds the limits waits, and fills queues in which the
/// sender's TCP notices it. The limits that are here when a microVM is launched, resumed or adopted are its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkLimits {
    /// Bytes in a second; 0 is no limit.
    pub bytes_per_second: u64,
    /// Bytes at once after a time with fewer; at least those of a second, at most those of a day.
    pub burst_bytes: u64,
    /// Packets in a second; 0 is no limit. Packets of TCP have up to 64 KiB here.
    pub packets_per_second: u64,
    /// Packets at once after a time with fewer; at least those of a second, at most those of a day.
    pub burst_packets: u64,
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            bytes_per_second: 64 * MIB,
            burst_bytes: 256 * MIB,
            packets_per_second: 50_000,
            burst_packets: 200_000,
        }
    }
}

/// A limit that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an empty bucket of {burst} is full only after more than a day at {rate} in a second: give at most {} times the rate",
    MAX_REFILL_SECONDS
)]
pub struct BurstTooLarge {
    /// Key of the burst, like `disk.burst_bytes`.
    pub key: &'static str,
    /// The burst.
    pub burst: u64,
    /// The rate.
    pub rate: u64,
}

/// A rate with its burst.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    /// The bucket of a microVM with this memory class; none if the rate has no limit.
    fn bucket(self, class_mib: u64) -> Option<BucketConfig> {
        if self.per_second == 0 {
            return None;
        }
        let scaled = |value: u64| {
            let scaled = u128::from(value) * u128::from(class_mib) / u128::from(UNIT_MIB);
            u64::try_from(scaled).unwrap_or(u64::MAX).max(1)
        };
        let (rate, burst) = (scaled(self.per_second), scaled(self.burst.max(self.per_second)));
        // The interval is rounded up to milliseconds, and the size follows from it, so that the rate is exact.
        let refill = (u128::from(burst) * u128::from(SECOND_MS)).div_ceil(u128::from(rate));
        let refill_ms = u64::try_from(refill).unwrap_or(MAX_REFILL_MS).clamp(SECOND_MS, MAX_REFILL_MS);
        let size = u128::from(rate) * u128::from(refill_ms) / u128::from(SECOND_MS);
        Some(BucketConfig { size: u64::try_from(size).unwrap_or(u64::MAX), one_time_burst: 0, refill_ms })
    }
}

/// The limits of bytes and of operations together; none if neither limits anything.
fn limiter(bytes: Rate, operations: Rate, class_mib: u64) -> Option<RateLimiterConfig> {
    let limits = RateLimiterConfig { bytes: bytes.bucket(class_mib), ops: operations.bucket(class_mib) };
    (limits != RateLimiterConfig::default()).then_some(limits)
}

impl DiskLimits {
    fn rates(self) -> [Rate; 2] {
        [
            Rate { per_second: self.bytes_per_second, burst: self.burst_bytes },
            Rate { per_second: self.operations_per_second, burst: self.burst_operations },
        ]
    }
}

impl NetworkLimits {
    fn rates(self) -> [Rate; 2] {
        [
            Rate { per_second: self.bytes_per_second, burst: self.burst_bytes },
            Rate { per_second: self.packets_per_second, burst: self.burst_packets },
        ]
    }
}

impl LimitsConfig {
    /// Without any limit.
    pub const NONE: Self = Self {
        disk: DiskLimits {
            bytes_per_second: 0,
            burst_bytes: 0,
            operations_per_second: 0,
            burst_operations: 0,
        },
        network: NetworkLimits {
            bytes_per_second: 0,
            burst_bytes: 0,
            packets_per_second: 0,
            burst_packets: 0,
        },
    };

    /// Checks the limits.
    ///
    /// # Errors
    /// The first burst that takes too long to come back.
    pub fn check(&self) -> Result<(), BurstTooLarge> {
        let ([bytes, operations], [sent, packets]) = (self.disk.rates(), self.network.rates());
        let all = [
            ("disk.burst_bytes", bytes),
            ("disk.burst_operations", operations),
            ("network.burst_bytes", sent),
            ("network.burst_packets", packets),
        ];
        for (key, Rate { per_second: rate, burst }) in all {
            if rate != 0 && burst > rate.saturating_mul(MAX_REFILL_SECONDS) {
                return Err(BurstTooLarge { key, burst, rate });
            }
        }
        Ok(())
    }

    /// The limits of a microVM with this memory class, in MiB.
    #[must_use]
    pub fn of(&self, class_mib: u64) -> DeviceLimits {
        let [bytes, operations] = self.disk.rates();
        let [sent, packets] = self.network.rates();
        let card = limiter(sent, packets, class_mib);
        DeviceLimits {
            disk: limiter(bytes, operations, class_mib),
            receive: card,
            transmit: card,
            room: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_model::shape::MemoryClass;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn limits_are_as_the_memory_class() {
        let config = LimitsConfig::default();
        config.check().unwrap();
        let bytes = MemoryClass::SIZES.map(|mib| {
            let limits = config.of(mib.into());
            let (disk, card) = (limits.disk.unwrap(), limits.receive.unwrap());
            assert_eq!(limits.transmit, limits.receive);
            let rate = |bucket: Option<BucketConfig>| {
                let BucketConfig { size, one_time_burst: 0, refill_ms } = bucket.unwrap() else { panic!() };
                size * 1000 / refill_ms
            };
            [rate(disk.bytes), rate(disk.ops), rate(card.bytes), rate(card.ops)]
        });
        let unit = [128 * MIB, 8000, 64 * MIB, 50_000];
        assert_eq!(bytes, [1, 2, 4, 8, 16].map(|half_gib| unit.map(|per_gib| per_gib * half_gib / 2)));
        let disk = config.of(2048).disk.unwrap().bytes.unwrap();
        assert_eq!((disk.size, disk.refill_ms), (2048 * MIB, 8000), "the burst comes back in eight seconds");
    }

    #[test]
    fn nothing_is_limited_where_rates_are_zero() {
        assert_eq!(LimitsConfig::NONE.of(512), DeviceLimits::default());
        let disk = DiskLimits { operations_per_second: 0, ..DiskLimits::default() };
        let limits = LimitsConfig { disk, ..LimitsConfig::NONE }.of(512);
        assert!(limits.disk.unwrap().bytes.is_some() && limits.disk.unwrap().ops.is_none());
        assert_eq!((limits.receive, limits.transmit), (None, None));
    }

    #[test]
    fn a_burst_that_takes_more_than_a_day_is_refused_by_its_key() {
        let network =
            NetworkLimits { packets_per_second: 1, burst_packets: 100_000, ..NetworkLimits::default() };
        let config = LimitsConfig { network, ..LimitsConfig::default() };
        let error = config.check().unwrap_err();
        assert_eq!(error.key, "network.burst_packets");
        assert!(error.to_string().contains("at most 86400 times"), "{error}");
    }

    proptest! {
        /// Whatever passes the check makes a bucket that a monitor accepts and that refills at the rate.
        #[test]
        fn every_limit_makes_a_bucket_with_its_rate(
            per_second in 1..1_u64 << 40, burst in 0..1_u64 << 50, class_mib in 1..1_u64 << 16,
        ) {
            let bucket = Rate { per_second, burst }.bucket(class_mib).unwrap();
            prop_assert!((1000..=MAX_REFILL_MS).contains(&bucket.refill_ms) && bucket.size >= 1);
            let rate = (u128::from(per_second) * u128::from(class_mib) / 1024).max(1);
            let refilled = rate * u128::from(bucket.refill_ms) / 1000;
            prop_assert_eq!(u128::from(bucket.size), refilled);
        }
    }
}
