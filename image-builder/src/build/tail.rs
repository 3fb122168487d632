//! The end of an output.

/// Keeps the last bytes of an output, up to a bound.
#[derive(Debug)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    most: usize,
}

impl Tail {
    /// Keeps the last `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { bytes: Vec::new(), most }
    }

    /// Adds bytes. What is kept is moved only after a quarter of it has come anew: each byte is moved four times at most, however many
    /// pieces the output comes in.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > self.most.saturating_add(self.most / 4) {
            self.cut();
        }
    }

    /// What is kept, as text.
    pub(super) fn text(mut self) -> String {
        self.cut();
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn cut(&mut self) {
        self.bytes.drain(..self.bytes.len().saturating_sub(self.most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_output_is_kept() {
        for pieces in [1, 3, 7, 100, 1000] {
            let mut tail = Tail::new(100);
            let output = (b'a'..=b'z').cycle().take(1000).collect::<Vec<u8>>();
            for piece in output.chunks(pieces) {
                tail.push(piece);
                assert!(tail.bytes.len() <= 125);
            }
            assert_eq!(tail.text().as_bytes(), &output[900..]);
        }
        let mut short = Tail::new(100);
        short.push(b"short");
        assert_eq!(short.text(), "short");
    }

    /// Does not end in time if each piece costs as much as what is kept.
    #[test]
    fn many_pieces_cost_no_more_than_few() {
        let mut tail = Tail::new(4 << 20);
        for _ in 0..8 << 20 {
            tail.push(b"x");
        }
        assert_eq!(tail.text().len(), 4 << 20);
    }
}
