//! `hearth-vmm boot`: opens the given files, starts a jailed monitor, passes the descriptors to it, and shows the
//! guest's console until the machine exits.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use hearth_vmm_api::config::{BalloonConfig, DiskConfig, MachineConfig, NetConfig, VsockConfig};
use hearth_vmm_client::Client;
use hearth_vmm_client::tap;

use super::args::{Disk, Tap, Vsock};
use super::host::{Disks, NewFile, VsockHost, open};
use super::origin::Origin;
use super::session::{Console, Session, SessionOptions};

#[derive(Debug, Args)]
pub(super) struct Boot {
    /// Kernel: an uncompressed arm64 Image
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,

    /// Initramfs
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// Kernel command line
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0 reboot=k panic=1")]
    cmdline: String,

    /// Number of vCPUs, 1 to 16
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    vcpus: u32,

    /// Memory in MiB, 128 to 32768
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory: u64,

    /// Disk, read-only unless told otherwise: PATH[,ro|,rw|,overlay=PATH][,serial=ID]; may be repeated
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<Disk>,

    /// Network card on an existing tap: NAME[,mac=ADDRESS][,mtu=BYTES]; may be repeated
    #[arg(long = "tap", value_name = "TAP")]
    taps: Vec<Tap>,

    /// Vsock device: PATH[,cid=N]. A socket is made at PATH, to which a client writes "CONNECT PORT"; a guest
    /// that connects to port P of the host reaches the socket PATH_P
    #[arg(long, value_name = "VSOCK")]
    vsock: Option<Vsock>,

    /// Balloon with free page reporting, taking this much memory at first
    #[arg(long, value_name = "MIB")]
    balloon: Option<u32>,

    /// Entropy device
    #[arg(long)]
    rng: bool,

    #[command(flatten)]
    session: SessionOptions,
}

fn open_tap(index: usize, tap: &Tap) -> anyhow::Result<NetConfig> {
    let number = u8::try_from(index).context("too many network cards")?;
    Ok(NetConfig {
        tap: tap::open_tap(&tap.name)?,
        // Locally administered, and different from the addresses that other hypervisors assign.
        mac: tap.mac.unwrap_or([0x06, b'h', b'r', b't', b'h', number]),
        mtu: tap.mtu,
        receive_limiter: None,
        transmit_limiter: None,
    })
}

impl Boot {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (console, guest_output, guest_input) = Console::open()?;
        let mut sockets = None;
        let mut open_vsock = |vsock: &Vsock| -> anyhow::Result<VsockConfig> {
            let VsockHost { listener, broker, file } = VsockHost::open(&vsock.path)?;
            sockets = Some(file);
            Ok(VsockConfig { guest_cid: vsock.cid, listener: Some(listener), broker: Some(broker) })
        };
        let vsock = self.vsock.as_ref().map(&mut open_vsock).transpose()?;
        let Disks { sources, overlays, new } = Disks::open(&self.disks)?;
        new.into_iter().for_each(NewFile::keep);
        let disks = sources.into_iter().zip(&self.disks).map(|(source, disk)| DiskConfig {
            source,
            serial: disk.serial.clone(),
            rate_limiter: None,
            room: None,
        });
        let nets = self.taps.iter().enumerate().map(|(index, tap)| open_tap(index, tap));
        let config = MachineConfig {
            vcpus: self.vcpus,
            memory_mib: self.memory,
            initramfs: self.initrd.as_ref().map(|path| open("initramfs", path, false)).transpose()?,
            command_line: self.cmdline.clone(),
            disks: disks.collect(),
            nets: nets.collect::<Result<_, _>>()?,
            vsock,
            balloon: self.balloon.map(|target_mib| BalloonConfig { target_mib, free_page_reporting: true }),
            rng: self.rng,
            console_output: Some(guest_output),
            console_input: Some(guest_input),
            console_max_bytes: u64::MAX,
            ..MachineConfig::new(open("kernel", &self.kernel, false)?)
        };
        config.validate()?;
        let session = Session::start(self.session, self.memory, &Origin { base: None, overlays })?;
        session.client().create(config)?;
        let quit = |client: &Client| {
            let _ = client.shutdown(); // the monitor may have exited by itself
        };
        let ended = session.run(console, |client| Ok(client.boot()?), quit);
        drop(sockets);
        ended
    }
}
