//! Memory that begins where a page does: what O_DIRECT takes, and what is counted in pages.

/// Bytes of a page.
const ALIGNMENT: usize = 4096;

/// A run of bytes, zeros at first, that begins at a page's beginning.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// So many bytes.
    pub(crate) fn new(length: usize) -> Self {
        let bytes = vec![0; length + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, start, length }
    }

    /// All of it.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + self.length).unwrap_or_default()
    }

    /// The first `length` bytes.
    pub(crate) fn part(&mut self, length: usize) -> Result<&mut [u8], String> {
        let end = self.start + length.min(self.length);
        self.bytes.get_mut(self.start..end).ok_or_else(|| "the buffer is too short".to_string())
    }
}
