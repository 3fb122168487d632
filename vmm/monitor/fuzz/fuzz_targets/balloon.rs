//! Fuzzes the memory balloon with a hostile driver.
#![no_main]

use hearth_vmm::devices::virtio::balloon::Balloon;
use hearth_vmm::devices::virtio::testing::fuzz_device;
use hearth_vmm_api::config::BalloonConfig;
use hearth_vmm_api::limits::MEMORY_MIB_RANGE;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let config = BalloonConfig { target_mib: 0, free_page_reporting: true };
    let Ok(device) = Balloon::new(config, *MEMORY_MIB_RANGE.end()) else { return };
    fuzz_device(device, data);
});
