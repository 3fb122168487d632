//! The work that is done once (downloads and compilations), and what of it remains.

use std::time::Duration;

use anyhow::Result;

use super::Goal;
use crate::cache::Cache;
use crate::command::cores;
use crate::{base, kernel, progress, rocksdb};

/// A piece of work that later runs need not repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// The guest's kernel.
    Kernel,
    /// Base images: Debian roots for builders and containers.
    Bases,
    /// RocksDB's C++.
    RocksDb,
    /// All other compilations.
    Rust,
}

/// A piece's figures, measured on 2 x86-64 cores with an empty cache (CONTRIBUTING.md).
struct Figures {
    what: &'static str,
    /// Duration on two cores, in seconds.
    seconds: u64,
    /// Whether more cores take less time.
    parallel: bool,
    /// Space in MiB that it takes in the cache, during and after the work.
    mib: u64,
}

/// The work that remains before later runs are short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    pieces: Vec<Piece>,
}

impl Piece {
    fn figures(self) -> Figures {
        match self {
            Self::Kernel => {
                Figures { what: "compile the guest's kernel", seconds: 660, parallel: true, mib: 2500 }
            }
            Self::Bases => Figures {
                what: "make base images of Debian's packages",
                seconds: 150,
                // Packages' scripts run one after the other.
                parallel: false,
                mib: 2500,
            },
            Self::RocksDb => Figures {
                what: "compile RocksDB, the daemon's store",
                seconds: 360,
                parallel: true,
                mib: 300,
            },
            Self::Rust => Figures {
                what: "compile Hearth and its dependencies",
                seconds: 480,
                parallel: true,
                mib: 8000,
            },
        }
    }

    fn time(self, cores: usize) -> Duration {
        let figures = self.figures();
        let cores = u64::try_from(cores.max(1)).unwrap_or(1);
        Duration::from_secs(if figures.parallel { figures.seconds * 2 / cores } else { figures.seconds })
    }

    fn is_done(self, cache: &Cache) -> Result<bool> {
        Ok(match self {
            Self::Kernel => kernel::is_built(cache),
            Self::Bases => base::are_there(cache)?,
            Self::RocksDb => rocksdb::is_there(cache)?,
            Self::Rust => cache.path(BUILT).exists(),
        })
    }
}

/// File in the cache that exists once everything has been compiled.
const BUILT: &str = "built-once";

impl Pending {
    /// The pieces that `goal` needs and the cache does not have.
    pub(super) fn find(cache: &Cache, goal: Goal) -> Result<Self> {
        let needed: &[Piece] = match goal {
            Goal::Natively => &[Piece::RocksDb, Piece::Rust],
            Goal::OnMetal => &[Piece::Kernel, Piece::Bases, Piece::RocksDb, Piece::Rust],
        };
        let mut pieces = Vec::new();
        for piece in needed {
            if !piece.is_done(cache)? {
                pieces.push(*piece);
            }
        }
        Ok(Self { pieces })
    }

    /// Space in MiB that the remaining work needs in the cache.
    pub(super) fn mib(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.figures().mib).sum()
    }

    /// Whether something has to be downloaded.
    pub(super) fn downloads(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Whether base images have to be made.
    pub(super) fn makes_bases(&self) -> bool {
        self.pieces.contains(&Piece::Bases)
    }

    /// Prints the remaining work, and its duration on this machine.
    pub(super) fn announce(&self, cache: &Cache) {
        if self.pieces.is_empty() {
            return;
        }
        let cores = cores();
        progress::note("first run on this machine; before its own work it will, once,");
        for piece in &self.pieces {
            let time = piece.time(cores);
            progress::note(&format!("     {:<40} about {} min", piece.figures().what, minutes(time)));
        }
        progress::note(&format!(
            "about {} min in all on {cores} cores; everything stays in {}",
            minutes(self.time(cores)),
            cache.path("").display()
        ));
    }

    fn time(&self, cores: usize) -> Duration {
        self.pieces.iter().map(|piece| piece.time(cores)).sum()
    }

    /// Prints the work that still remains, between two steps.
    pub(crate) fn tell_rest(&mut self, cache: &Cache) {
        let before = self.pieces.len();
        self.pieces.retain(|piece| !piece.is_done(cache).unwrap_or(true));
        if self.pieces.len() < before && !self.pieces.is_empty() {
            progress::note(&format!(
                "   about {} min of the first run's work are left",
                minutes(self.time(cores()))
            ));
        }
    }

    /// Records that everything has been compiled.
    pub(crate) fn all_built(cache: &Cache) -> Result<()> {
        cache.write_file(BUILT, b"").map(drop)
    }
}

fn minutes(time: Duration) -> u64 {
    time.as_secs().div_ceil(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_cores_shorten_what_runs_in_parallel() {
        let two = Piece::RocksDb.time(2);
        assert_eq!(two, Duration::from_secs(Piece::RocksDb.figures().seconds));
        assert_eq!(Piece::RocksDb.time(8).as_secs(), two.as_secs() / 4);
        assert_eq!(Piece::Bases.time(8), Piece::Bases.time(2));
        assert_eq!(minutes(Duration::from_secs(61)), 2);
    }

    #[test]
    fn what_is_in_the_cache_is_not_announced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_path_buf()).unwrap();
        let mut pending = Pending::find(&cache, Goal::OnMetal).unwrap();
        assert!(pending.pieces.contains(&Piece::Kernel) && pending.pieces.contains(&Piece::Bases));
        let before = pending.mib();
        cache.artefact("kernel", "k", |_| Ok(())).unwrap();
        pending.tell_rest(&cache);
        assert!(!pending.pieces.contains(&Piece::Kernel) && pending.pieces.contains(&Piece::Bases));
        assert!(pending.mib() < before && pending.pieces.contains(&Piece::Rust));
        Pending::all_built(&cache).unwrap();
        assert!(!Pending::find(&cache, Goal::Natively).unwrap().pieces.contains(&Piece::Rust));
    }
}
