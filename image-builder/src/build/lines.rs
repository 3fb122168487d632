//! Splits bytes into lines.

/// Longest line in bytes; a longer one is split.
const LONGEST: usize = 256 << 10;

/// Collects bytes until a line is complete.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Adds bytes; `line` receives each line that they complete, without its newline.
    pub(super) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(piece);
            if self.rest.last() == Some(&b'\n') || self.rest.len() >= LONGEST {
                self.flush(&mut line);
            }
        }
    }

    /// Passes on the rest, if there is any.
    pub(super) fn flush(&mut self, mut line: impl FnMut(&[u8])) {
        if self.rest.is_empty() {
            return;
        }
        let text = self.rest.strip_suffix(b"\n").unwrap_or(&self.rest);
        line(text.strip_suffix(b"\r").unwrap_or(text));
        self.rest.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        let mut take = |line: &[u8]| got.push(String::from_utf8(line.to_vec()).unwrap());
        for piece in pieces {
            lines.push(piece, &mut take);
        }
        lines.flush(&mut take);
        got
    }

    #[test]
    fn lines_are_the_same_however_they_come() {
        assert_eq!(lines(&[b"one\r\ntwo\n\nthr", b"ee"]), ["one", "two", "", "three"]);
        assert_eq!(lines(&[b"o", b"ne\n"]), ["one"]);
    }

    #[test]
    fn a_line_without_end_does_not_grow_without_bound() {
        let long = vec![b'x'; LONGEST];
        assert_eq!(
            lines(&[&long, &long, b"y"]).iter().map(String::len).collect::<Vec<_>>(),
            [LONGEST, LONGEST, 1]
        );
    }
}
