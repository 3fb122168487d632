//! The file tree of an archive: every path once, parents before children, nothing below a file or a link.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::ZipError;
use super::names::{EntryPath, shown};

/// Kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Link,
}

/// A file, directory or symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub(super) mode: u32,
    /// Seconds since the epoch, as if the archive's times were UTC.
    pub(super) mtime: u64,
    /// Index of the archive's entry; none for a directory without an entry of its own.
    pub(super) entry: Option<usize>,
}

/// Nodes in the order in which they are written: that of their paths' bytes, in which a directory precedes its content.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<EntryPath, Node>,
    path_bytes: u64,
}

impl Tree {
    /// Adds an entry of the archive.
    pub(super) fn add(&mut self, path: EntryPath, node: Node) -> Result<(), ZipError> {
        self.path_bytes += path.as_str().len() as u64;
        match self.nodes.entry(path) {
            Entry::Occupied(taken) => Err(ZipError::Duplicate { name: shown(taken.key().as_str()) }),
            Entry::Vacant(free) => {
                free.insert(node);
                Ok(())
            }
        }
    }

    /// Adds the directories without entries, with the mode 0755 and the given time, and checks that every parent is a directory.
    /// Fails if the result has more than `max_nodes` nodes or `max_path_bytes` bytes of paths.
    pub(super) fn complete(
        &mut self,
        mtime: u64,
        max_nodes: u64,
        max_path_bytes: u64,
    ) -> Result<(), ZipError> {
        let mut missing = BTreeMap::new();
        for path in self.nodes.keys() {
            let mut below = path.parent();
            while let Some(parent) = below {
                match self.nodes.get(&parent) {
                    // The parents of this directory are checked in its own turn.
                    Some(Node { kind: Kind::Directory, .. }) => break,
                    Some(_) => return Err(ZipError::BelowNoDirectory { name: shown(path.as_str()) }),
                    None if missing.contains_key(&parent) => break,
                    None => {}
                }
                self.path_bytes += parent.as_str().len() as u64;
                let nodes = (self.nodes.len() + missing.len()) as u64;
                if nodes >= max_nodes || self.path_bytes > max_path_bytes {
                    return Err(ZipError::TooManyEntries { limit: max_nodes });
                }
                below = parent.parent();
                missing.insert(parent, Node { kind: Kind::Directory, mode: 0o755, mtime, entry: None });
            }
        }
        self.nodes.append(&mut missing);
        Ok(())
    }

    /// Kind of the node with this path.
    pub(super) fn kind(&self, path: &str) -> Option<Kind> {
        let (path, _) = EntryPath::parse(path, true).ok()?;
        self.nodes.get(&path).map(|node| node.kind)
    }

    /// Names in the root directory.
    pub(super) fn roots(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(EntryPath::as_str).filter(|path| !path.contains('/'))
    }

    /// All nodes, parents before children.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&EntryPath, &Node)> {
        self.nodes.iter()
    }

    /// Number of nodes of a kind.
    pub(super) fn count(&self, kind: Kind) -> u64 {
        self.nodes.values().filter(|node| node.kind == kind).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, Kind)]) -> Result<Tree, ZipError> {
        let mut tree = Tree::default();
        for (index, (name, kind)) in entries.iter().enumerate() {
            let node = Node { kind: *kind, mode: 0o700, mtime: 7, entry: Some(index) };
            tree.add(EntryPath::parse(name, true).unwrap().0, node)?;
        }
        tree.complete(0, 10, 1000)?;
        Ok(tree)
    }

    fn paths(tree: &Tree) -> Vec<(&str, Option<usize>)> {
        tree.iter().map(|(path, node)| (path.as_str(), node.entry)).collect()
    }

    #[test]
    fn parents_come_before_children_also_those_that_are_not_named() {
        let tree = tree(&[("a/b/c", Kind::File), ("a-b", Kind::File), ("a/b", Kind::Directory)]).unwrap();
        assert_eq!(paths(&tree), [("a", None), ("a-b", Some(1)), ("a/b", Some(2)), ("a/b/c", Some(0))]);
    }

    #[test]
    fn nothing_lies_below_a_file_or_a_link_in_any_order() {
        for kind in [Kind::File, Kind::Link] {
            assert!(matches!(
                tree(&[("a", kind), ("a/b", Kind::File)]),
                Err(ZipError::BelowNoDirectory { .. })
            ));
            assert!(matches!(
                tree(&[("a/b/c", Kind::File), ("a", kind)]),
                Err(ZipError::BelowNoDirectory { .. })
            ));
        }
    }

    #[test]
    fn one_name_twice_is_refused_whatever_it_is() {
        for second in [Kind::File, Kind::Directory, Kind::Link] {
            assert!(matches!(tree(&[("./a", Kind::File), ("a", second)]), Err(ZipError::Duplicate { .. })));
        }
    }

    #[test]
    fn directories_that_are_not_named_count_too() {
        let deep = "d/".repeat(20) + "f";
        assert!(matches!(tree(&[(&deep, Kind::File)]), Err(ZipError::TooManyEntries { .. })));
        let long = format!("{0}/{0}/{0}/{0}/f", "d".repeat(200));
        assert!(matches!(tree(&[(&long, Kind::File)]), Err(ZipError::TooManyEntries { .. })));
    }
}
