//! The header in front of every vsock packet (virtio 1.2, 5.10.6).

/// Size of a header on the wire, in bytes.
pub(super) const HEADER_LEN: usize = 44;
/// The host's context identifier, fixed by the specification (5.10.4).
pub(super) const HOST_CID: u64 = 2;
/// `VIRTIO_VSOCK_TYPE_STREAM`, the only supported socket type.
pub(super) const TYPE_STREAM: u16 = 1;
/// `SHUTDOWN` flag: its sender will receive no more data.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// `SHUTDOWN` flag: its sender will send no more data.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both `SHUTDOWN` flags: the sender has shut down the stream in both directions.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// Operation of a packet (`VIRTIO_VSOCK_OP_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Op {
    /// Requests a connection.
    Request = 1,
    /// Accepts a connection.
    Response = 2,
    /// Refuses or closes a connection at once.
    Reset = 3,
    /// Shuts down one or both directions, as its flags specify.
    Shutdown = 4,
    /// Carries data (`RW`).
    Data = 5,
    /// Reports how many more bytes may be sent.
    CreditUpdate = 6,
    /// Requests a [`Self::CreditUpdate`].
    CreditRequest = 7,
}

impl Op {
    /// The operation with this number; `None` for one that the specification does not define.
    pub(super) fn from_wire(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// A packet header in the host's byte order; kind and operation are not validated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Number of bytes of payload after the header.
    pub(super) len: u32,
    /// `VIRTIO_VSOCK_TYPE_*`.
    pub(super) kind: u16,
    /// `VIRTIO_VSOCK_OP_*`.
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Size in bytes of the receive buffer that the sender of this packet has for the stream.
    pub(super) buf_alloc: u32,
    /// Number of bytes of the stream that have left that buffer so far, modulo 2³².
    pub(super) fwd_cnt: u32,
}

/// Takes little-endian fields from the front of the wire format.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        *field
    }
    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

impl Header {
    /// Parses a header from the wire format.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            src_cid: fields.u64(),
            dst_cid: fields.u64(),
            src_port: fields.u32(),
            dst_port: fields.u32(),
            len: fields.u32(),
            kind: fields.u16(),
            op: fields.u16(),
            flags: fields.u32(),
            buf_alloc: fields.u32(),
            fwd_cnt: fields.u32(),
        }
    }

    /// The header in the wire format.
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut rest = bytes.as_mut_slice();
        let mut put = |field: &[u8]| {
            if let Some((to, tail)) = std::mem::take(&mut rest).split_at_mut_checked(field.len()) {
                to.copy_from_slice(field);
                rest = tail;
            }
        };
        put(&self.src_cid.to_le_bytes());
        put(&self.dst_cid.to_le_bytes());
        put(&self.src_port.to_le_bytes());
        put(&self.dst_port.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&self.op.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buf_alloc.to_le_bytes());
        put(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The reset that answers this packet when it belongs to no stream (5.10.6.4): the addresses are swapped.
    pub(super) fn reset_reply(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Reset as u16,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_its_place_on_the_wire() {
        let bytes: [u8; HEADER_LEN] = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let header = Header::from_bytes(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.dst_cid, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!((header.src_port, header.dst_port, header.len), (0x1312_1110, 0x1716_1514, 0x1b1a_1918));
        assert_eq!((header.kind, header.op, header.flags), (0x1d1c, 0x1f1e, 0x2322_2120));
        assert_eq!((header.buf_alloc, header.fwd_cnt), (0x2726_2524, 0x2b2a_2928));
        assert_eq!(header.to_bytes(), bytes);
    }

    #[test]
    fn operations_keep_their_numbers() {
        for number in 0..=u16::MAX {
            assert_eq!(Op::from_wire(number).map_or(0, |op| op as u16), if number < 8 { number } else { 0 });
        }
    }
}
