//! Tests of invalid input: it is refused with a reason that names it, and leaves nothing behind.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use hearth_proto::vmm::v1::request::Operation;
use hearth_proto::vmm::v1::{ErrorCode, Hello, MachineState, Pause, Request};
use hearth_vmm_api::config::{DiskSource, MachineConfig};
use hearth_vmm_api::protocol::VERSIONS;
use hearth_vmm_client::{Client, ClientError, Launch};
use hearth_vmm_jail::{CgroupConfig, JailConfig};

use crate::support::{Metal, disk};

fn file_with(path: &Path, content: &[u8]) -> File {
    let mut file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
    file.write_all(content).unwrap();
    file
}

fn refused(result: Result<(), ClientError>, code: ErrorCode, words: &[&str]) {
    match result {
        Err(ClientError::Refused { code: found, message }) => {
            assert_eq!(found, code, "{message}");
            for word in words {
                assert!(message.contains(word), "no `{word}` in: {message}");
            }
        }
        other => panic!("{other:?} instead of a refusal with {words:?}"),
    }
}

/// Starts a monitor, runs a test whose requests the monitor must refuse, and checks that a valid machine can still be
/// created and that nothing remains in the end.
fn with_monitor(name: &str, test: impl FnOnce(&Client, &dyn Fn() -> MachineConfig, &Path)) {
    let Some(metal) = Metal::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let group = format!("hearth-e2e-{}-{name}", std::process::id());
    let cgroup = CgroupConfig::for_guest("/sys/fs/cgroup", group, 256 << 20);
    let jail = JailConfig { cgroup: Some(cgroup.clone()), ..JailConfig::default() };
    let run_dir = folder.path().join("run");
    let mut vmm = Launch::new(&metal.monitor, &run_dir).jail(jail).start().unwrap();
    let good = || {
        let mut config = MachineConfig::new(File::open(&metal.kernel).unwrap());
        config.initramfs = Some(File::open(&metal.initramfs).unwrap());
        config
    };
    test(vmm.client(), &good, folder.path());
    assert_eq!(vmm.client().status().unwrap().state(), MachineState::Empty);
    vmm.client().create(good()).unwrap();
    vmm.client().shutdown().unwrap();
    assert!(vmm.wait().unwrap().code().is_some());
    assert!(!cgroup.path().exists() && run_dir.read_dir().unwrap().next().is_none());
}

#[test]
fn files_that_are_no_kernel_are_refused() {
    with_monitor("kernel", |client, _, folder| {
        let invalid = |file, words: &[&str]| {
            refused(client.create(MachineConfig::new(file)), ErrorCode::Invalid, words);
        };
        invalid(file_with(&folder.join("text"), &[b'x'; 4096]), &["kernel", "arm64 Image"]);
        invalid(file_with(&folder.join("empty"), b""), &["kernel", "0 bytes"]);
        let mut huge = vec![0; 64];
        huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        huge[56..60].copy_from_slice(b"ARM\x64");
        invalid(file_with(&folder.join("huge"), &huge), &["kernel", "128", "memory"]);
        invalid(File::open(folder).unwrap(), &["kernel"]);
    });
}

#[test]
fn an_initramfs_that_is_empty_or_does_not_fit_is_refused() {
    with_monitor("initramfs", |client, good, folder| {
        let mut config = good();
        config.initramfs = Some(file_with(&folder.join("empty"), b""));
        refused(client.create(config), ErrorCode::Invalid, &["initramfs", "empty"]);
        let mut config = good();
        let large = file_with(&folder.join("large"), b"");
        large.set_len(1 << 30).unwrap();
        config.initramfs = Some(large);
        refused(client.create(config), ErrorCode::Invalid, &["initramfs", "1024 MiB", "128 MiB"]);
    });
}

#[test]
fn disks_that_are_none_are_refused_by_number() {
    with_monitor("disk", |client, good, folder| {
        let whole = file_with(&folder.join("whole"), &[0; 4096]);
        let odd = file_with(&folder.join("odd"), &[0; 1000]);
        let mut config = good();
        config.disks = vec![
            disk(DiskSource::ReadOnly(whole.try_clone().unwrap()), ""),
            disk(DiskSource::Writable(odd), ""),
        ];
        refused(client.create(config), ErrorCode::Invalid, &["disk 1", "1000", "512"]);

        let mut config = good();
        let overlay = file_with(&folder.join("overlay"), &[7; 8192]);
        config.disks = vec![disk(
            DiskSource::Overlay { base: whole.try_clone().unwrap(), layers: Vec::new(), overlay },
            "",
        )];
        refused(client.create(config), ErrorCode::Invalid, &["disk 0", "overlay"]);

        let mut config = good();
        let not_writable = File::open(folder.join("whole")).unwrap();
        config.disks = vec![disk(DiskSource::Writable(not_writable), "")];
        refused(client.create(config), ErrorCode::Invalid, &["disk 0"]);

        let mut config = good();
        config.disks = vec![disk(DiskSource::ReadOnly(whole), "an-id-of-twenty-one-b")];
        refused(client.create(config), ErrorCode::Invalid, &["disk 0", "20 bytes"]);
    });
}

#[test]
fn sizes_out_of_range_are_refused_with_the_range() {
    with_monitor("sizes", |client, good, _| {
        for vcpus in [0, 17, u32::MAX] {
            let config = MachineConfig { vcpus, ..good() };
            refused(client.create(config), ErrorCode::Invalid, &[&vcpus.to_string(), "1 to 16"]);
        }
        for memory_mib in [0, 127, 32_769, u64::MAX] {
            let config = MachineConfig { memory_mib, ..good() };
            refused(client.create(config), ErrorCode::Invalid, &[&memory_mib.to_string(), "128 to 32768"]);
        }
        let config = MachineConfig { command_line: "x".repeat(2048), ..good() };
        refused(client.create(config), ErrorCode::Invalid, &["command line", "2047"]);
    });
}

#[test]
fn requests_that_this_release_does_not_know_are_refused() {
    with_monitor("protocol", |client, _, _| {
        let request = |version, operation| client.request(&Request { version, operation }, &[]).map(|_| ());
        let other = request(99, Some(Operation::Pause(Pause {})));
        refused(other, ErrorCode::Protocol, &["99", &VERSIONS.to_string()]);
        refused(request(VERSIONS.newest(), None), ErrorCode::Protocol, &["operation"]);
        // A client of another release finds out in this way which versions the monitor speaks.
        request(99, Some(Operation::Hello(Hello {}))).unwrap();
        for early in [client.boot(), client.pause(), client.resume(), client.set_balloon(1)] {
            refused(early, ErrorCode::State, &["not created"]);
        }
    });
}
