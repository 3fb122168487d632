//! Messages of netlink(7): a header, a structure, attributes.

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

/// A request that is being built.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of this kind. `NLM_F_REQUEST` and `NLM_F_ACK` are added to `flags`.
    pub(super) fn new(kind: u16, flags: libc::c_int) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or_default();
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self { bytes }
    }

    /// `struct ifinfomsg`.
    pub(super) fn link(&mut self, device: u32, flags: u32, change: u32) {
        self.bytes.extend_from_slice(&[0; 4]);
        for field in [device, flags, change] {
            self.bytes.extend_from_slice(&field.to_ne_bytes());
        }
    }

    /// `struct ifaddrmsg` of an IPv4 address.
    pub(super) fn address(&mut self, device: u32, prefix: u8) {
        self.bytes.extend_from_slice(&[super::AF_INET, prefix, 0, 0]);
        self.bytes.extend_from_slice(&device.to_ne_bytes());
    }

    /// `struct rtmsg` of an IPv4 route.
    pub(super) fn route(&mut self, prefix: u8, table: u8, protocol: u8, scope: u8, kind: u8) {
        self.bytes.extend_from_slice(&[
            super::AF_INET,
            prefix,
            0,
            0,
            table,
            protocol,
            scope,
            kind,
            0,
            0,
            0,
            0,
        ]);
    }

    /// Appends a structure unchanged.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends an attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |message| message.bytes.extend_from_slice(value));
    }

    /// Appends an attribute that holds a text with a zero at its end.
    pub(super) fn text(&mut self, kind: u16, text: &str) {
        self.nested(kind, |message| {
            message.bytes.extend_from_slice(text.as_bytes());
            message.bytes.push(0);
        });
    }

    /// Appends an attribute that contains others.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or_default();
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The finished request.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or_default();
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// The 32-bit number at this offset in bytes from the kernel.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// The 16-bit number at this offset in bytes from the kernel.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// The attributes in these bytes.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)?;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}
