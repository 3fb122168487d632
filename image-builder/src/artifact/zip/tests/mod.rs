//! Tests with archives that are built byte for byte ([`handmade`]), and with random archives.

mod handmade;

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};

use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, ZipWriter};
use proptest::prelude::*;

use super::*;
use handmade::{Raw, archive, dockerfile, raw};

const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn checked(bytes: &[u8], limits: &Limits) -> Result<ZipSummary, ZipError> {
    check(file_of(bytes).path(), limits)
}

/// Content of a tar: path, kind, mode, time, content or link target, in its order.
type Unpacked = Vec<(String, tar::EntryType, u32, u64, Vec<u8>)>;

fn tar_of(bytes: &[u8]) -> Result<Unpacked, ZipError> {
    let mut out = Vec::new();
    write_tar(file_of(bytes).path(), &Limits::default(), &mut out)?;
    let mut unpacked = Vec::new();
    for entry in tar::Archive::new(out.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut content = entry.link_name_bytes().unwrap_or_default().into_owned();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        let kind = header.entry_type();
        unpacked.push((path, kind, header.mode().unwrap(), header.mtime().unwrap(), content));
    }
    Ok(unpacked)
}

#[test]
fn an_archive_becomes_a_sorted_tar_with_its_modes_times_and_links() {
    use tar::EntryType::{Directory, Regular, Symlink};
    let bytes = archive(&[
        raw("src/run.sh", 0o104_755, "#!/bin/sh\n"),
        dockerfile(),
        raw("bin/", 0o040_700, ""),
        raw("bin/run", LINK, "../src/run.sh"),
        Raw { system: 0, ..raw("from-windows", 0, "x") },
    ]);
    const AT: u64 = 1_704_067_200; // 2024-01-01
    const FIRST: u64 = 315_532_800; // 1980-01-01
    let entry = |path: &str, kind, mode, at, content: &str| (path.to_owned(), kind, mode, at, content.into());
    assert_eq!(
        tar_of(&bytes).unwrap(),
        [
            entry("Dockerfile", Regular, 0o644, AT, "FROM scratch\n"),
            entry("bin", Directory, 0o700, AT, ""),
            entry("bin/run", Symlink, 0o777, AT, "../src/run.sh"),
            entry("from-windows", Regular, 0o755, AT, "x"),
            entry("src", Directory, 0o755, FIRST, ""),
            entry("src/run.sh", Regular, 0o4755, AT, "#!/bin/sh\n"),
        ]
    );
    assert_eq!(
        checked(&bytes, &Limits::default()).unwrap(),
        ZipSummary { files: 3, directories: 2, links: 1, unpacked_bytes: 37 }
    );
}

#[test]
fn links_reach_the_tar_word_for_word_wherever_they_lead() {
    let long = "very/".repeat(60) + "far";
    for target in ["/usr/bin/python3", "../../out", "no/where", "b/..", "./a//b/.", "x/", "a\\b", "é", &long]
    {
        let bytes = archive(&[dockerfile(), raw("a/l", LINK, target)]);
        assert_eq!(checked(&bytes, &Limits::default()).unwrap().links, 1);
        let unpacked = tar_of(&bytes).unwrap();
        let (path, kind, _, _, content) = unpacked.last().unwrap();
        assert_eq!((path.as_str(), *kind), ("a/l", tar::EntryType::Symlink));
        assert_eq!(String::from_utf8_lossy(content), *target);
    }
}

#[test]
fn an_archive_of_a_folder_says_where_its_dockerfile_is() {
    let says = |entries: &[Raw]| checked(&archive(entries), &Limits::default()).unwrap_err().to_string();
    let text = says(&[raw("app-main/Dockerfile", FILE, ""), raw("app-main/src/x", FILE, "")]);
    assert!(
        text.starts_with(
            "The archive has no Dockerfile at its root, but app-main/Dockerfile: archive what is in app-main instead"
        ),
        "{text}"
    );
    let mac = [raw("app/", 0o040_755, ""), raw("app/Dockerfile", FILE, ""), raw("__MACOSX/x", FILE, "")];
    assert!(says(&mac).contains("but app/Dockerfile: "));
    assert!(says(&[raw("app/x", FILE, "")]).contains("its only folder has no app/Dockerfile either"));
    assert!(
        says(&[raw("dockerfile", FILE, ""), raw("x", FILE, "")]).contains("but dockerfile: write its name")
    );
    assert_eq!(says(&[raw("x", FILE, "")]), "The archive has no Dockerfile at its root.");
}

#[test]
fn a_long_path_reaches_the_tar_whole() {
    let name: &'static str = Box::leak(format!("{0}/{0}/{0}", "d".repeat(200)).into_boxed_str());
    let unpacked = tar_of(&archive(&[raw(name, FILE, "deep")])).unwrap();
    let (path, _, _, _, content) = unpacked.last().unwrap();
    assert_eq!((path.as_str(), content.as_slice()), (name, b"deep".as_slice()));
}

#[test]
fn what_is_hostile_or_damaged_is_refused() {
    type Case = (&'static str, Vec<Raw>, fn(&ZipError) -> bool);
    let cases: Vec<Case> = vec![
        ("absolute", vec![raw("/etc/passwd", FILE, "x")], |e| matches!(e, ZipError::Name { .. })),
        ("up", vec![raw("a/../../x", FILE, "x")], |e| matches!(e, ZipError::Name { .. })),
        ("backslash", vec![Raw { system: 0, ..raw("..\\x", FILE, "x") }], |e| {
            matches!(e, ZipError::Name { .. })
        }),
        ("nul", vec![raw("x\0.txt", FILE, "x")], |e| matches!(e, ZipError::Name { .. })),
        ("twice", vec![raw("x", FILE, "1"), raw("x", FILE, "2")], |e| matches!(e, ZipError::Damaged(_))),
        ("twice in other words", vec![raw("x", FILE, "1"), raw("./x", FILE, "2")], |e| {
            matches!(e, ZipError::Duplicate { .. })
        }),
        ("file and directory", vec![raw("x", FILE, "1"), raw("x/", 0o040_755, "")], |e| {
            matches!(e, ZipError::Duplicate { .. })
        }),
        ("below a link", vec![raw("x", LINK, "y"), raw("x/z", FILE, "2")], |e| {
            matches!(e, ZipError::BelowNoDirectory { .. })
        }),
        ("link to nothing", vec![raw("x", LINK, "")], |e| matches!(e, ZipError::Link { .. })),
        ("link to a NUL", vec![raw("x", LINK, "a\0b")], |e| matches!(e, ZipError::Link { .. })),
        ("below a link to the root", vec![raw("x", LINK, "/"), raw("x/etc/passwd", FILE, "2")], |e| {
            matches!(e, ZipError::BelowNoDirectory { .. })
        }),
        ("link to bytes", vec![raw("x", LINK, [0xff])], |e| matches!(e, ZipError::Content { .. })),
        ("long link", vec![raw("x", LINK, "y/".repeat(3000))], |e| matches!(e, ZipError::Content { .. })),
        ("character device", vec![raw("x", 0o020_666, "")], |e| matches!(e, ZipError::Kind { .. })),
        ("block device", vec![raw("x", 0o060_666, "")], |e| matches!(e, ZipError::Kind { .. })),
        ("pipe", vec![raw("x", 0o010_666, "")], |e| matches!(e, ZipError::Kind { .. })),
        ("socket", vec![raw("x", 0o140_666, "")], |e| matches!(e, ZipError::Kind { .. })),
        ("device from Windows", vec![Raw { system: 0, ..raw("x", 0o020_666, "") }], |e| {
            matches!(e, ZipError::Kind { .. })
        }),
        ("file named like a directory", vec![raw("x/", FILE, "")], |e| matches!(e, ZipError::Kind { .. })),
        ("link named like a directory", vec![raw("x/", LINK, "y")], |e| matches!(e, ZipError::Kind { .. })),
        ("directory with a content", vec![raw("x/", 0o040_755, "x")], |e| matches!(e, ZipError::Kind { .. })),
        ("encrypted", vec![Raw { flags: 1, ..raw("x", FILE, "secret-secret") }], |e| {
            matches!(e, ZipError::Method { .. })
        }),
        ("bzip2", vec![Raw { method: 12, ..raw("x", FILE, "BZh") }], |e| {
            matches!(e, ZipError::Method { .. })
        }),
        ("no deflate", vec![Raw { method: 8, size: Some(9), ..raw("x", FILE, [0xff; 9]) }], |e| {
            matches!(e, ZipError::Content { .. })
        }),
        ("checksum", vec![Raw { crc: Some(1), ..raw("x", FILE, "content") }], |e| {
            matches!(e, ZipError::Content { .. })
        }),
        ("more than the header says", vec![Raw { size: Some(3), ..raw("x", FILE, "content") }], |e| {
            matches!(e, ZipError::Content { .. })
        }),
        ("less than the header says", vec![Raw { size: Some(30), ..raw("x", FILE, "content") }], |e| {
            matches!(e, ZipError::Content { .. })
        }),
        ("another local name", vec![Raw { local_name: Some("Dockerfilf"), ..dockerfile() }], |e| {
            matches!(e, ZipError::Content { .. })
        }),
        (
            "one local entry for two",
            vec![Raw { offset: Some(0), ..raw("Dockerfile2", FILE, "FROM scratch\n") }],
            |e| matches!(e, ZipError::Content { .. }),
        ),
        ("local header elsewhere", vec![Raw { offset: Some(7), ..raw("x", FILE, "1") }], |e| {
            matches!(e, ZipError::Content { .. })
        }),
    ];
    for (case, mut entries, is_expected) in cases {
        entries.insert(0, dockerfile());
        if case == "another local name" {
            entries.remove(0);
        }
        let bytes = archive(&entries);
        let error = checked(&bytes, &Limits::default()).expect_err(case);
        assert!(is_expected(&error), "{case}: {error:?}");
        assert_eq!(error.code(), FailureCode::ArchiveInvalid, "{case}: {error}");
        tar_of(&bytes).expect_err(case);
    }
}

#[test]
fn entries_that_share_bytes_are_refused() {
    // A stored entry whose content is another entry, to which the directory refers as well.
    let inner = archive(&[raw("inner", FILE, "inner")]);
    let local = inner[..30 + 5 + 5].to_vec();
    let outer = raw("outer", FILE, local);
    let entries = [dockerfile(), outer, Raw { offset: None, ..raw("inner", FILE, "inner") }];
    let at = u32::try_from(archive(&[dockerfile()]).len() - 22 - 46 - 10 + 30 + 5).unwrap();
    let bytes =
        archive(&[entries[0].clone(), entries[1].clone(), Raw { offset: Some(at), ..entries[2].clone() }]);
    let error = checked(&bytes, &Limits::default()).unwrap_err();
    assert!(matches!(error, ZipError::Overlap { .. }), "{error:?}");
    assert_eq!(error.code(), FailureCode::ArchiveInvalid);
}

#[test]
fn the_dockerfile_is_a_regular_file_of_exactly_that_name_at_the_root() {
    for entries in [
        vec![raw("app/Dockerfile", FILE, "")],
        vec![raw("dockerfile", FILE, "")],
        vec![raw("Dockerfile/", 0o040_755, "")],
        vec![raw("Dockerfile", LINK, "x"), raw("x", FILE, "")],
        vec![raw("Dockerfile.txt", FILE, "")],
        vec![],
    ] {
        let error = checked(&archive(&entries), &Limits::default()).unwrap_err();
        assert_eq!(error.code(), FailureCode::ArchiveDockerfileNotFound, "{error}");
    }
    checked(&archive(&[Raw { name: "./Dockerfile", ..dockerfile() }]), &Limits::default()).unwrap();
}

#[test]
fn what_is_no_archive_or_a_part_of_one_is_refused() {
    let whole = archive(&[dockerfile(), raw("x", FILE, "content")]);
    checked(&whole, &Limits::default()).unwrap();
    for length in 0..whole.len() {
        let error = checked(&whole[..length], &Limits::default()).unwrap_err();
        assert_eq!(error.code(), FailureCode::ArchiveInvalid, "the first {length} bytes: {error}");
    }
    let error = checked(&[b'x'; 100_000], &Limits::default()).unwrap_err();
    assert!(matches!(error, ZipError::Damaged(_)), "{error:?}");
}

#[test]
fn a_flipped_bit_never_passes_as_another_content() {
    let bytes = archive(&[dockerfile(), raw("a/b", FILE, "content"), raw("l", LINK, "a/b")]);
    let whole = tar_of(&bytes).unwrap();
    let contents = |tar: &Unpacked| tar.iter().map(|entry| entry.4.clone()).collect::<Vec<_>>();
    let mut refused = 0;
    for position in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[position / 8] ^= 1 << (position % 8);
        match tar_of(&flipped) {
            Err(_) => refused += 1,
            // Names, modes and times that are equal in both headers have no checksum, but contents do.
            Ok(tar) => assert_eq!(contents(&tar), contents(&whole), "bit {position}"),
        }
    }
    assert!(refused > bytes.len() * 4, "{refused} of {}", bytes.len() * 8);
}

/// An archive of one file of `size` zeros, and a `Dockerfile`.
fn zeros(size: u64) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("Dockerfile", SimpleFileOptions::default()).unwrap();
    writer.start_file("zeros", SimpleFileOptions::default()).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(size), &mut writer).unwrap();
    writer.finish().unwrap().into_inner()
}

#[test]
fn a_bomb_is_refused_by_its_ratio_and_by_its_size() {
    let bytes = zeros(70 << 20);
    let error = checked(&bytes, &Limits::default()).unwrap_err();
    assert!(matches!(error, ZipError::Bomb { limit: 200 }), "{error:?}");
    let roomy = Limits { max_ratio: 2000, ..Limits::default() };
    checked(&bytes, &roomy).unwrap();
    let error = checked(&bytes, &Limits { max_unpacked_bytes: 1 << 20, ..roomy }).unwrap_err();
    assert!(matches!(error, ZipError::TooLarge { limit: 0x10_0000 }), "{error:?}");
}

#[test]
fn a_bomb_that_lies_about_its_size_unpacks_no_further_than_it_says() {
    let mut bytes = zeros(1 << 20);
    let says = (1_u32 << 20).to_le_bytes();
    let lies = 100_u32.to_le_bytes();
    let mut patched = 0;
    for at in 0..bytes.len() - 4 {
        if bytes[at..at + 4] == says {
            bytes[at..at + 4].copy_from_slice(&lies);
            patched += 1;
        }
    }
    assert_eq!(patched, 2, "the size in both headers");
    let error = checked(&bytes, &Limits::default()).unwrap_err();
    assert!(matches!(error, ZipError::Content { .. }), "{error:?}");
}

#[test]
fn entries_and_the_directory_are_bounded() {
    let many: Vec<Raw> = std::iter::once(dockerfile())
        .chain((0..50).map(|index| raw(Box::leak(format!("f{index}").into_boxed_str()), FILE, "")))
        .collect();
    let bytes = archive(&many);
    let limits = Limits { max_entries: 51, ..Limits::default() };
    checked(&bytes, &limits).unwrap();
    let error = checked(&bytes, &Limits { max_entries: 50, ..limits.clone() }).unwrap_err();
    assert!(matches!(error, ZipError::TooManyEntries { limit: 50 }), "{error:?}");
    let error = checked(&bytes, &Limits { max_directory_bytes: 1000, ..limits }).unwrap_err();
    assert!(matches!(error, ZipError::DirectoryTooLarge { limit: 1000 }), "{error:?}");
}

#[test]
fn a_huge_directory_is_not_read_into_memory() {
    // Four megabytes of directory, of which at most 1 MiB and 128 KiB are read with a limit of 64 KiB.
    let name: &'static str = Box::leak("n".repeat(4000).into_boxed_str());
    let entries: Vec<Raw> = (0..1000).map(|_| raw(name, FILE, "")).collect();
    let limits = Limits { max_directory_bytes: 64 << 10, ..Limits::default() };
    let error = checked(&archive(&entries), &limits).unwrap_err();
    assert!(matches!(error, ZipError::DirectoryTooLarge { .. }), "{error:?}");
}

#[test]
fn a_tar_that_nobody_reads_is_no_fault_of_the_archive() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let file = file_of(&archive(&[dockerfile()]));
    let error = write_tar(file.path(), &Limits::default(), Full).unwrap_err();
    assert!(matches!(error, ZipError::Write(_)), "{error:?}");
    assert_eq!(error.code(), FailureCode::DiskStorageFull);
}

#[test]
fn zip64_and_data_behind_the_content_are_read() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().large_file(true);
    writer.start_file("Dockerfile", options).unwrap();
    writer.write_all(b"FROM scratch\n").unwrap();
    checked(&writer.finish().unwrap().into_inner(), &Limits::default()).unwrap();

    // The output of a zip tool to a pipe: sizes and checksums follow the contents.
    struct Unseekable(Vec<u8>);
    impl Write for Unseekable {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut writer = ZipWriter::new_stream(Unseekable(Vec::new()));
    writer.start_file("Dockerfile", SimpleFileOptions::default()).unwrap();
    writer.write_all(b"FROM scratch\n").unwrap();
    let bytes = writer.finish().unwrap().into_inner().0;
    let unpacked = tar_of(&bytes).unwrap();
    assert_eq!(unpacked[0].4, b"FROM scratch\n");
}

/// A file with its content and whether it is executable; a directory; or a link to the root.
#[derive(Clone, Debug)]
enum Item {
    File(Vec<u8>, bool),
    Directory,
    Link,
}

/// Any tree of files. Names have few letters, so that they collide often.
fn items() -> impl Strategy<Value = BTreeMap<String, Item>> {
    let name = proptest::collection::vec("[a-cé. -]{1,3}", 1..4).prop_map(|parts| parts.join("/"));
    let content = proptest::collection::vec(any::<u8>(), 0..300).prop_map(|data| data.repeat(7));
    let item = prop_oneof![
        6 => (content, any::<bool>()).prop_map(|(data, executable)| Item::File(data, executable)),
        2 => Just(Item::Directory),
        1 => Just(Item::Link),
    ];
    proptest::collection::btree_map(name, item, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_tar_holds_what_the_archive_holds_and_nothing_outside_of_the_root(
        items in items(),
        deflated in any::<bool>(),
    ) {
        let method = if deflated { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let options = SimpleFileOptions::default().compression_method(method);
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let mut written = Vec::new();
        for (name, item) in &items {
            let up = vec![".."; name.matches('/').count()].join("/");
            let target = if up.is_empty() { "." } else { up.as_str() };
            let result = match item {
                Item::File(data, executable) => writer
                    .start_file(name, options.unix_permissions(if *executable { 0o755 } else { 0o640 }))
                    .map(|()| writer.write_all(data).unwrap()),
                Item::Directory => writer.add_directory(name, options),
                Item::Link => writer.add_symlink(name, target, options),
            };
            if result.is_ok() {
                written.push((name, item, target.to_owned()));
            }
        }
        let bytes = writer.finish().unwrap().into_inner();
        match tar_of(&bytes) {
            Err(error) => {
                // Only trees that cannot exist in a file system are refused.
                let odd = items.keys().any(|name| {
                    name.split('/').any(|part| part == "." || part == "..")
                        || items.iter().any(|(other, item)| {
                            !matches!(item, Item::Directory) && name.starts_with(&format!("{other}/"))
                        })
                });
                prop_assert!(odd, "{error}");
            }
            Ok(unpacked) => {
                for (path, ..) in &unpacked {
                    prop_assert!(!path.starts_with('/') && !path.split('/').any(|part| part == ".." || part.is_empty()));
                }
                let mut order = std::collections::BTreeSet::new();
                for (path, ..) in &unpacked {
                    if let Some((parent, _)) = path.rsplit_once('/') {
                        prop_assert!(order.contains(parent), "{path} comes before its parent");
                    }
                    prop_assert!(order.insert(path.clone()), "{path} twice");
                }
                for (name, item, target) in written {
                    let path: Vec<&str> = name.split('/').filter(|part| *part != ".").collect();
                    let path = path.join("/");
                    if path.is_empty() {
                        continue;
                    }
                    let found = unpacked.iter().find(|entry| entry.0 == path);
                    let Some((_, kind, mode, _, content)) = found else {
                        return Err(TestCaseError::fail(format!("{path} is not in the tar")));
                    };
                    match item {
                        Item::File(data, executable) => {
                            prop_assert_eq!(*kind, tar::EntryType::Regular);
                            prop_assert_eq!(*mode, if *executable { 0o755 } else { 0o640 });
                            prop_assert_eq!(content, data);
                        }
                        Item::Directory => prop_assert_eq!(*kind, tar::EntryType::Directory),
                        Item::Link => {
                            prop_assert_eq!(*kind, tar::EntryType::Symlink);
                            prop_assert_eq!(content, target.as_bytes());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn any_bytes_for_an_archive_are_refused_without_a_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        end in any::<bool>(),
    ) {
        if end {
            bytes.extend(&archive(&[])[..]);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        if let Ok(mut archive) = Archive::open(&file, &Limits::default()) {
            let _ = archive.for_each(|_, _, _| Ok(()));
        }
    }
}
