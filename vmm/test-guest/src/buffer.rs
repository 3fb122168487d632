//! Memory that begins on a page boundary: for O_DIRECT, and for memory that is counted in pages.

/// Size of a page in bytes.
const ALIGNMENT: usize = 4096;

/// A buffer, initially zero, that begins on a page boundary.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// Allocates `length` bytes.
    pub(crate) fn new(length: usize) -> Self {
        let bytes = vec![0; length + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, start, length }
    }

    /// Returns the whole buffer.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + self.length).unwrap_or_default()
    }

    /// Returns the first `length` bytes.
    pub(crate) fn part(&mut self, length: usize) -> Result<&mut [u8], String> {
        let end = self.start + length.min(self.length);
        self.bytes.get_mut(self.start..end).ok_or_else(|| "the buffer is too short".to_string())
    }
}
