//! The DeviceTree, which describes the board to the guest (Devicetree Specification 0.4; bindings in
//! Linux, Documentation/devicetree/bindings).

use vm_fdt::{Error, FdtWriter};

use crate::arch::caches::{Cache, CacheKind};
use crate::arch::layout::{self, spi};
use crate::devices::virtio::mmio::MMIO_WINDOW;
use crate::memory::DRAM_BASE;

const GIC: u32 = 1;
const CLOCK: u32 = 2;
/// First phandle of a CPU; CPU `i` has `CPU + i`.
const CPU: u32 = 0x100;
/// First phandle of a cache that is not part of a CPU's own node.
const CACHE: u32 = 0x200;

const INTERRUPT_SPI: u32 = 0;
const INTERRUPT_PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// Private peripheral interrupts of the architected timer: secure, non-secure, virtual, hypervisor.
const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];
/// The GIC's own maintenance interrupt.
const GIC_PPI: u32 = 9;
/// Frequency in Hz that the DeviceTree names for the clock of the UART and the RTC. Nothing runs at this frequency.
const PERIPHERAL_CLOCK: u32 = 24_000_000;
/// Frequency from which a 16550 divides its baud rate, in Hz.
const UART_CLOCK: u32 = 1_843_200;

/// The facts that the DeviceTree describes.
#[derive(Debug)]
pub struct Description<'a> {
    /// Guest memory in bytes, from [`DRAM_BASE`].
    pub memory: u64,
    /// Affinity of each vCPU.
    pub affinities: &'a [u64],
    /// Caches of each vCPU, nearest first.
    pub caches: &'a [Cache],
    /// Kernel command line.
    pub command_line: &'a str,
    /// Whether the serial console has an output or an input. Without one, the DeviceTree has no UART, and the guest
    /// does not spend time at boot on probing the UART and writing to it.
    pub console: bool,
    /// Address and size of the initramfs.
    pub initramfs: Option<(u64, u64)>,
    /// Number of virtio-mmio slots in use.
    pub virtio_devices: u16,
    /// Size of the VM generation id's window in bytes, if there is one.
    pub vmgenid: Option<u64>,
    /// Random bytes that seed the guest's random number generator early at boot.
    pub rng_seed: &'a [u8; 64],
}

/// Writes the DeviceTree.
///
/// # Errors
/// The writer's error for an invalid name or value (such as a NUL in the command line).
pub fn build(description: &Description<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "Hearth microVM")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;
    chosen(&mut fdt, description)?;
    let node = fdt.begin_node(&format!("memory@{DRAM_BASE:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[DRAM_BASE, description.memory])?;
    fdt.end_node(node)?;
    cpus(&mut fdt, description)?;
    interrupt_controller(&mut fdt, description.affinities.len() as u64)?;
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_null("always-on")?;
    let cells: Vec<u32> = TIMER_PPIS.iter().flat_map(|&ppi| [INTERRUPT_PPI, ppi, LEVEL_HIGH]).collect();
    fdt.property_array_u32("interrupts", &cells)?;
    fdt.end_node(node)?;
    let node = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)?;
    legacy_devices(&mut fdt, description.console)?;
    if let Some(size) = description.vmgenid {
        let node = fdt.begin_node(&format!("vmgenid@{:x}", layout::VMGENID))?;
        fdt.property_string("compatible", "microsoft,vmgenid")?;
        fdt.property_array_u64("reg", &[layout::VMGENID, size])?;
        fdt.property_array_u32("interrupts", &[INTERRUPT_SPI, spi::VMGENID, EDGE_RISING])?;
        fdt.end_node(node)?;
    }
    for slot in 0..description.virtio_devices {
        let base = layout::virtio_base(slot);
        let node = fdt.begin_node(&format!("virtio_mmio@{base:x}"))?;
        fdt.property_string("compatible", "virtio,mmio")?;
        fdt.property_array_u64("reg", &[base, MMIO_WINDOW])?;
        fdt.property_array_u32("interrupts", &[INTERRUPT_SPI, layout::virtio_spi(slot), EDGE_RISING])?;
        fdt.property_null("dma-coherent")?;
        fdt.end_node(node)?;
    }
    fdt.end_node(root)?;
    fdt.finish()
}

fn chosen(fdt: &mut FdtWriter, description: &Description<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", description.command_line)?;
    if description.console {
        fdt.property_string("stdout-path", &format!("/uart@{:x}", layout::UART))?;
    }
    if let Some((address, size)) = description.initramfs {
        fdt.property_u64("linux,initrd-start", address)?;
        fdt.property_u64("linux,initrd-end", address + size)?;
    }
    // There is no kaslr-seed: all clones of a snapshot would share one layout anyway, and a randomised kernel isolates
    // its page tables (KPTI) even on CPUs that Meltdown does not affect, which slows down every system call.
    fdt.property("rng-seed", description.rng_seed)?;
    fdt.end_node(node)
}

fn cpus(fdt: &mut FdtWriter, description: &Description<'_>) -> Result<(), Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    let (own, outer): (Vec<Cache>, Vec<Cache>) =
        description.caches.iter().partition(|cache| cache.level == 1);
    // A cache that CPUs share is a node of its own, beside the CPUs; a private one beyond level 1 belongs to a CPU.
    let shared_from = outer.iter().position(|cache| cache.shared).unwrap_or(outer.len());
    let (private, shared) = outer.split_at(shared_from);
    let mut phandle = CACHE;
    let shared_phandles = phandle;
    phandle += phandles(shared.len());
    for (index, &affinity) in (0..).zip(description.affinities) {
        let node = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,arm-v8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u64("reg", affinity)?;
        fdt.property_phandle(CPU + index)?;
        for cache in &own {
            cache_properties(fdt, cache)?;
        }
        let mut opened = Vec::new();
        for cache in private {
            fdt.property_u32("next-level-cache", phandle)?;
            opened.push(fdt.begin_node(&format!("l{}-cache", cache.level))?);
            cache_node(fdt, cache, phandle)?;
            phandle += 1;
        }
        if !shared.is_empty() {
            fdt.property_u32("next-level-cache", shared_phandles)?;
        }
        for node in opened.into_iter().rev() {
            fdt.end_node(node)?;
        }
        fdt.end_node(node)?;
    }
    for (index, cache) in (0..).zip(shared) {
        let node = fdt.begin_node(&format!("l{}-cache", cache.level))?;
        cache_node(fdt, cache, shared_phandles + index)?;
        if usize::try_from(index + 1).is_ok_and(|next| next < shared.len()) {
            fdt.property_u32("next-level-cache", shared_phandles + index + 1)?;
        }
        fdt.end_node(node)?;
    }
    let map = fdt.begin_node("cpu-map")?;
    let cluster = fdt.begin_node("cluster0")?;
    for index in 0..phandles(description.affinities.len()) {
        let core = fdt.begin_node(&format!("core{index}"))?;
        fdt.property_u32("cpu", CPU + index)?;
        fdt.end_node(core)?;
    }
    fdt.end_node(cluster)?;
    fdt.end_node(map)?;
    fdt.end_node(cpus)
}

/// Converts a count that is known to be small (vCPUs, caches) to a number of phandles.
fn phandles(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn cache_properties(fdt: &mut FdtWriter, cache: &Cache) -> Result<(), Error> {
    let prefix = match cache.kind {
        CacheKind::Data => "d-cache",
        CacheKind::Instruction => "i-cache",
        CacheKind::Unified => "cache",
    };
    fdt.property_u32(&format!("{prefix}-size"), cache.size)?;
    fdt.property_u32(&format!("{prefix}-line-size"), cache.line_size)?;
    fdt.property_u32(&format!("{prefix}-sets"), cache.sets)
}

fn cache_node(fdt: &mut FdtWriter, cache: &Cache, phandle: u32) -> Result<(), Error> {
    fdt.property_phandle(phandle)?;
    fdt.property_string("compatible", "cache")?;
    fdt.property_u32("cache-level", u32::from(cache.level))?;
    fdt.property_null("cache-unified")?;
    cache_properties(fdt, cache)
}

fn interrupt_controller(fdt: &mut FdtWriter, vcpus: u64) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("intc@{:x}", layout::GIC_DISTRIBUTOR))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let redistributors = layout::GIC_REDISTRIBUTOR_SIZE * vcpus;
    let distributor = [layout::GIC_DISTRIBUTOR, layout::GIC_DISTRIBUTOR_SIZE];
    fdt.property_array_u64(
        "reg",
        &[distributor[0], distributor[1], layout::GIC_REDISTRIBUTOR, redistributors],
    )?;
    fdt.property_array_u32("interrupts", &[INTERRUPT_PPI, GIC_PPI, LEVEL_HIGH])?;
    fdt.property_phandle(GIC)?;
    fdt.end_node(node)
}

fn legacy_devices(fdt: &mut FdtWriter, console: bool) -> Result<(), Error> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", PERIPHERAL_CLOCK)?;
    fdt.property_phandle(CLOCK)?;
    fdt.end_node(node)?;
    if console {
        let node = fdt.begin_node(&format!("uart@{:x}", layout::UART))?;
        fdt.property_string("compatible", "ns16550a")?;
        fdt.property_array_u64("reg", &[layout::UART, layout::UART_SIZE])?;
        fdt.property_array_u32("interrupts", &[INTERRUPT_SPI, spi::UART, EDGE_RISING])?;
        fdt.property_u32("clock-frequency", UART_CLOCK)?;
        fdt.end_node(node)?;
    }
    let node = fdt.begin_node(&format!("rtc@{:x}", layout::RTC))?;
    fdt.property_string_list("compatible", vec!["arm,pl031".into(), "arm,primecell".into()])?;
    fdt.property_array_u64("reg", &[layout::RTC, layout::RTC_SIZE])?;
    fdt.property_array_u32("interrupts", &[INTERRUPT_SPI, spi::RTC, LEVEL_HIGH])?;
    fdt.property_u32("clocks", CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)
}
