//! Parses block requests as a driver lays them out (5.2.6): the operation and its sectors, or why it is refused.
//!
//! A chain consists of a readable part (a header of 16 bytes and the data to write) and a writable part (the data to
//! read and one status byte). The driver may divide it into descriptors in any way. The guest may change the chain's
//! contents at any time, so values that are needed again later are read and checked again.

use virtio_bindings::virtio_blk as blk;

use super::SECTOR_SIZE;
use crate::devices::virtio::queue::Chain;

/// Length of a request's header in bytes.
pub(super) const HEADER_LEN: usize = 16;
/// Length of a device's serial number in bytes, zero-padded.
pub(super) const SERIAL_LEN: usize = blk::VIRTIO_BLK_ID_BYTES as usize;
/// Largest number of segments in one discard or write-zeroes request.
pub(super) const MAX_SEGMENTS: u32 = 16;
/// Largest number of sectors in a segment of a discard request: 1 GiB.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Largest number of sectors in a segment of a write-zeroes request: 32 MiB, which may have to be written in full.
pub(super) const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 16;

const SEGMENT_LEN: usize = 16;

/// Value of the status byte at the end of a request (5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// The operation that a driver requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Copy data from the disk to the guest.
    Read,
    /// Copy data from the guest to the disk.
    Write,
    /// Make everything written so far durable.
    Flush,
    /// Read the serial number.
    GetId,
    /// Discard segments whose contents the guest no longer needs.
    Discard,
    /// Make segments read as zeros.
    WriteZeroes,
}

/// A valid request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) operation: Operation,
    /// First sector of a read or write.
    pub(super) sector: u64,
    /// Number of bytes to read, to write, to discard or to zero.
    pub(super) bytes: u64,
    /// Number of segments of a discard or write-zeroes request.
    pub(super) segments: u32,
}

/// Why a chain is not a valid request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The request is answered with this status.
    With(Status),
    /// The chain does not even have a byte for the status.
    NoStatusByte,
}

/// Limits that the disk and the negotiated features impose on requests.
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
    /// Whether the host may deallocate the storage.
    pub(super) unmap: bool,
}

/// Parses the request in `chain`.
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

/// Checks that the `bytes` bytes from `sector` on are whole sectors inside the disk.
fn whole_sectors(sector: u64, bytes: usize, limits: &Limits) -> Result<u64, Refused> {
    let bytes = bytes as u64;
    let end = sector.checked_add(bytes / SECTOR_SIZE);
    let inside = end.is_some_and(|end| end <= limits.sectors);
    if inside && bytes.is_multiple_of(SECTOR_SIZE) { Ok(bytes) } else { Err(Refused::With(Status::IoError)) }
}

/// Checks all segments of a request; the list of its segments takes `sent` bytes.
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
