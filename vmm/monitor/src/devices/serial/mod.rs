//! The serial console: a 16550A UART with byte-wide registers at consecutive addresses.
//!
//! `vm-superio` implements the registers. This module adds the limits that protect the host from the guest:
//! output passes through a [`sink::Sink`], which is bounded and never blocks a vCPU, and input is read only as
//! fast as the guest takes it, so no input accumulates in the monitor.
//!
//! vCPU threads access the registers, the device thread calls [`Serial::handle`]; the owner's lock serialises
//! them.

mod sink;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use hearth_proto::vmm::v1::SavedSerial;
pub use vm_superio::SerialState;
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial as Uart};
use vmm_sys_util::eventfd::EventFd;

use self::sink::Sink;
use super::bus::MmioDevice;
use crate::event_loop::{Interest, Poller, Ready};

/// Tokens of the console's descriptors.
const INPUT: u16 = 0;
const OUTPUT: u16 = 1;
const FLUSH: u16 = 2;

/// Number of registers, each one byte wide.
const REGISTERS: u64 = 8;
/// Offset of the modem control register and its loopback bit.
const MODEM_CONTROL: u8 = 4;
const LOOPBACK: u8 = 0x10;
/// Largest number of bytes that are read at once: the size of the FIFO.
const FIFO_SIZE: usize = 64;

/// Output, input and limit of the console.
#[derive(Debug)]
pub struct SerialConfig {
    /// A file, pipe, socket or terminal for the guest's output. The descriptor becomes non-blocking unless it is a
    /// file; `None` discards the output.
    pub output: Option<OwnedFd>,
    /// A pipe, socket or terminal from which the guest's input is read. A descriptor that epoll cannot watch, such as
    /// `/dev/null`, counts as no input.
    pub input: Option<OwnedFd>,
    /// Limit on the bytes of output that are written to a file over the life of this device. Other outputs take no
    /// disk space and have no limit.
    pub max_bytes: u64,
}

/// The interrupt line.
#[derive(Debug)]
struct Line(EventFd);

impl Trigger for Line {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        let _ = self.0.write(1); // fails only when it is raised already
        Ok(())
    }
}

/// Converts the registers from a snapshot; `None` when a register's value does not fit into a byte.
#[must_use]
pub fn saved_state(saved: &SavedSerial) -> Option<SerialState> {
    let byte = |value: u32| u8::try_from(value).ok();
    Some(SerialState {
        baud_divisor_low: byte(saved.baud_divisor_low)?,
        baud_divisor_high: byte(saved.baud_divisor_high)?,
        interrupt_enable: byte(saved.interrupt_enable)?,
        interrupt_identification: byte(saved.interrupt_identification)?,
        line_control: byte(saved.line_control)?,
        line_status: byte(saved.line_status)?,
        modem_control: byte(saved.modem_control)?,
        modem_status: byte(saved.modem_status)?,
        scratch: byte(saved.scratch)?,
        in_buffer: saved.input.clone(),
    })
}

/// The serial console device.
#[derive(Debug)]
pub struct Serial {
    uart: Uart<Line, NoEvents, Sink>,
    poller: Poller,
    input: Option<OwnedFd>,
    /// Whether the input is not watched because the guest's FIFO is full.
    paused: bool,
    input_bytes: u64,
}

impl Serial {
    /// Makes a console in the state after power-on. The caller registers `interrupt` as an irqfd and passes the events
    /// of `poller`'s loop to [`Self::handle`].
    ///
    /// # Errors
    /// When a descriptor cannot be watched or the host has none left.
    pub fn new(config: SerialConfig, interrupt: EventFd, poller: Poller) -> io::Result<Self> {
        Self::with_state(config, interrupt, poller, &SerialState::default())
    }

    /// Makes a console with saved registers; a pending interrupt is raised again.
    ///
    /// # Errors
    /// Those of [`Self::new`], and an error when the state contains more input than the FIFO can hold.
    pub fn with_state(
        config: SerialConfig,
        interrupt: EventFd,
        poller: Poller,
        state: &SerialState,
    ) -> io::Result<Self> {
        let sink = Sink::new(config.output, config.max_bytes, poller.clone())?;
        let uart = Uart::from_state(state, Line(interrupt), NoEvents, sink)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let mut input = config.input;
        if let Some(fd) = &input {
            match poller.add(fd, INPUT, Interest::READ) {
                Ok(()) => {}
                // epoll refuses files and similar descriptors, because they are always ready.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => input = None,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { uart, poller, input, paused: false, input_bytes: 0 })
    }

    /// State of the registers.
    #[must_use]
    pub fn state(&self) -> SerialState {
        self.uart.state()
    }

    /// State of the registers in the format of a snapshot.
    #[must_use]
    pub fn save(&self) -> SavedSerial {
        let state = self.state();
        SavedSerial {
            baud_divisor_low: state.baud_divisor_low.into(),
            baud_divisor_high: state.baud_divisor_high.into(),
            interrupt_enable: state.interrupt_enable.into(),
            interrupt_identification: state.interrupt_identification.into(),
            line_control: state.line_control.into(),
            line_status: state.line_status.into(),
            modem_control: state.modem_control.into(),
            modem_status: state.modem_status.into(),
            scratch: state.scratch.into(),
            input: state.in_buffer,
        }
    }

    /// Handles an event from the device thread's event loop.
    pub fn handle(&mut self, ready: Ready) {
        match ready.token {
            INPUT => self.read_input(),
            OUTPUT => self.uart.writer_mut().writable(),
            FLUSH => self.uart.writer_mut().flush_due(),
            _ => {}
        }
    }

    /// Puts as much of `data` into the guest's FIFO as fits, and returns the number of bytes taken.
    pub fn push_input(&mut self, data: &[u8]) -> usize {
        let data = data.get(..self.input_room()).unwrap_or(data);
        // Fails only when the FIFO is full, and an interrupt line never fails.
        let taken = self.uart.enqueue_raw_bytes(data).unwrap_or(0);
        self.input_bytes += taken as u64;
        taken
    }

    /// Number of bytes of input that the guest can take now; 0 while the guest has set the UART to loopback.
    fn input_room(&mut self) -> usize {
        if self.uart.read(MODEM_CONTROL) & LOOPBACK != 0 { 0 } else { self.uart.fifo_capacity() }
    }

    fn read_input(&mut self) {
        let room = self.input_room().min(FIFO_SIZE);
        let Some(input) = &self.input else { return };
        if room > 0 {
            let mut buffer = [0u8; FIFO_SIZE];
            // SAFETY: at most the buffer's length is requested.
            let got = unsafe { libc::read(input.as_raw_fd(), buffer.as_mut_ptr().cast(), room) };
            match usize::try_from(got) {
                Ok(got) if got > 0 => {
                    self.push_input(buffer.get(..got).unwrap_or_default());
                }
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => {}
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                // The input is at its end or broken: the writer is gone.
                Ok(_) | Err(_) => {
                    let _ = self.poller.remove(input);
                    self.input = None;
                }
            }
        }
        if self.input_room() == 0
            && let Some(input) = &self.input
        {
            // The input is removed from the loop, not only muted: a hang-up would still be reported.
            self.paused = self.poller.remove(input).is_ok();
        }
    }

    /// Watches the input again once the guest has made room.
    fn resume_input(&mut self) {
        if self.paused
            && self.input_room() > 0
            && let Some(input) = &self.input
        {
            self.paused = self.poller.add(input, INPUT, Interest::READ).is_err();
        }
    }

    /// The console's counters, by name.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let sink = self.uart.writer();
        vec![
            ("output_bytes", sink.written()),
            ("output_dropped_bytes", sink.dropped()),
            ("input_bytes", self.input_bytes),
        ]
    }
}

/// Registers are one byte wide; wider accesses are ignored.
impl MmioDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let ([value], Ok(offset @ 0..8)) = (data, u8::try_from(offset)) {
            *value = self.uart.read(offset);
            self.resume_input();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([value], Ok(register)) = (data, u8::try_from(offset))
            && offset < REGISTERS
        {
            // The sink never fails, nor does the interrupt line.
            let _ = self.uart.write(register, *value);
            self.resume_input();
        }
    }
}
