//! Writes an archive as a tar.

use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

use super::archive::{Archive, Body};
use super::tree::Node;
use super::{ZipError, ZipSummary};

/// Writes all nodes of `archive`, and the end of the tar.
pub(super) fn write(archive: &mut Archive<'_>, out: impl Write) -> Result<ZipSummary, ZipError> {
    let mut tar = Builder::new(out);
    let unpacked_bytes = archive.for_each(|path, node, body| {
        let path = path.as_str();
        let written = match body {
            Body::Directory => tar.append_data(&mut header(node, EntryType::Directory, 0), path, io::empty()),
            Body::Link(target) => {
                let mut header = header(node, EntryType::Symlink, 0);
                // Word for word: the other way writes the target anew, component by component.
                match header.set_link_name_literal(target) {
                    Ok(()) => tar.append_data(&mut header, path, io::empty()),
                    Err(_) => tar.append_link(&mut header, path, target),
                }
            }
            Body::File(content) => {
                let mut header = header(node, EntryType::Regular, content.size());
                tar.append_data(&mut header, path, content.by_ref())
            }
        };
        written.map_err(ZipError::Write)
    })?;
    tar.into_inner().and_then(|mut out| out.flush()).map_err(ZipError::Write)?;
    Ok(super::summary(archive, unpacked_bytes))
}

fn header(node: &Node, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(if kind == EntryType::Symlink { 0o777 } else { node.mode });
    header.set_mtime(node.mtime);
    header.set_uid(0);
    header.set_gid(0);
    header
}
