//! A folder becomes a zip, as `.dockerignore` says and within what the host accepts.

use std::fs::File;
use std::io::Seek as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::{Arc, PoisonError};

use hearth_artifact::{Limits, PackError, Packed, Progress, Special, pack_within};
use hearth_proto::host::v1::ArtifactLimits;
use tokio::task::spawn_blocking;

use super::progress::{self, TICK};
use crate::error::Failure;
use crate::live::Live;
use crate::out::printable;

/// Sockets and the like that are named; of more, only their number is said.
const NAMED: usize = 5;

/// Packs a folder. What Docker would not send either is said, unless `quiet`.
pub(super) async fn zip(
    folder: &Path,
    limits: Option<&ArtifactLimits>,
    live: &mut Live,
    quiet: bool,
) -> Result<File, Failure> {
    let seen = Arc::new(Mutex::new(None));
    let (folder, limits, told) =
        (folder.to_owned(), limits.map_or(Limits::NONE, accepted), Arc::clone(&seen));
    let packing = spawn_blocking(move || {
        let mut zip = tempfile::tempfile().map_err(PackError::Write)?;
        let out = zip.try_clone().map_err(PackError::Write)?;
        let mut tell = |progress| *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
        let packed = pack_within(&folder, out, limits, &mut tell)?;
        zip.rewind().map_err(PackError::Write)?;
        Ok::<_, PackError>((zip, packed))
    });
    tokio::pin!(packing);
    let mut tick = tokio::time::interval(TICK);
    let packed = loop {
        tokio::select! {
            packed = &mut packing => break packed,
            _ = tick.tick(), if live.is_terminal() && !quiet => {
                let progress: Option<Progress> = *seen.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(progress) = progress {
                    live.show(&progress::packing(progress))?;
                }
            }
        }
    };
    live.clear()?;
    let packed = packed.map_err(|error| Failure::failed(format!("cannot zip: {error}")))?;
    let (zip, Packed { left_out, .. }) =
        packed.map_err(|error| Failure::failed(format!("cannot zip the folder: {error}")))?;
    if !quiet && !left_out.is_empty() {
        live.line(&printable(&not_sent(&left_out)))?;
    }
    Ok(zip)
}

/// What the host accepts; a number that it does not say is no limit.
fn accepted(limits: &ArtifactLimits) -> Limits {
    let limit = |number: i64| u64::try_from(number).ok().filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    Limits {
        entries: limit(limits.max_entries),
        unpacked_bytes: limit(limits.max_unpacked_bytes),
        directory_bytes: limit(limits.max_directory_bytes),
    }
}

fn not_sent(left_out: &[Special]) -> String {
    let named = left_out.iter().take(NAMED).map(|special| format!("{} is {}", special.name, special.kind));
    let named: Vec<_> = named.collect();
    let more = match left_out.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("not sent: {}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use hearth_artifact::SpecialKind;

    use super::*;

    #[test]
    fn what_is_not_sent_is_named_up_to_a_bound() {
        let special = |name: &str| Special { name: name.to_owned(), kind: SpecialKind::Socket };
        assert_eq!(not_sent(&[special("run/a")]), "not sent: run/a is a socket");
        let many: Vec<_> = (0..7).map(|_| special("s")).collect();
        assert!(not_sent(&many).ends_with("s is a socket and 2 more"));
    }

    #[test]
    fn a_host_that_says_no_limit_has_none() {
        let limits = ArtifactLimits { max_entries: 10, ..ArtifactLimits::default() };
        assert_eq!(accepted(&limits), Limits { entries: 10, ..Limits::NONE });
    }
}
