//! The file of a working set: written beside its place, then renamed.

use std::path::Path;

use hearth_proto::vmm::v1 as proto;

use super::error::TakeError;
use super::temporary::Temporary;
use crate::client::Client;

/// The working set's name in the folder of the snapshot that it was recorded of.
pub const WORKING_SET: &str = "working-set";

/// Has the monitor write what its machine has needed so far into the file `to`, which appears as a whole and
/// replaces one that is there. The machine goes on recording.
///
/// # Errors
/// [`TakeError`]; what was at `to` still is.
pub fn write_working_set(client: &Client, to: &Path) -> Result<proto::WorkingSetSaved, TakeError> {
    if to.file_name().is_none() {
        return Err(TakeError::Name(to.to_owned()));
    }
    let temporary = Temporary::file(to).map_err(TakeError::host("making a file beside", to))?;
    let file = temporary.handle().try_clone().map_err(TakeError::host("duplicating the file for", to))?;
    let saved = client.save_working_set(file)?;
    temporary.rename(to).map_err(TakeError::not_named(to.to_owned()))?;
    Ok(saved)
}
