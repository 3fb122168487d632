//! Options of RocksDB.

use rocksdb::statistics::StatsLevel;
use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel, Options};

/// Options for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// Cache of uncompressed blocks, in bytes. The page cache holds the compressed ones.
    pub cache_bytes: usize,
    /// Changes that are not in tables yet, in bytes, over all tables.
    pub write_buffer_bytes: usize,
    /// From this size in bytes on, the write-ahead log is moved into tables. It is read at each start.
    pub log_bytes: u64,
    /// Whether everything is compared with its checksums when the store is opened, which reads all of it.
    pub verify: bool,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, write_buffer_bytes: 64 << 20, log_bytes: 64 << 20, verify: true }
    }
}

/// Bits for each key in the Bloom filters that tell which files need not be read: 1 % of the misses read a file
/// nonetheless.
const FILTER_BITS: f64 = 10.0;
/// A file is compacted if half of this many neighbouring entries are removed: `expiries` is deleted from its front.
const REMOVED_AMONG: usize = 4096;

/// Options of the database.
pub(super) fn database(of: &RocksOptions) -> Options {
    let mut options = Options::default();
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    // The last group may be incomplete after a crash. Everything before it was synced, so anything unreadable there
    // is damage. RocksDB's default would skip it together with all that follows.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(of.log_bytes);
    options.set_db_write_buffer_size(of.write_buffer_bytes);
    options.set_max_background_jobs(2);
    // Tables are synced while they are written, so that commits do not wait for one large fsync.
    options.set_bytes_per_sync(1 << 20);
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptDetailedTimers);
    options.set_stats_dump_period_sec(0);
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, |level, message| match level {
        LogLevel::Warn => tracing::warn!(target: "rocksdb", "{message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "rocksdb", "{message}"),
        // At each start RocksDB logs its whole configuration at these levels.
        LogLevel::Header | LogLevel::Info | LogLevel::Debug => {}
    }));
    options
}

/// Options of each table.
pub(super) fn table(of: &RocksOptions) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(of.cache_bytes));
    blocks.set_bloom_filter(FILTER_BITS, false);
    blocks.set_block_size(8 << 10);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(of.write_buffer_bytes / 4);
    options.add_compact_on_deletion_collector_factory(REMOVED_AMONG, REMOVED_AMONG / 2, 0.5);
    options
}
