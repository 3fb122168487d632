//! Folders on a real file system, and the zips that they become.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::*;

/// Names of a zip's entries with their contents, or where links lead.
fn packed(folder: &Path) -> (BTreeMap<String, String>, Packed) {
    let mut zip = tempfile::tempfile().unwrap();
    let packed = pack(folder, zip.try_clone().unwrap()).unwrap();
    zip.rewind().unwrap();
    let mut archive = zip::ZipArchive::new(zip).unwrap();
    let mut entries = BTreeMap::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        if entry.is_symlink() {
            content.insert_str(0, "-> ");
        }
        entries.insert(entry.name().unwrap().into_owned(), content);
    }
    (entries, packed)
}

fn names(folder: &Path) -> Vec<String> {
    packed(folder).0.into_keys().collect()
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn what_is_ignored_is_neither_judged_nor_walked() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, &[("Dockerfile", "FROM scratch\n"), ("app.py", "1"), (".venv/lib/x.py", "2")]);
    write(root, &[(".dockerignore", ".venv\nrun\n*.sock\nclosed\n")]);
    symlink("/usr/bin/python3", root.join(".venv/python")).unwrap();
    fs::create_dir(root.join("run")).unwrap();
    let _socket = UnixListener::bind(root.join("run/app")).unwrap();
    let _other = UnixListener::bind(root.join("a.sock")).unwrap();
    // A name that no zip can have.
    let odd = std::ffi::OsStr::from_bytes(b".venv/\xff");
    fs::write(root.join(odd), "").unwrap();
    let (entries, packed) = packed(root);
    assert_eq!(entries.keys().collect::<Vec<_>>(), [".dockerignore", "Dockerfile", "app.py"]);
    assert_eq!((packed.entries, packed.left_out), (3, Vec::new()));
}

#[test]
fn links_go_as_links_wherever_they_lead_and_sockets_do_not_go() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, &[("Dockerfile", "FROM scratch\n"), ("a/file", "")]);
    for (name, target) in [
        ("absolute", "/usr/bin/python3"),
        ("dangling", "no/where"),
        ("out", "../../x"),
        ("a/folder", "."),
        ("odd", "x\\y z"),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    let _socket = UnixListener::bind(root.join("a/s")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("p"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let (entries, packed) = packed(root);
    let entry = |name: &str| entries.get(name).map(String::as_str);
    assert_eq!(entry("absolute"), Some("-> /usr/bin/python3"));
    assert_eq!(entry("dangling"), Some("-> no/where"));
    assert_eq!(entry("out"), Some("-> ../../x"));
    assert_eq!(entry("a/folder"), Some("-> ."));
    assert_eq!(entry("odd"), Some("-> x\\y z"));
    let special = |name: &str, kind| Special { name: name.to_owned(), kind };
    assert_eq!(packed.left_out, [special("a/s", SpecialKind::Socket), special("p", SpecialKind::Pipe)]);
    assert_eq!((entry("a/s"), entry("p")), (None, None));
}

#[test]
fn a_folder_that_is_ignored_goes_only_with_what_is_excepted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let files =
        ["Dockerfile", "docs/README.md", "docs/deep/x.md", "docs/other", "empty/x", "src/a.rs", "src/b/c.rs"];
    write(root, &files.map(|name| (name, "")));
    write(root, &[(".dockerignore", "*\n!docs/README.md\n!src\nsrc/b\n")]);
    let expected =
        [".dockerignore", "Dockerfile", "docs/", "docs/README.md", "src/", "src/a.rs"].map(str::to_owned);
    assert_eq!(names(root), expected);
    write(root, &[(".dockerignore", "**\n!**/*.md\n")]);
    let expected = [".dockerignore", "Dockerfile", "docs/", "docs/README.md", "docs/deep/", "docs/deep/x.md"];
    assert_eq!(names(root), expected.map(str::to_owned));
}

#[test]
fn a_dockerfile_that_is_a_link_goes_as_what_it_leads_to() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("app");
    write(folder.path(), &[("Dockerfile.common", "FROM scratch\n"), ("app/x", "")]);
    symlink("../Dockerfile.common", root.join("Dockerfile")).unwrap();
    assert_eq!(packed(&root).0.get("Dockerfile").map(String::as_str), Some("FROM scratch\n"));
}

#[test]
fn what_a_host_would_refuse_is_refused_before_anything_is_packed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, &[("Dockerfile", "FROM scratch\n"), ("a/b", "1234567890"), ("ignored/x", "")]);
    write(root, &[(".dockerignore", "ignored\n")]);
    let within = |limits: Limits| {
        let zip = tempfile::tempfile().unwrap();
        let packed = pack_within(root, zip.try_clone().unwrap(), limits, &mut |_| ());
        if packed.is_err() {
            assert_eq!(zip.metadata().unwrap().len(), 0);
        }
        packed.map(|packed| packed.entries)
    };
    let limits = Limits { entries: 4, unpacked_bytes: 31, directory_bytes: 400 };
    assert_eq!(within(limits).unwrap(), 4);
    for (limits, words) in [
        (Limits { entries: 3, ..limits }, "4 files, folders and links"),
        (Limits { unpacked_bytes: 30, ..limits }, "31 bytes in files"),
        (Limits { directory_bytes: 300, ..limits }, "bytes of names"),
    ] {
        let error = within(limits).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(".dockerignore what the build"), "{error}");
    }
}

#[test]
fn a_name_that_no_zip_can_have_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"x\xff")), "").unwrap();
    let error = pack(folder.path(), File::create(folder.path().join("z")).unwrap()).unwrap_err();
    assert!(error.to_string().contains("has a name that is not UTF-8; rename it"), "{error}");
}

#[test]
fn progress_comes_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("Dockerfile", "FROM scratch\n"), ("big", &"x".repeat(1 << 20))]);
    let mut seen = Vec::new();
    let zip = tempfile::tempfile().unwrap();
    pack_within(folder.path(), zip, Limits::NONE, &mut |progress| seen.push(progress)).unwrap();
    let total = (1 << 20) + 13;
    assert_eq!(seen.last(), Some(&Progress::Packing { bytes: total, total }));
}
