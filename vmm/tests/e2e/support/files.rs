//! Files for disks.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use hearth_test_guest::pattern;
use hearth_vmm::config::{DiskConfig, DiskSource};

/// Makes a file that holds the first `bytes` bytes of the stream `seed`, open for reading and writing.
pub(crate) fn patterned(path: &Path, seed: u64, bytes: u64) -> File {
    let mut file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
    let mut chunk = vec![0; 1 << 20];
    for start in (0..bytes).step_by(chunk.len()) {
        let length = chunk.len().min(usize::try_from(bytes - start).unwrap());
        pattern::fill(seed, start, &mut chunk[..length]);
        file.write_all(&chunk[..length]).unwrap();
    }
    file
}

/// A disk without limits.
pub(crate) fn disk(source: DiskSource, serial: &str) -> DiskConfig {
    DiskConfig { source, serial: serial.to_string(), rate_limiter: None }
}
