//! The content of TEXT frames.

use serde::{Deserialize, Serialize};

/// Messages of the client.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ClientMessage<'a> {
    /// The first frame: run this instead of a shell.
    Exec {
        /// Program and arguments; nothing for a shell.
        command: &'a [String],
        /// With pipes: bytes of output that may be sent beyond those that were taken.
        #[serde(skip_serializing_if = "Option::is_none")]
        window: Option<u64>,
    },
    /// With pipes: all bytes of output that were taken so far.
    Taken {
        /// Number of bytes.
        bytes: u64,
    },
    /// With pipes: no input follows.
    EndOfInput,
    /// The terminal's new size.
    Resize {
        /// Columns of the terminal.
        cols: u16,
        /// Lines of the terminal.
        rows: u16,
    },
}

/// Messages of the server.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ServerMessage {
    /// The last frame before the connection is closed: the exit status, or 128 and the number of the signal.
    Exit {
        /// Exit status, 0 to 255.
        code: i64,
    },
    /// The first frame.
    SessionInit {
        /// What the streams of the program are: `pipes`. None of a server that knows terminals only.
        #[serde(default)]
        streams: Option<String>,
        /// With pipes: bytes of input that may be sent beyond those that were taken.
        #[serde(default)]
        window: Option<u64>,
    },
    /// With pipes: all bytes of input that the program has taken so far.
    Taken {
        /// Number of bytes.
        bytes: u64,
    },
    /// Other messages, those of later servers, which are ignored.
    #[serde(other)]
    Other,
}

impl ClientMessage<'_> {
    pub(super) fn text(&self) -> String {
        // Strings and numbers always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl ServerMessage {
    /// Parses a frame. Unknown text is ignored.
    pub(super) fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_servers_write_and_read_them() {
        assert_eq!(
            ClientMessage::Resize { cols: 120, rows: 40 }.text(),
            r#"{"type":"resize","cols":120,"rows":40}"#
        );
        let command = ["ls".to_owned(), "-l".to_owned()];
        assert_eq!(
            ClientMessage::Exec { command: &command, window: None }.text(),
            r#"{"type":"exec","command":["ls","-l"]}"#
        );
        assert_eq!(
            ClientMessage::Exec { command: &[], window: Some(9) }.text(),
            r#"{"type":"exec","command":[],"window":9}"#
        );
        assert_eq!(ClientMessage::Taken { bytes: 7 }.text(), r#"{"type":"taken","bytes":7}"#);
        assert_eq!(ClientMessage::EndOfInput.text(), r#"{"type":"end_of_input"}"#);
        assert_eq!(ServerMessage::parse(r#"{"type":"exit","code":137}"#), ServerMessage::Exit { code: 137 });
        let init = ServerMessage::parse(r#"{"type":"session_init","session_id":"s"}"#);
        assert_eq!(init, ServerMessage::SessionInit { streams: None, window: None });
        let init = r#"{"type":"session_init","session_id":"s","streams":"pipes","window":5}"#;
        let streams = Some("pipes".to_owned());
        assert_eq!(ServerMessage::parse(init), ServerMessage::SessionInit { streams, window: Some(5) });
        assert_eq!(ServerMessage::parse(r#"{"type":"taken","bytes":6}"#), ServerMessage::Taken { bytes: 6 });
        for other in [r#"{"type":"later"}"#, r#"{"type":"exit"}"#, "{", "text", "[1]"] {
            assert_eq!(ServerMessage::parse(other), ServerMessage::Other, "{other}");
        }
    }
}
