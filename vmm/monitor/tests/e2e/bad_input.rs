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
use tempfile::TempDir;

use crate::support::{Metal, disk, within};

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

/// Monitors that a test starts one after another, and the files that it passes to them.
struct Monitors {
    metal: Metal,
    folder: TempDir,
    name: &'static str,
}

impl Monitors {
    fn find(name: &'static str) -> Option<Self> {
        Some(Self { metal: Metal::find()?, folder: tempfile::tempdir().unwrap(), name })
    }

    /// Returns the configuration of a valid machine.
    fn good(&self) -> MachineConfig {
        let mut config = MachineConfig::new(File::open(&self.metal.kernel).unwrap());
        config.initramfs = Some(File::open(&self.metal.initramfs).unwrap());
        config
    }

    /// Starts a monitor, runs a test, and checks that the monitor has ended then and that nothing remains.
    fn start(&self, test: impl FnOnce(&Client)) {
        let group = format!("hearth-e2e-{}-{}", std::process::id(), self.name);
        let cgroup = CgroupConfig::for_guest("/sys/fs/cgroup", group, 256 << 20);
        let jail = JailConfig { cgroup: Some(cgroup.clone()), ..JailConfig::default() };
        let run_dir = self.folder.path().join("run");
        let mut vmm = Launch::new(&self.metal.monitor, &run_dir).jail(jail).start().unwrap();
        test(vmm.client());
        let status = within("the end of the monitor", move || vmm.wait());
        assert!(status.unwrap().code().is_some());
        assert!(!cgroup.path().exists() && run_dir.read_dir().unwrap().next().is_none());
    }

    /// Checks that a monitor refuses to create a machine, and ends because of that.
    fn refuse(&self, config: MachineConfig, words: &[&str]) {
        self.start(|client| refused(client.create(config), ErrorCode::Invalid, words));
    }
}

#[test]
fn files_that_are_no_kernel_are_refused() {
    let Some(monitors) = Monitors::find("kernel") else { return };
    let folder = monitors.folder.path();
    let invalid = |file, words: &[&str]| monitors.refuse(MachineConfig::new(file), words);
    invalid(file_with(&folder.join("text"), &[b'x'; 4096]), &["kernel", "arm64 Image"]);
    invalid(file_with(&folder.join("empty"), b""), &["kernel", "0 bytes"]);
    let mut huge = vec![0; 64];
    huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    huge[56..60].copy_from_slice(b"ARM\x64");
    invalid(file_with(&folder.join("huge"), &huge), &["kernel", "128", "memory"]);
    invalid(File::open(folder).unwrap(), &["kernel"]);
}

#[test]
fn an_initramfs_that_is_empty_or_does_not_fit_is_refused() {
    let Some(monitors) = Monitors::find("initramfs") else { return };
    let folder = monitors.folder.path();
    let invalid = |file, words: &[&str]| {
        monitors.refuse(MachineConfig { initramfs: Some(file), ..monitors.good() }, words);
    };
    invalid(file_with(&folder.join("empty"), b""), &["initramfs", "empty"]);
    let large = file_with(&folder.join("large"), b"");
    large.set_len(1 << 30).unwrap();
    invalid(large, &["initramfs", "1024 MiB", "128 MiB"]);
}

#[test]
fn disks_that_are_none_are_refused_by_number() {
    let Some(monitors) = Monitors::find("disk") else { return };
    let folder = monitors.folder.path();
    let invalid = |disks, words: &[&str]| {
        monitors.refuse(MachineConfig { disks, ..monitors.good() }, words);
    };
    let whole = file_with(&folder.join("whole"), &[0; 4096]);
    let copy = || whole.try_clone().unwrap();
    let odd = file_with(&folder.join("odd"), &[0; 1000]);
    let disks = vec![disk(DiskSource::ReadOnly(copy()), ""), disk(DiskSource::Writable(odd), "")];
    invalid(disks, &["disk 1", "1000", "512"]);
    let overlay = file_with(&folder.join("overlay"), &[7; 8192]);
    let overlay = DiskSource::Overlay { base: copy(), layers: Vec::new(), overlay };
    invalid(vec![disk(overlay, "")], &["disk 0", "overlay"]);
    let not_writable = File::open(folder.join("whole")).unwrap();
    invalid(vec![disk(DiskSource::Writable(not_writable), "")], &["disk 0"]);
    invalid(vec![disk(DiskSource::ReadOnly(copy()), "an-id-of-twenty-one-b")], &["disk 0", "20 bytes"]);
}

#[test]
fn sizes_out_of_range_are_refused_with_the_range() {
    let Some(monitors) = Monitors::find("sizes") else { return };
    for vcpus in [0, 17, u32::MAX] {
        let config = MachineConfig { vcpus, ..monitors.good() };
        monitors.refuse(config, &[&vcpus.to_string(), "1 to 16"]);
    }
    for memory_mib in [0, 127, 32_769, u64::MAX] {
        let config = MachineConfig { memory_mib, ..monitors.good() };
        monitors.refuse(config, &[&memory_mib.to_string(), "128 to 32768"]);
    }
    let config = MachineConfig { command_line: "x".repeat(2048), ..monitors.good() };
    monitors.refuse(config, &["command line", "2047"]);
}

#[test]
fn requests_that_this_release_does_not_know_are_refused_and_change_nothing() {
    let Some(monitors) = Monitors::find("protocol") else { return };
    monitors.start(|client| {
        let request = |version, operation| client.request(&Request { version, operation }, &[]).map(|_| ());
        let other = request(99, Some(Operation::Pause(Pause {})));
        refused(other, ErrorCode::Protocol, &["99", &VERSIONS.to_string()]);
        refused(request(VERSIONS.newest(), None), ErrorCode::Protocol, &["operation"]);
        // A client of another release finds out in this way which versions the monitor speaks.
        request(99, Some(Operation::Hello(Hello {}))).unwrap();
        for early in [client.boot(), client.pause(), client.resume(), client.set_balloon(1)] {
            refused(early, ErrorCode::State, &["not created"]);
        }
        assert_eq!(client.status().unwrap().state(), MachineState::Empty);
        client.create(monitors.good()).unwrap();
        refused(client.create(monitors.good()), ErrorCode::State, &["created but has not been booted"]);
        client.shutdown().unwrap();
    });
}
