//! The socket device: its queues, its configuration space and the host's descriptors that it was given.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use hearth_vmm_api::config::VsockConfig;

use super::muxer::Muxer;
use super::rx::RxQueue;
use super::{Limits, MIN_GUEST_CID, TOKEN_BROKER, TOKEN_LISTENER, TOKEN_STREAMS, TOKEN_TIMER, VsockError};
use crate::devices::virtio::queue::{Chain, QueueState, VirtQueue};
use crate::devices::virtio::{
    Activation, COMMON_FEATURES, DeviceError, DeviceType, VirtioDevice, read_config_bytes,
};
use crate::event_loop::{Interest, Poller};

/// Largest size of each queue.
const QUEUE_SIZE: u16 = 256;
const RX: usize = 0;
const TX: usize = 1;
const EVENT: usize = 2;
/// Number of rounds of sending and receiving per event, so that the device thread also serves its other devices.
const ROUNDS: usize = 4;
/// Largest number of clients that are accepted per event.
const ACCEPT_BATCH: usize = 64;
/// Time for which the listener is not watched when the host is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`, a `le32` (5.10.6.7).
const TRANSPORT_RESET: [u8; 4] = 0u32.to_le_bytes();

/// Time that a driver has to process a reset event before packets are sent to it in any case. A live driver takes
/// milliseconds, on a crowded host longer; no known driver fails to return the event buffer.
const HOLD: Duration = Duration::from_secs(30);

/// Holds back packets after a reset event. A driver would also reset streams that were opened between the event and
/// its processing of the event, so nothing is sent to it in that time.
#[derive(Debug, Clone, Copy)]
struct Hold {
    /// The driver's index of available event buffers when the event was sent.
    before: u16,
    /// Latest time until which packets are held back.
    until: Instant,
}

/// State that exists between activation and reset.
#[derive(Debug)]
struct Active {
    rx: RxQueue,
    tx: TxQueue,
    event: Option<VirtQueue>,
    event_chain: Chain,
    poller: Poller,
}

/// The transmit queue.
#[derive(Debug)]
struct TxQueue {
    queue: VirtQueue,
    chain: Chain,
    /// Whether the driver may have made packets available that were not taken yet.
    waiting: bool,
}

impl TxQueue {
    /// Handles packets until there are none or further ones could not be answered, at most one queue length of them.
    fn drain(&mut self, muxer: &mut Muxer) -> Result<(), DeviceError> {
        if !self.waiting {
            return Ok(());
        }
        self.queue.disable_notification()?;
        let mut used = false;
        for _ in 0..QUEUE_SIZE {
            if !muxer.accepts_packets() {
                break;
            }
            if self.queue.pop(&mut self.chain)? {
                muxer.receive(&self.chain)?;
                self.queue.push_used(self.chain.head(), 0)?;
                used = true;
            } else if !self.queue.enable_notification()? {
                self.waiting = false;
                break;
            }
        }
        if used {
            self.queue.notify()?;
        }
        Ok(())
    }
}

/// The socket device.
#[derive(Debug)]
pub struct Vsock {
    muxer: Muxer,
    config_space: [u8; 8],
    listener: Option<UnixListener>,
    /// Whether the listener is being watched.
    listening: bool,
    /// Whether accepting is paused because the host was out of descriptors.
    accept_paused: bool,
    /// Whether the driver must be notified that all streams are gone, once it has a buffer for the event.
    reset_pending: bool,
    /// Set after the driver was notified: nothing is sent to it until it has processed the event.
    hold: Option<Hold>,
    active: Option<Active>,
}

impl Vsock {
    /// Makes a device with the default [`Limits`].
    ///
    /// # Errors
    /// [`VsockError`] when the CID is reserved or the host refuses an operation.
    pub fn new(config: VsockConfig) -> Result<Self, VsockError> {
        Self::with_limits(config, Limits::default())
    }

    /// Makes a device with the given limits.
    ///
    /// # Errors
    /// [`VsockError`] when the CID is reserved, a limit is out of range or the host refuses an operation.
    pub fn with_limits(config: VsockConfig, limits: Limits) -> Result<Self, VsockError> {
        if !(MIN_GUEST_CID..u32::MAX).contains(&config.guest_cid) {
            return Err(VsockError::ReservedCid(config.guest_cid));
        }
        limits.check()?;
        let guest_cid = u64::from(config.guest_cid);
        let muxer = Muxer::new(guest_cid, limits).map_err(VsockError::host("making the vsock timer"))?;
        let mut device = Self {
            muxer,
            config_space: guest_cid.to_le_bytes(),
            listener: None,
            listening: false,
            accept_paused: false,
            reset_pending: false,
            hold: None,
            active: None,
        };
        device.set_listener(config.listener)?;
        device.set_broker(config.broker)?;
        Ok(device)
    }

    /// Replaces the listener, or removes it. Streams continue.
    ///
    /// # Errors
    /// [`VsockError::Host`] when the listener cannot be made non-blocking or watched; the device has none then.
    pub fn set_listener(&mut self, listener: Option<UnixListener>) -> Result<(), VsockError> {
        self.unwatch_listener();
        self.listener = None;
        if let Some(listener) = &listener {
            listener
                .set_nonblocking(true)
                .map_err(VsockError::host("making the vsock listener non-blocking"))?;
        }
        self.listener = listener;
        self.watch_listener().map_err(|source| {
            self.listener = None;
            VsockError::Host { what: "watching the vsock listener", source }
        })
    }

    /// Replaces the broker, or removes it. Requests that the old broker has not answered yet are
    /// reset; open streams continue.
    ///
    /// # Errors
    /// [`VsockError::Host`] when the broker cannot be watched; the device has none then.
    pub fn set_broker(&mut self, broker: Option<OwnedFd>) -> Result<(), VsockError> {
        let changed = self.muxer.set_broker(broker).and_then(|()| self.kick());
        changed.map_err(VsockError::host("changing the vsock broker"))
    }

    /// Connects `stream`, a connected stream socket, to the guest's `port`; the socket is closed if the guest does
    /// not accept. Nothing but the stream's data is sent on the socket.
    ///
    /// # Errors
    /// [`VsockError`] when no driver runs, no slot is free or the host refuses to watch the socket.
    pub fn connect(&mut self, port: u32, stream: UnixStream) -> Result<(), VsockError> {
        if self.active.is_none() {
            return Err(VsockError::Inactive);
        }
        if !self.muxer.table.has_room() {
            return Err(VsockError::Full(self.muxer.limits.streams));
        }
        let connected = self.muxer.connect(port, stream).and_then(|()| self.kick());
        connected.map_err(VsockError::host("connecting a socket to the guest"))
    }

    /// Drops all streams and notifies the driver (`VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`) as soon as it has a
    /// buffer for the event. The driver then also reads its CID again. This is for a restored guest.
    ///
    /// # Errors
    /// [`VsockError::Host`] when the device thread cannot be woken.
    pub fn transport_reset(&mut self) -> Result<(), VsockError> {
        self.muxer.drop_streams();
        self.reset_pending = true;
        self.kick().map_err(VsockError::host("resetting the vsock transport"))
    }

    /// Makes the device thread check everything soon: it carries out the requests of other threads, so
    /// that an error stops the device as usual.
    fn kick(&mut self) -> io::Result<()> {
        if self.active.is_some() { self.muxer.kick(Duration::ZERO) } else { Ok(()) }
    }

    /// Watches the listener only while a client could be served.
    fn watch_listener(&mut self) -> io::Result<()> {
        let (Some(active), Some(listener)) = (&self.active, &self.listener) else { return Ok(()) };
        let wanted = self.muxer.table.has_room() && !self.accept_paused;
        if wanted && !self.listening {
            active.poller.add(listener, TOKEN_LISTENER, Interest::READ)?;
        } else if !wanted && self.listening {
            active.poller.remove(listener)?;
        }
        self.listening = wanted;
        Ok(())
    }

    fn unwatch_listener(&mut self) {
        if let (true, Some(active), Some(listener)) = (self.listening, &self.active, &self.listener) {
            let _ = active.poller.remove(listener); // it is about to be closed or ignored in any case
        }
        self.listening = false;
    }

    fn accept(&mut self) -> Result<(), DeviceError> {
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = &self.listener else { break };
            if !self.muxer.table.has_room() {
                break;
            }
            match listener.accept() {
                Ok((client, _)) => self.muxer.greet(client)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    self.accept_paused = true;
                    let kicked = self.muxer.kick(ACCEPT_PAUSE);
                    return kicked.map_err(DeviceError::backend("setting the vsock timer"));
                }
            }
        }
        Ok(())
    }

    /// Sends and receives all packets that can be handled now.
    fn work(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if self.reset_pending
            && let Some(before) = active.announce_reset()?
        {
            self.reset_pending = false;
            self.hold = Some(Hold { before, until: Instant::now() + HOLD });
        }
        if let Some(hold) = self.hold {
            let left = hold.until.saturating_duration_since(Instant::now());
            if !left.is_zero() && !active.has_seen_reset(hold.before)? {
                active.tx.drain(&mut self.muxer)?;
                self.muxer.kick(left).map_err(DeviceError::backend("setting the vsock timer"))?;
                return self.watch_listener().map_err(DeviceError::backend("watching the vsock listener"));
            }
            self.hold = None;
        }
        let mut more = true;
        for _ in 0..ROUNDS {
            active.tx.drain(&mut self.muxer)?;
            self.muxer.ask_broker()?;
            more = self.muxer.transmit(&mut active.rx)?;
            active.rx.complete()?;
            more |= active.tx.waiting && self.muxer.accepts_packets();
            if !more {
                break;
            }
        }
        if more {
            self.muxer.kick(Duration::ZERO).map_err(DeviceError::backend("setting the vsock timer"))?;
        }
        self.watch_listener().map_err(DeviceError::backend("watching the vsock listener"))
    }
}

impl Active {
    /// Notifies the driver that all streams are gone. Returns `None` when it has no buffer for the event, otherwise its
    /// index of available buffers before it returns this buffer. The driver returns the buffer after it has processed
    /// the event, and then notifies the device.
    fn announce_reset(&mut self) -> Result<Option<u16>, DeviceError> {
        let Some(queue) = &mut self.event else { return Ok(Some(0)) };
        let chain = &mut self.event_chain;
        if !(queue.pop(chain)? || queue.enable_notification()? && queue.pop(chain)?) {
            return Ok(None);
        }
        if chain.write_at(0, &TRANSPORT_RESET) < TRANSPORT_RESET.len() {
            return Err(DeviceError::Protocol("a vsock event buffer has no room for an event"));
        }
        let head = chain.head();
        // The driver notifies only for buffers after the last popped one, so all available ones are popped briefly.
        let mut others = 0;
        while others < QUEUE_SIZE {
            if queue.pop(chain)? {
                others += 1;
            } else if !queue.enable_notification()? {
                break;
            }
        }
        let index = queue.available_index()?;
        queue.undo_pop(others);
        queue.push_used(head, 4)?;
        queue.notify()?;
        Ok(Some(index))
    }

    /// Whether the driver has returned the buffer of an event that was sent when its index was `before`.
    fn has_seen_reset(&self, before: u16) -> Result<bool, DeviceError> {
        match &self.event {
            Some(queue) => Ok(queue.available_index()? != before),
            None => Ok(true),
        }
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 3]
    }

    fn offered_features(&self) -> u64 {
        COMMON_FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config_space, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), DeviceError> {
        let rx = RxQueue::new(activation.require_queue(RX)?);
        let tx = TxQueue { queue: activation.require_queue(TX)?, chain: Chain::new(), waiting: true };
        let event = activation.queues.get_mut(EVENT).and_then(Option::take);
        let poller = activation.poller;
        self.muxer.start(poller.clone()).map_err(DeviceError::backend("watching the vsock descriptors"))?;
        self.active = Some(Active { rx, tx, event, event_chain: Chain::new(), poller });
        self.work()
    }

    fn reset(&mut self) {
        self.unwatch_listener();
        self.muxer.stop();
        self.accept_paused = false;
        self.reset_pending = false;
        self.hold = None;
        self.active = None;
    }

    fn queue_notified(&mut self, queue: usize) -> Result<(), DeviceError> {
        if let (TX, Some(active)) = (queue, &mut self.active) {
            active.tx.waiting = true;
        }
        self.work()
    }

    fn event(&mut self, token: u16, events: u32) -> Result<(), DeviceError> {
        match token {
            TOKEN_LISTENER => self.accept()?,
            TOKEN_BROKER => self.muxer.broker_ready()?,
            TOKEN_TIMER => {
                self.accept_paused = false;
                self.muxer.expire()?;
            }
            _ => {
                if let Some(slot) = token.checked_sub(TOKEN_STREAMS) {
                    self.muxer.stream_ready(slot, events)?;
                }
            }
        }
        self.work()
    }

    fn queue_states(&self) -> Vec<Option<QueueState>> {
        let Some(active) = &self.active else { return Vec::new() };
        let event = active.event.as_ref().map(VirtQueue::state);
        vec![Some(active.rx.queue_state()), Some(active.tx.queue.state()), event]
    }

    /// Resets the transport: the streams belonged to the monitor that took the snapshot.
    fn restored(&mut self) -> Result<(), DeviceError> {
        self.muxer.shuffle_ports().map_err(DeviceError::backend("reading random bytes"))?;
        self.transport_reset().map_err(|error| DeviceError::Backend {
            what: "resetting the vsock transport",
            source: io::Error::other(error),
        })
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.muxer.counters;
        vec![
            ("rx_packets", counters.rx_packets),
            ("tx_packets", counters.tx_packets),
            ("rx_bytes", counters.rx_bytes),
            ("tx_bytes", counters.tx_bytes),
            ("tx_dropped", counters.tx_dropped),
            ("connections_opened", counters.connections_opened),
            ("connections_active", self.muxer.table.len() as u64),
            ("resets_sent", counters.resets_sent),
            ("credit_stalls", counters.credit_stalls),
        ]
    }
}
