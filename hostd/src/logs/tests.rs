//! Tests of logs through their public interface.

use std::time::UNIX_EPOCH;

use super::*;

const ACCOUNT: &str = "000000000001";
const GROUP: &str = "/aws/lambda-microvms/web";

/// Logs in a folder of their own, with a clock that stands still.
struct Home {
    folder: tempfile::TempDir,
    clock: Clock,
}

impl Home {
    fn new() -> Self {
        let start = UNIX_EPOCH + std::time::Duration::from_secs(1_786_000_000);
        Self { folder: tempfile::tempdir().unwrap(), clock: Clock::simulated(start) }
    }

    fn open(&self) -> Logs {
        self.with(LogsConfig { segment_bytes: 512 << 10, ..LogsConfig::default() })
    }

    fn with(&self, config: LogsConfig) -> Logs {
        Logs::open(self.folder.path(), config, self.clock).unwrap()
    }

    /// The segments of a stream.
    fn segments(&self, stream: &str) -> Vec<PathBuf> {
        let folder = ACCOUNT_FOLDER.iter().fold(self.folder.path().to_owned(), |path, part| path.join(part));
        let folder = folder.join(names::file_name(stream).unwrap());
        segment::list(&folder).unwrap().iter().map(|segment| segment.path(&folder)).collect()
    }
}

const ACCOUNT_FOLDER: [&str; 2] = [ACCOUNT, "%2faws%2flambda-microvms%2fweb"];

fn line(sequence: u64, message: &str, at: std::time::SystemTime) -> Line<'_> {
    Line { timestamp: at, source: Source::Stdout, sequence, message: message.as_bytes() }
}

mod keeping;
mod reading;
mod writing;
