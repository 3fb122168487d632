//! The real-time clock, an Arm PrimeCell PL031 (Arm DDI 0224): seconds since 1970, from the host's clock.
//!
//! `vm-superio` implements the registers. A guest may set its clock; that changes an offset of the guest's own and
//! no clock of the host. The alarm has no effect, because the device has no interrupt.

use hearth_proto::vmm::v1::SavedRtc;
pub use vm_superio::RtcState;
use vm_superio::rtc_pl031::NoEvents;

use super::bus::MmioDevice;

/// Size of the clock's register window in bytes.
pub const RTC_WINDOW: u64 = 0x1000;

/// The real-time clock device.
#[derive(Debug, Default)]
pub struct Rtc(vm_superio::Rtc<NoEvents>);

impl Rtc {
    /// Makes a clock with saved registers. It shows the host's time plus the offset that the guest had set.
    #[must_use]
    pub fn with_state(state: &RtcState) -> Self {
        Self(vm_superio::Rtc::from_state(state, NoEvents))
    }

    /// State of the registers.
    #[must_use]
    pub fn state(&self) -> RtcState {
        self.0.state()
    }

    /// State of the registers in the format of a snapshot.
    #[must_use]
    pub fn save(&self) -> SavedRtc {
        let RtcState { lr, offset, mr, imsc, ris } = self.state();
        SavedRtc { load: lr, offset, r#match: mr, interrupt_mask: imsc, interrupt_status: ris }
    }

    /// Makes a clock from the state that [`Self::save`] returned.
    #[must_use]
    pub fn restore(saved: &SavedRtc) -> Self {
        Self::with_state(&RtcState {
            lr: saved.load,
            offset: saved.offset,
            mr: saved.r#match,
            imsc: saved.interrupt_mask,
            ris: saved.interrupt_status,
        })
    }
}

/// The offset as `vm-superio` takes it; `None` when it is not aligned to 32 bits or lies outside the window.
fn register(offset: u64) -> Option<u16> {
    u16::try_from(offset).ok().filter(|_| offset < RTC_WINDOW && offset.is_multiple_of(4))
}

impl MmioDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (Ok(data), Some(register)) = (<&mut [u8; 4]>::try_from(data), register(offset)) {
            self.0.read(register, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(data), Some(register)) = (<&[u8; 4]>::try_from(data), register(offset)) {
            self.0.write(register, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    const DATA: u64 = 0;
    const LOAD: u64 = 8;

    fn get(rtc: &mut Rtc, offset: u64) -> u32 {
        let mut data = [0; 4];
        rtc.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    #[test]
    fn the_clock_shows_the_hosts_time() {
        let before = now();
        let shown = u64::from(get(&mut Rtc::default(), DATA));
        assert!((before..=now()).contains(&shown));
    }

    #[test]
    fn what_the_guest_sets_survives_a_snapshot() {
        let mut rtc = Rtc::default();
        rtc.write(LOAD, &1_000_000u32.to_le_bytes());
        let mut restored = Rtc::with_state(&rtc.state());
        assert!((1_000_000..1_000_100).contains(&get(&mut restored, DATA)));
        assert_eq!(get(&mut restored, LOAD), 1_000_000);
    }

    #[test]
    fn the_identification_registers_are_a_pl031s() {
        let mut rtc = Rtc::default();
        let ids: Vec<u32> = (0..8).map(|index| get(&mut rtc, 0xfe0 + 4 * index)).collect();
        assert_eq!(ids, [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    }

    #[test]
    fn accesses_that_are_no_registers_do_nothing() {
        let mut rtc = Rtc::default();
        let state = rtc.state();
        for (offset, width) in
            [(8, 1), (8, 2), (8, 8), (9, 4), (10, 4), (0x1008, 4), (u64::MAX, 4), (0x1_0008, 4)]
        {
            rtc.write(offset, &vec![1; width]);
            let mut data = vec![0; width];
            rtc.read(offset, &mut data);
            assert_eq!((rtc.state(), data), (state, vec![0; width]), "{offset:#x}/{width}");
        }
    }
}
