use hearth_proto::vmm::v1 as proto;
use proto::DescriptorRole as Role;

use super::rate_limiter::{BucketConfig, DeviceLimits, MAX_REFILL_MS, RateLimiterConfig};
use super::*;

fn file() -> File {
    tempfile::tempfile().unwrap()
}

fn full() -> MachineConfig {
    let bucket = BucketConfig { size: 10, one_time_burst: 5, refill_ms: 100 };
    let limiter = Some(RateLimiterConfig { bytes: Some(bucket), ops: None });
    MachineConfig {
        vcpus: 4,
        memory_mib: 512,
        initramfs: Some(file()),
        command_line: "console=ttyS0".into(),
        disks: vec![
            DiskConfig {
                source: DiskSource::ReadOnly(file()),
                serial: "a".into(),
                rate_limiter: limiter,
                room: None,
            },
            DiskConfig {
                source: DiskSource::Overlay { base: file(), layers: vec![file()], overlay: file() },
                serial: "b".into(),
                rate_limiter: None,
                room: Some(1 << 30),
            },
        ],
        nets: vec![NetConfig {
            tap: file(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: Some(1400),
            receive_limiter: None,
            transmit_limiter: limiter,
        }],
        vsock: Some(VsockConfig { guest_cid: 3, listener: None, broker: Some(file().into()) }),
        balloon: Some(BalloonConfig { target_mib: 16, free_page_reporting: true }),
        rng: true,
        console_output: Some(file().into()),
        exit_report: Some(file().into()),
        ..MachineConfig::new(file())
    }
}

#[test]
fn a_machine_survives_the_way_through_a_message() {
    let (message, fds) = full().into_message(file().into());
    let (config, _kvm) = MachineConfig::from_message(message.clone(), fds).unwrap();
    let (again, fds) = config.try_clone().unwrap().into_message(file().into());
    assert_eq!(message, again);
    assert_eq!(fds.len(), message.descriptors.len());
    assert_eq!(config.virtio_devices(), 6);
}

#[test]
fn limits_replace_those_of_every_device() {
    let bucket = |size| BucketConfig { size, one_time_burst: 0, refill_ms: MAX_REFILL_MS };
    let limit = |size| Some(RateLimiterConfig { bytes: None, ops: Some(bucket(size)) });
    let limits = DeviceLimits { disk: limit(1), receive: None, transmit: limit(3), room: Some(4) };
    assert_eq!(DeviceLimits::from_message(limits.message()).unwrap(), limits);
    let (mut described, _fds) = full().into_message(file().into());
    limits.describe(&mut described);
    let mut config = full();
    config.set_limits(limits);
    let (set, _fds) = config.into_message(file().into());
    assert_eq!(described, set, "a snapshot says the same as a machine that is built with these limits");
    assert!(set.disks.iter().all(|disk| disk.rate_limiter == limits.message().disk));
    assert_eq!(
        (set.nets[0].receive_limiter, set.nets[0].transmit_limiter),
        (None, limits.message().transmit)
    );
    for (size, refill_ms) in [(0, 1), (1, 0), (1, MAX_REFILL_MS + 1)] {
        let bytes = Some(proto::TokenBucket { size, one_time_burst: 0, refill_ms });
        let disk = Some(proto::RateLimiter { bytes, operations: None });
        DeviceLimits::from_message(proto::DeviceLimits { disk, ..Default::default() }).unwrap_err();
    }
}

#[test]
fn every_wrong_value_is_named() {
    let refused = |change: fn(&mut MachineConfig)| {
        let mut config = full();
        change(&mut config);
        let (message, fds) = config.into_message(file().into());
        MachineConfig::from_message(message, fds).unwrap_err().to_string()
    };
    assert!(refused(|config| config.vcpus = 0).contains("0 vCPUs"));
    assert!(refused(|config| config.vcpus = 17).contains("1 to 16"));
    assert!(refused(|config| config.memory_mib = 64).contains("64 MiB"));
    assert!(refused(|config| config.command_line = "x".repeat(2048)).contains("2048 bytes"));
    assert!(refused(|config| config.command_line = "a\0b".into()).contains("NUL"));
    assert!(refused(|config| config.disks[1].serial = "s".repeat(21)).contains("disk 1"));
    assert!(refused(|config| config.vsock.as_mut().unwrap().guest_cid = 2).contains("reserved"));
    let many = |config: &mut MachineConfig| {
        let disk = || DiskConfig {
            source: DiskSource::ReadOnly(file()),
            serial: String::new(),
            rate_limiter: None,
            room: None,
        };
        config.disks = std::iter::repeat_with(disk).take(40).collect();
    };
    assert!(refused(many).contains("32 slots"));
}

#[test]
fn descriptors_must_be_just_those_that_the_machine_needs() {
    let (message, mut fds) = full().into_message(file().into());
    fds.pop();
    let error = MachineConfig::from_message(message.clone(), fds).unwrap_err().to_string();
    assert!(error.contains("names 11 descriptors and carries 10"), "{error}");

    let drop_role = |role: Role| {
        let (mut message, mut fds) = full().into_message(file().into());
        let at = message.descriptors.iter().position(|descriptor| descriptor.role() == role).unwrap();
        message.descriptors.remove(at);
        fds.remove(at);
        MachineConfig::from_message(message, fds).unwrap_err().to_string()
    };
    assert!(drop_role(Role::Kvm).contains("KVM 0 descriptor is missing"));
    assert!(drop_role(Role::DiskOverlay).contains("DISK_OVERLAY 1 descriptor is missing"));

    let (mut message, fds) = full().into_message(file().into());
    message.nets.clear();
    let error = MachineConfig::from_message(message, fds).unwrap_err().to_string();
    assert!(error.contains("TAP 0"), "{error}");
}
