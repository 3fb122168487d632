//! Rate limits of a device, as an operator configures them.

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
