//! Block requests as a driver lays them out (5.2.6): which operation, on which sectors, or why not.
//!
//! A chain is a header of 16 bytes and the data to write, readable, then the data to read and one status byte,
//! writable; how that is cut into descriptors is the driver's business. Nothing read here is trusted to stay:
//! what is needed again later is read and checked again.

use virtio_bindings::virtio_blk as blk;

use super::SECTOR_SIZE;
use crate::devices::virtio::queue::Chain;

/// Bytes of a request's header.
pub(super) const HEADER_LEN: usize = 16;
/// Bytes of a device's serial number, zero-padded.
pub(super) const SERIAL_LEN: usize = blk::VIRTIO_BLK_ID_BYTES as usize;
/// Most segments in one discard or write-zeroes request.
pub(super) const MAX_SEGMENTS: u32 = 16;
/// Most sectors in a segment of a discard request: 1 GiB.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Most sectors in a segment of a write-zeroes request: 32 MiB, which may have to be written in full.
pub(super) const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 16;

const SEGMENT_LEN: usize = 16;

/// The status byte that ends a request (5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// What a driver wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Disk to guest.
    Read,
    /// Guest to disk.
    Write,
    /// Everything written so far becomes durable.
    Flush,
    /// The serial number.
    GetId,
    /// The guest no longer needs what is in these segments.
    Discard,
    /// These segments read as zeros from now on.
    WriteZeroes,
}

/// A request that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) operation: Operation,
    /// First sector of a read or write.
    pub(super) sector: u64,
    /// Bytes to read, to write or to zero.
    pub(super) bytes: u64,
    /// Segments of a discard or write-zeroes request.
    pub(super) segments: u32,
}

/// Why a chain is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is answered with this status.
    With(Status),
    /// There is not even a byte for the status.
    NoStatusByte,
}

/// What the disk and the negotiated features allow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) sectors: u64,
    pub(super) read_only: bool,
    pub(super) discard: bool,
    pub(super) write_zeroes: bool,
}

/// A range of a discard or write-zeroes request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) sector: u64,
    pub(super) sectors: u64,
    /// The host may give the storage back.
    pub(super) unmap: bool,
}

/// Reads what `chain` asks for.
pub(super) fn parse(chain: &Chain, limits: &Limits) -> Result<Request, Refused> {
    let Some(room) = chain.writable_len().checked_sub(1) else { return Err(Refused::NoStatusByte) };
    let mut header = [0; HEADER_LEN];
    if chain.read_at(0, &mut header) < HEADER_LEN {
        return Err(Refused::With(Status::IoError));
    }
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    let sent = chain.readable_len() - HEADER_LEN;
    let request = |operation, bytes, segments| Ok(Request { operation, sector, bytes, segments });
    let kind = u32::from_le_bytes([t0, t1, t2, t3]);
    let changes =
        matches!(kind, blk::VIRTIO_BLK_T_OUT | blk::VIRTIO_BLK_T_DISCARD | blk::VIRTIO_BLK_T_WRITE_ZEROES);
    if changes && limits.read_only {
        return Err(Refused::With(Status::IoError));
    }
    match kind {
        blk::VIRTIO_BLK_T_IN => request(Operation::Read, whole_sectors(sector, room, limits)?, 0),
        blk::VIRTIO_BLK_T_OUT => request(Operation::Write, whole_sectors(sector, sent, limits)?, 0),
        blk::VIRTIO_BLK_T_FLUSH => request(Operation::Flush, 0, 0),
        blk::VIRTIO_BLK_T_GET_ID if room >= SERIAL_LEN => request(Operation::GetId, 0, 0),
        blk::VIRTIO_BLK_T_GET_ID => Err(Refused::With(Status::IoError)),
        blk::VIRTIO_BLK_T_DISCARD if limits.discard => segments(chain, Operation::Discard, sent, limits),
        blk::VIRTIO_BLK_T_WRITE_ZEROES if limits.write_zeroes => {
            segments(chain, Operation::WriteZeroes, sent, limits)
        }
        _ => Err(Refused::With(Status::Unsupported)),
    }
}

/// Checks that `bytes` from `sector` on are sectors of the disk.
fn whole_sectors(sector: u64, bytes: usize, limits: &Limits) -> Result<u64, Refused> {
    let bytes = bytes as u64;
    let end = sector.checked_add(bytes / SECTOR_SIZE);
    let inside = end.is_some_and(|end| end <= limits.sectors);
    if inside && bytes.is_multiple_of(SECTOR_SIZE) { Ok(bytes) } else { Err(Refused::With(Status::IoError)) }
}

/// Checks all segments of a request whose segments take `sent` bytes.
fn segments(chain: &Chain, operation: Operation, sent: usize, limits: &Limits) -> Result<Request, Refused> {
    let count = u32::try_from(sent / SEGMENT_LEN).unwrap_or(u32::MAX);
    if !sent.is_multiple_of(SEGMENT_LEN) || count == 0 || count > MAX_SEGMENTS {
        return Err(Refused::With(Status::IoError));
    }
    let mut bytes = 0;
    for index in 0..count {
        bytes += segment(chain, operation, index, limits).map_err(Refused::With)?.sectors * SECTOR_SIZE;
    }
    Ok(Request { operation, sector: 0, bytes, segments: count })
}

/// Reads and checks segment `index` of a discard or write-zeroes request.
pub(super) fn segment(
    chain: &Chain,
    operation: Operation,
    index: u32,
    limits: &Limits,
) -> Result<Segment, Status> {
    let mut bytes = [0; SEGMENT_LEN];
    let offset = HEADER_LEN + index as usize * SEGMENT_LEN;
    if chain.read_at(offset, &mut bytes) < SEGMENT_LEN {
        return Err(Status::IoError);
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    let flags = u32::from_le_bytes(flags);
    let (limit, known) = match operation {
        Operation::Discard => (MAX_DISCARD_SECTORS, 0),
        _ => (MAX_WRITE_ZEROES_SECTORS, blk::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
    };
    if flags & !known != 0 {
        return Err(Status::Unsupported);
    }
    let end = sector.checked_add(sectors.into());
    if sectors > limit || end.is_none_or(|end| end > limits.sectors) {
        return Err(Status::IoError);
    }
    Ok(Segment { sector, sectors: sectors.into(), unmap: flags != 0 || operation == Operation::Discard })
}
