//! Fuzzes the memory balloon with a hostile driver.
#![no_main]

use hearth_vmm::devices::virtio::balloon::{Balloon, BalloonConfig};
use hearth_vmm::devices::virtio::testing::fuzz_device;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(device) = Balloon::new(BalloonConfig::default()) else { return };
    fuzz_device(device, data);
});
