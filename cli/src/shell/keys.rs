//! Escape sequences: `~.` at the beginning of a line ends a session that hangs, as in ssh; `~~` types one `~`.

/// Result of reading keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// Bytes for the server; empty while a `~` is held back.
    Bytes(Vec<u8>),
    /// `~.` was typed; the bytes before it.
    Disconnect(Vec<u8>),
}

/// Finds escape sequences.
#[derive(Debug)]
pub(super) struct Keys {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Begin,
    Tilde,
    Middle,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self { state: State::Begin }
    }

    /// The part of the bytes that the server gets.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Typed {
        let mut passed = Vec::with_capacity(bytes.len() + 1);
        for &byte in bytes {
            match (self.state, byte) {
                (State::Begin, b'~') => {
                    self.state = State::Tilde;
                    continue;
                }
                (State::Tilde, b'.') => return Typed::Disconnect(passed),
                (State::Tilde, b'~') => {}
                (State::Tilde, _) => passed.push(b'~'),
                _ => {}
            }
            passed.push(byte);
            self.state = if matches!(byte, b'\r' | b'\n') { State::Begin } else { State::Middle };
        }
        Typed::Bytes(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that passes when keys come one by one, and whether the session has ended.
    fn typed(text: &str) -> (String, bool) {
        let mut keys = Keys::new();
        let mut passed = Vec::new();
        for byte in text.bytes() {
            match keys.read(&[byte]) {
                Typed::Bytes(bytes) => passed.extend(bytes),
                Typed::Disconnect(bytes) => {
                    passed.extend(bytes);
                    return (String::from_utf8(passed).unwrap(), true);
                }
            }
        }
        (String::from_utf8(passed).unwrap(), false)
    }

    #[test]
    fn a_tilde_and_a_dot_end_the_session_only_where_a_line_begins() {
        for (text, passed, ended) in [
            ("~.", "", true),
            ("ls\r~.x", "ls\r", true),
            ("ls\n~.", "ls\n", true),
            ("ls ~.\r", "ls ~.\r", false),
            ("a~.", "a~.", false),
            ("~~.\r", "~.\r", false),
            ("~/bin\r", "~/bin\r", false),
            ("~\r~\r", "~\r~\r", false),
            ("~", "", false),
        ] {
            assert_eq!(typed(text), (passed.to_owned(), ended), "{text:?}");
        }
    }

    #[test]
    fn it_is_the_same_in_one_piece() {
        assert_eq!(Keys::new().read(b"ls\r~.x"), Typed::Disconnect(b"ls\r".to_vec()));
        assert_eq!(Keys::new().read(b"~~a\r~b"), Typed::Bytes(b"~a\r~b".to_vec()));
    }
}
