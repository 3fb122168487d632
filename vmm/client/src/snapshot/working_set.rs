//! The file of a working set: written beside its final path, then renamed.

use std::path::Path;

use hearth_proto::vmm::v1 as proto;

use super::error::TakeError;
use super::temporary::Temporary;
use crate::Client;

/// Requests that the monitor write the working set that its machine has touched so far into the file `to`. The file
/// appears completely and replaces an existing one. The machine continues to record.
///
/// # Errors
/// [`TakeError`]; a file that existed at `to` is unchanged.
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
