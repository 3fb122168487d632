//! Tar archives into the container and out of it.

use hearth_proto::guest::v1::{FailureCode, open_exec};

use super::support::{Machine, Metal};

#[test]
fn an_archive_goes_in_and_comes_out_as_it_was() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    let mut builder = tar::Builder::new(Vec::new());
    let header = |name: &str, mode, uid, size| {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(uid + 1);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        header.set_cksum();
        header
    };
    let content: Vec<u8> = (0..8_000_000_u32).map(|number| (number % 251) as u8).collect();
    let large = header("large", 0o4755, 12, content.len() as u64);
    builder.append(&large, content.as_slice()).unwrap();
    builder.append(&header("small", 0o600, 7, 3), &b"abc"[..]).unwrap();
    // Before there is an app.
    let mut unpack = guest.archive(open_exec::What::UnpackInto("/new/folder".to_string()));
    unpack.send_all(&builder.into_inner().unwrap());
    unpack.finish().success("unpacking");
    guest.start_idle();
    let seen = guest.sh("cd /new/folder; stat -c '%a %u %g %Y %s' large small");
    assert_eq!(seen, "4755 12 13 1000000000 8000000\n600 7 8 1000000000 3\n");
    let pack = guest.archive(open_exec::What::Pack("/new/folder".to_string()));
    let packed = pack.finish();
    assert!(packed.result.is_ok(), "{:?}", packed.result);
    let mut archive = tar::Archive::new(packed.stdout.as_slice());
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_string();
        if name == "./large" || name == "large" {
            let mut read = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut read).unwrap();
            assert!(read == content, "the large file has changed");
            assert_eq!(
                (entry.header().uid().unwrap(), entry.header().mode().unwrap() & 0o7777),
                (12, 0o4755)
            );
        }
        names.push(name.trim_start_matches("./").to_string());
    }
    names.sort();
    assert_eq!(
        names.iter().filter(|name| !name.is_empty() && *name != ".").collect::<Vec<_>>(),
        ["large", "small"]
    );
    guest.power_off();
}

#[test]
fn what_cannot_be_packed_or_unpacked_is_told() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    let pack = guest.archive(open_exec::What::Pack("/not/there".to_string()));
    assert_eq!(pack.finish().result.unwrap_err().code(), FailureCode::NotFound);
    let mut unpack = guest.archive(open_exec::What::UnpackInto("/tmp".to_string()));
    unpack.send_all(&vec![b'x'; 2_000_000]);
    assert_eq!(unpack.finish().result.unwrap_err().code(), FailureCode::System);
    let unpack = guest.archive(open_exec::What::UnpackInto("/etc/passwd/below".to_string()));
    assert_eq!(unpack.finish().result.unwrap_err().code(), FailureCode::System);
    guest.power_off();
}
