//! The daemon's configuration.

use super::site::Site;

/// A host with the memory of two microVMs of the smallest class.
pub(crate) const ROOM_FOR_TWO: &str = "capacity_mib = 1024";

/// The text of the file: all paths in the tests' folders, the smallest guests, timeouts for an emulated host; plus
/// `extra` of a test.
pub(crate) fn text(site: &Site, extra: &str) -> String {
    // A process that reads images looks like a monitor: it runs only in the tests that are about it.
    let scrub = if extra.contains("scrub.") { "" } else { "scrub.interval_days = 0\n" };
    format!(
        "data = {:?}\nrun = {:?}\nburst = 1\nlaunch_timeout_seconds = 120\nlisten.socket = {:?}\n\
         paths.vmm = {:?}\npaths.catalogue = {:?}\nbuilder.memory_mib = 1536\n{scrub}{extra}\n",
        site.data(),
        site.run(),
        site.socket(),
        site.vmm,
        site.catalogue
    )
}
