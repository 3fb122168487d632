//! The content of TEXT frames.

use serde::{Deserialize, Serialize};

/// Messages of the client.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ClientMessage<'a> {
    /// The first frame: run this instead of a shell.
    Exec {
        /// Program and arguments.
        command: &'a [String],
    },
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
    /// Other messages, which are ignored: `session_init`, and those of later servers.
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
            ClientMessage::Exec { command: &command }.text(),
            r#"{"type":"exec","command":["ls","-l"]}"#
        );
        assert_eq!(ServerMessage::parse(r#"{"type":"exit","code":137}"#), ServerMessage::Exit { code: 137 });
        for other in [r#"{"type":"session_init","session_id":"s"}"#, r#"{"type":"exit"}"#, "{", "text", "[1]"]
        {
            assert_eq!(ServerMessage::parse(other), ServerMessage::Other, "{other}");
        }
    }
}
