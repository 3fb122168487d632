//! Cuts bytes as they are read into lines.

/// Longest line in bytes that is one record; a longer one is split.
pub const LONGEST: usize = hearth_agent_protocol::frame::LINE;

/// A line, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Without the newline.
    pub bytes: Vec<u8>,
    /// Whether the line continues in the next record.
    pub continues: bool,
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line whose end was not read yet.
    begun: Vec<u8>,
}

impl Lines {
    /// The lines that `bytes` complete.
    pub fn add(&mut self, mut bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            let room = LONGEST - self.begun.len();
            let end = bytes.iter().take(room + 1).position(|byte| *byte == b'\n');
            match end {
                Some(end) => {
                    self.begun.extend_from_slice(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    lines.push(self.take(false));
                }
                None if bytes.len() > room => {
                    self.begun.extend_from_slice(&bytes[..room]);
                    bytes = &bytes[room..];
                    lines.push(self.take(true));
                }
                None => {
                    self.begun.extend_from_slice(bytes);
                    bytes = &[];
                }
            }
        }
        lines
    }

    /// The rest at the end of the stream: a line without a newline.
    pub fn finish(&mut self) -> Option<Line> {
        (!self.begun.is_empty()).then(|| self.take(false))
    }

    fn take(&mut self, continues: bool) -> Line {
        Line { bytes: std::mem::take(&mut self.begun), continues }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8], continues: bool) -> Line {
        Line { bytes: bytes.to_vec(), continues }
    }

    #[test]
    fn lines_are_the_same_however_their_bytes_come() {
        let text = b"one\n\ntwo\r\nthree";
        for step in 1..=text.len() {
            let mut lines = Lines::default();
            let mut all: Vec<Line> = text.chunks(step).flat_map(|chunk| lines.add(chunk)).collect();
            all.extend(lines.finish());
            assert_eq!(all, [&b"one"[..], b"", b"two\r", b"three"].map(|bytes| line(bytes, false)), "{step}");
            assert_eq!(lines.finish(), None);
        }
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let mut lines = Lines::default();
        let longest = vec![b'x'; LONGEST];
        assert_eq!(lines.add(&[&longest[..], b"\n"].concat()), [line(&longest, false)], "just long enough");
        let all = lines.add(&[&longest[..], b"y\nz\n"].concat());
        assert_eq!(all, [line(&longest, true), line(b"y", false), line(b"z", false)]);
        assert!(lines.add(&longest).is_empty(), "its newline may still come");
        assert_eq!(lines.add(b"\n"), [line(&longest, false)]);
    }
}
