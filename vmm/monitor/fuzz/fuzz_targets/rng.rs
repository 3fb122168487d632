//! Fuzzes the entropy device with a hostile driver.
#![no_main]

use hearth_vmm::devices::virtio::rng::Rng;
use hearth_vmm::devices::virtio::testing::fuzz_device;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(device) = Rng::new() else { return };
    fuzz_device(device, data);
});
