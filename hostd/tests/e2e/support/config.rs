//! The daemon's configuration.

use super::site::Site;

/// The text of the file: everything in the tests' folder, and what a test adds.
pub(crate) fn text(site: &Site, extra: &str) -> String {
    let (data, run, socket) = (site.data(), site.run(), site.socket());
    format!(
        "data = {data:?}\nrun = {run:?}\n{extra}\n[listen]\nsocket = {socket:?}\n\
         [paths]\nvmm = {:?}\ncatalogue = {:?}\n[builder]\nmemory_mib = 1536\n",
        site.vmm, site.catalogue
    )
}

/// A host with the memory of two microVMs of the smallest class.
pub(crate) const ROOM_FOR_TWO: &str = "capacity_mib = 1024";
