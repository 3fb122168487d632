//! The MMIO bus, which dispatches accesses to guest-physical addresses that are not memory to the devices.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A device with registers on the bus. Offsets are relative to the device's base address and always inside its
/// window; `data` is 1, 2, 4 or 8 bytes long.
pub trait MmioDevice: Send {
    /// The guest reads `data.len()` bytes at `offset`; bytes left untouched read as zero.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` at `offset`; the device ignores writes to registers that it does not have.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Why a device could not be placed on the bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The window is empty, wraps, or overlaps another device's.
    #[error("MMIO window {base:#x}+{size:#x} is empty, wraps around or overlaps another device")]
    Overlap {
        /// First address of the refused window.
        base: u64,
        /// Size of the refused window in bytes.
        size: u64,
    },
}

/// Address windows and the devices behind them.
#[derive(Default)]
pub struct Bus {
    windows: BTreeMap<u64, (u64, Arc<Mutex<dyn MmioDevice>>)>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.windows.iter().map(|(base, (size, _))| (base, size))).finish()
    }
}

impl Bus {
    /// Places `device` at the addresses `base..base + size`.
    ///
    /// # Errors
    /// [`BusError::Overlap`] when the window is empty, wraps or overlaps an existing one.
    pub fn insert(
        &mut self,
        base: u64,
        size: u64,
        device: Arc<Mutex<dyn MmioDevice>>,
    ) -> Result<(), BusError> {
        let refused = BusError::Overlap { base, size };
        let Some(end) = base.checked_add(size).filter(|_| size > 0) else { return Err(refused) };
        let before = self.windows.range(..end).next_back();
        if before.is_some_and(|(other, (length, _))| other + length > base) {
            return Err(refused);
        }
        self.windows.insert(base, (size, device));
        Ok(())
    }

    fn find(&self, address: u64, length: usize) -> Option<(u64, &Arc<Mutex<dyn MmioDevice>>)> {
        let (base, (size, device)) = self.windows.range(..=address).next_back()?;
        let offset = address - base;
        let end = offset.checked_add(u64::try_from(length).ok()?)?;
        (end <= *size).then_some((offset, device))
    }

    /// Reads from the device at `address`. Where there is none, reads zeros and returns `false`.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        data.fill(0);
        let Some((offset, device)) = self.find(address, data.len()) else { return false };
        device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
        true
    }

    /// Writes to the device at `address`. Where there is none, ignores the write and returns `false`.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let Some((offset, device)) = self.find(address, data.len()) else { return false };
        device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder(Vec<(u64, Vec<u8>)>);

    impl MmioDevice for Recorder {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data[0] = u8::try_from(offset).unwrap();
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    #[test]
    fn accesses_reach_the_device_they_fall_into_and_nothing_else() {
        let device = Arc::new(Mutex::new(Recorder::default()));
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x100, device.clone()).unwrap();
        let mut data = [9; 4];
        assert!(bus.read(0x1010, &mut data));
        assert_eq!(data, [0x10, 0, 0, 0]);
        assert!(bus.write(0x10fc, &[1, 2, 3, 4]));
        assert!(!bus.write(0x10fd, &[1, 2, 3, 4]), "an access that sticks out of the window is nobody's");
        assert!(!bus.write(0xfff, &[1]) && !bus.read(0x1100, &mut data) && !bus.read(u64::MAX, &mut data));
        assert_eq!(device.lock().unwrap().0, [(0xfc, vec![1, 2, 3, 4])]);
    }

    #[test]
    fn overlapping_windows_are_refused() {
        let device = || Arc::new(Mutex::new(Recorder::default()));
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x100, device()).unwrap();
        for (base, size) in
            [(0x1000, 0x100), (0xfff, 2), (0x10ff, 1), (0, 0x2000), (0x5000, 0), (u64::MAX, 2)]
        {
            assert_eq!(bus.insert(base, size, device()), Err(BusError::Overlap { base, size }));
        }
        bus.insert(0x1100, 0x100, device()).unwrap();
        bus.insert(0xf00, 0x100, device()).unwrap();
    }
}
