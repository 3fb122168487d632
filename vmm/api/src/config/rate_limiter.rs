//! Limits of devices, as an operator configures them.

use hearth_proto::vmm::v1 as proto;

use super::ConfigError;

/// The longest refill interval, in milliseconds: one day. It keeps all arithmetic within 128 bits.
pub const MAX_REFILL_MS: u64 = 24 * 60 * 60 * 1000;

/// One token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketConfig {
    /// Tokens (bytes or operations) that the bucket holds and regains per refill interval; at least 1.
    pub size: u64,
    /// Additional tokens that are available once, from the start, and are never refilled.
    pub one_time_burst: u64,
    /// Refill interval: milliseconds in which an empty bucket fills up; 1 to [`MAX_REFILL_MS`].
    pub refill_ms: u64,
}

/// Limits of a device. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimiterConfig {
    /// Limit on the bytes that are transferred.
    pub bytes: Option<BucketConfig>,
    /// Limit on the number of requests or packets.
    pub ops: Option<BucketConfig>,
}

/// Limits of a machine's devices: the same for each disk, and for each network card. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceLimits {
    /// Limits of each disk.
    pub disk: Option<RateLimiterConfig>,
    /// Limits of each network card for received packets.
    pub receive: Option<RateLimiterConfig>,
    /// Limits of each network card for sent packets.
    pub transmit: Option<RateLimiterConfig>,
    /// Storage in bytes that the file of each disk's writes may take. A write that needs more waits.
    pub room: Option<u64>,
}

impl RateLimiterConfig {
    /// Returns the limits in the form of the control protocol.
    #[must_use]
    pub fn message(self) -> proto::RateLimiter {
        let bucket = |bucket: BucketConfig| proto::TokenBucket {
            size: bucket.size,
            one_time_burst: bucket.one_time_burst,
            refill_ms: bucket.refill_ms,
        };
        proto::RateLimiter { bytes: self.bytes.map(bucket), operations: self.ops.map(bucket) }
    }

    /// Parses the form of the control protocol.
    ///
    /// # Errors
    /// [`ConfigError::Message`] for a bucket that lets nothing through, or refills too slowly.
    pub fn from_message(message: proto::RateLimiter) -> Result<Self, ConfigError> {
        let bucket = |bucket: proto::TokenBucket| {
            if bucket.size == 0 || bucket.refill_ms == 0 {
                let message =
                    "a rate limiter's size and refill time must not be 0: leave the bucket out for no limit";
                return Err(ConfigError::Message(message.into()));
            }
            if bucket.refill_ms > MAX_REFILL_MS {
                let refill = bucket.refill_ms;
                let message = format!("a rate limiter refills within {MAX_REFILL_MS} ms, not {refill} ms");
                return Err(ConfigError::Message(message));
            }
            Ok(BucketConfig {
                size: bucket.size,
                one_time_burst: bucket.one_time_burst,
                refill_ms: bucket.refill_ms,
            })
        };
        Ok(Self {
            bytes: message.bytes.map(bucket).transpose()?,
            ops: message.operations.map(bucket).transpose()?,
        })
    }
}

impl DeviceLimits {
    /// Returns the limits in the form of the control protocol.
    #[must_use]
    pub fn message(self) -> proto::DeviceLimits {
        let [disk, receive, transmit] =
            [self.disk, self.receive, self.transmit].map(|limits| limits.map(RateLimiterConfig::message));
        proto::DeviceLimits { disk, receive, transmit, room_bytes: self.room }
    }

    /// Parses the form of the control protocol.
    ///
    /// # Errors
    /// [`ConfigError::Message`] for limits that make no sense.
    pub fn from_message(message: proto::DeviceLimits) -> Result<Self, ConfigError> {
        let limits = |message: Option<_>| message.map(RateLimiterConfig::from_message).transpose();
        Ok(Self {
            disk: limits(message.disk)?,
            receive: limits(message.receive)?,
            transmit: limits(message.transmit)?,
            room: message.room_bytes,
        })
    }

    /// Replaces the limits in the description of a machine.
    pub fn describe(self, machine: &mut proto::Create) {
        let proto::DeviceLimits { disk, receive, transmit, room_bytes } = self.message();
        for described in &mut machine.disks {
            (described.rate_limiter, described.room_bytes) = (disk, room_bytes);
        }
        for described in &mut machine.nets {
            (described.receive_limiter, described.transmit_limiter) = (receive, transmit);
        }
    }
}
