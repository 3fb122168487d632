//! The network card device: configuration, features, events.

use hearth_vmm_api::config::NetConfig;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};

use super::super::drain::Wakeup;
use super::super::queue::QueueState;
use super::super::{Activation, COMMON_FEATURES, DeviceError, DeviceType, VirtioDevice, read_config_bytes};
use super::backend::{Backend, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, Kind};
use super::error::{MIN_MTU, NetError};
use super::receive::{self, Receiver};
use super::throttle::Throttle;
use super::transmit::{self, Transmitter};
use super::{Counters, QUEUE_SIZE};
use crate::event_loop::{Interest, Poller};

pub(super) const MRG_RXBUF: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const MTU: u64 = 1 << VIRTIO_NET_F_MTU;
const OWN_FEATURES: u64 = 1 << VIRTIO_NET_F_CSUM
    | GUEST_CSUM
    | 1 << VIRTIO_NET_F_MAC
    | GUEST_TSO4
    | GUEST_TSO6
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | MRG_RXBUF;

/// Index of the receive queue.
pub(super) const RX: usize = 0;
/// Index of the transmit queue.
pub(super) const TX: usize = 1;

/// Tokens of the device's descriptors.
const BACKEND: u16 = 0;
const RX_TIMER: u16 = 1;
const TX_TIMER: u16 = 2;
const MORE: u16 = 3;

const ERROR_EVENTS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

#[derive(Debug)]
struct Active {
    poller: Poller,
    receiver: Receiver,
    transmitter: Transmitter,
    /// Whether the guest has buffers for packets, as far as is known.
    rx_ready: bool,
    /// Whether the backend has no room for the packet at the head of the transmit queue.
    tx_blocked: bool,
    /// Events for which the backend is watched; `None` once it is closed.
    interest: Option<Interest>,
}

/// The network card device.
#[derive(Debug)]
pub struct Net {
    backend: Backend,
    mac: [u8; 6],
    mtu: Option<u16>,
    rx_throttle: Throttle,
    tx_throttle: Throttle,
    /// Length of a received packet whose tokens are still to be paid.
    rx_debt: Option<usize>,
    more: Wakeup,
    rx: Counters,
    tx: Counters,
    active: Option<Active>,
}

impl Net {
    /// Makes a card on `config.tap`.
    ///
    /// # Errors
    /// [`NetError`] when a value is out of range or the descriptor is not a tap with a virtio header.
    pub fn new(config: NetConfig) -> Result<Self, NetError> {
        Self::with_kind(config, Kind::Tap)
    }

    /// Makes a card whose `config.tap` is a datagram or sequenced-packet socket. The peer, a test or a fuzzer, uses
    /// the tap's format: one packet with a 12-byte header per message.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    #[cfg(any(test, feature = "testing"))]
    pub fn on_socket(config: NetConfig) -> Result<Self, NetError> {
        Self::with_kind(config, Kind::Socket)
    }

    fn with_kind(config: NetConfig, kind: Kind) -> Result<Self, NetError> {
        let [first, ..] = config.mac;
        if first & 1 == 1 || config.mac == [0; 6] {
            return Err(NetError::Mac(config.mac));
        }
        if let Some(mtu) = config.mtu.filter(|&mtu| mtu < MIN_MTU) {
            return Err(NetError::Mtu(mtu));
        }
        let backend = Backend::new(config.tap, kind).map_err(NetError::Tap)?;
        Ok(Self {
            backend,
            mac: config.mac,
            mtu: config.mtu,
            rx_throttle: Throttle::new(config.receive_limiter)?,
            tx_throttle: Throttle::new(config.transmit_limiter)?,
            rx_debt: None,
            more: Wakeup::new().map_err(NetError::Descriptors)?,
            rx: Counters::default(),
            tx: Counters::default(),
            active: None,
        })
    }

    fn receive(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if self.rx_throttle.waiting() || active.interest.is_none() {
            return Ok(());
        }
        let outcome =
            active.receiver.run(&self.backend, &mut self.rx_throttle, &mut self.rx_debt, &mut self.rx)?;
        active.rx_ready = outcome != receive::Outcome::WaitBuffers;
        if outcome == receive::Outcome::Closed {
            self.close();
        }
        self.watch()
    }

    fn transmit(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if self.tx_throttle.waiting() || active.tx_blocked {
            return Ok(());
        }
        let wait = active.interest.is_some();
        let (throttle, more, counters) = (&mut self.tx_throttle, &self.more, &mut self.tx);
        let outcome = active.transmitter.run(&self.backend, throttle, more, wait, counters)?;
        active.tx_blocked = outcome == transmit::Outcome::WaitWritable;
        self.watch()
    }

    /// Watches the backend only for events that the card can handle now: any other event would be reported again
    /// and again.
    fn watch(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let wanted = match (active.rx_ready && !self.rx_throttle.waiting(), active.tx_blocked) {
            (false, false) => Interest::NONE,
            (true, false) => Interest::READ,
            (false, true) => Interest::WRITE,
            (true, true) => Interest::BOTH,
        };
        if active.interest.is_some_and(|interest| interest != wanted) {
            let changed = active.poller.modify(&self.backend, BACKEND, wanted);
            changed.map_err(DeviceError::backend("watching the network backend"))?;
            active.interest = Some(wanted);
        }
        Ok(())
    }

    /// Handles the loss of the backend: the card stays, as if its cable were pulled.
    fn close(&mut self) {
        if let Some(active) = &mut self.active
            && active.interest.take().is_some()
        {
            let _ = active.poller.remove(&self.backend); // a closed descriptor has been removed already
            active.tx_blocked = false;
            // Packets that waited for room are dropped now.
            self.more.signal();
        }
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn offered_features(&self) -> u64 {
        COMMON_FEATURES | OWN_FEATURES | if self.mtu.is_some() { MTU } else { 0 }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let [a, b, c, d, e, f] = self.mac;
        let [low, high] = self.mtu.unwrap_or(0).to_le_bytes();
        // Address, status and number of queue pairs (neither feature offered), MTU (5.1.4).
        read_config_bytes(&[a, b, c, d, e, f, 0, 0, 0, 0, low, high], offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), DeviceError> {
        let (rx, tx) = (activation.require_queue(RX)?, activation.require_queue(TX)?);
        self.backend
            .set_offloads(activation.features)
            .map_err(DeviceError::backend("setting the tap's offloads"))?;
        let active = self.active.insert(Active {
            poller: activation.poller,
            receiver: Receiver::new(rx, activation.memory, activation.features & MRG_RXBUF != 0),
            transmitter: Transmitter::new(tx),
            rx_ready: false,
            tx_blocked: false,
            interest: Some(Interest::NONE),
        });
        let poller = &active.poller;
        poller
            .add(&self.backend, BACKEND, Interest::NONE)
            .and_then(|()| poller.add(&self.rx_throttle, RX_TIMER, Interest::READ))
            .and_then(|()| poller.add(&self.tx_throttle, TX_TIMER, Interest::READ))
            .and_then(|()| poller.add(&self.more, MORE, Interest::READ))
            .map_err(DeviceError::backend("watching the network card's descriptors"))?;
        // There is no notification for buffers that the driver added before it was ready.
        self.more.signal();
        Ok(())
    }

    fn reset(&mut self) {
        // After an activation that failed half-way some descriptors are not registered; removing them fails harmlessly.
        if let Some(Active { poller, .. }) = self.active.take() {
            let _ = poller.remove(&self.backend);
            let _ = poller.remove(&self.rx_throttle);
            let _ = poller.remove(&self.tx_throttle);
            let _ = poller.remove(&self.more);
        }
        self.more.clear();
    }

    fn queue_notified(&mut self, queue: usize) -> Result<(), DeviceError> {
        match queue {
            RX => {
                if let Some(active) = &mut self.active {
                    active.receiver.disable_notification()?;
                }
                self.receive()
            }
            _ => self.transmit(),
        }
    }

    fn event(&mut self, token: u16, events: u32) -> Result<(), DeviceError> {
        match token {
            BACKEND => {
                if events & libc::EPOLLOUT as u32 != 0
                    && let Some(active) = &mut self.active
                {
                    active.tx_blocked = false;
                    self.transmit()?;
                }
                if events & !(libc::EPOLLOUT as u32) != 0 {
                    self.receive()?;
                }
                if events & ERROR_EVENTS != 0 {
                    self.close();
                }
                Ok(())
            }
            RX_TIMER => {
                self.rx_throttle
                    .expired()
                    .map_err(DeviceError::backend("clearing the receive limit's timer"))?;
                self.receive()
            }
            TX_TIMER => {
                self.tx_throttle
                    .expired()
                    .map_err(DeviceError::backend("clearing the transmit limit's timer"))?;
                self.transmit()
            }
            _ => {
                self.more.clear();
                self.receive()?;
                self.transmit()
            }
        }
    }

    /// Puts the receive buffers that were taken in advance back into their queue; no other request outlasts a call.
    fn quiesce(&mut self) -> Result<(), DeviceError> {
        if let Some(active) = &mut self.active {
            active.receiver.put_back();
        }
        Ok(())
    }

    fn queue_states(&self) -> Vec<Option<QueueState>> {
        match &self.active {
            Some(active) => vec![Some(active.receiver.queue_state()), Some(active.transmitter.queue_state())],
            None => Vec::new(),
        }
    }

    fn set_limits(&mut self, limits: DeviceLimits) -> Result<(), DeviceError> {
        self.rx_throttle.change(limits.receive)?;
        self.tx_throttle.change(limits.transmit)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("rx_packets", self.rx.packets),
            ("rx_bytes", self.rx.bytes),
            ("rx_drops", self.rx.drops),
            ("rx_errors", self.rx.errors),
            ("rx_throttled", self.rx_throttle.throttled),
            ("tx_packets", self.tx.packets),
            ("tx_bytes", self.tx.bytes),
            ("tx_drops", self.tx.drops),
            ("tx_errors", self.tx.errors),
            ("tx_throttled", self.tx_throttle.throttled),
        ]
    }
}
