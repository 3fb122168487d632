//! Text frames of clients.

use serde::Deserialize;

/// A JSON message of the client.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ClientMessage {
    Resize {
        cols: u16,
        rows: u16,
    },
    Exec {
        command: Vec<String>,
        /// With pipes: bytes of output that the client may be sent beyond those that it has taken.
        #[serde(default)]
        window: Option<u64>,
    },
    /// With pipes: all bytes of output that the client has taken so far.
    Taken {
        bytes: u64,
    },
    /// With pipes: no input follows.
    EndOfInput,
    #[serde(other)]
    Other,
}

/// The meaning of a text frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Text {
    Message(ClientMessage),
    Typed,
}

pub(super) fn read(text: &str) -> Text {
    match serde_json::from_str::<ClientMessage>(text) {
        Ok(message) => Text::Message(message),
        // A JSON object with a `type` that cannot be parsed is not typed into the shell.
        Err(_)
            if serde_json::from_str::<serde_json::Value>(text)
                .is_ok_and(|value| value.get("type").is_some()) =>
        {
            Text::Message(ClientMessage::Other)
        }
        Err(_) => Text::Typed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_typed_unless_it_is_a_message() {
        assert_eq!(read("ls\n"), Text::Typed);
        assert_eq!(read("{\"a\":1}"), Text::Typed);
        assert_eq!(read("\"type\""), Text::Typed);
        let resize = read("{\"type\":\"resize\",\"cols\":120,\"rows\":40}");
        assert_eq!(resize, Text::Message(ClientMessage::Resize { cols: 120, rows: 40 }));
        for other in [
            "{\"type\":\"unknown\",\"x\":1}",
            "{\"type\":\"resize\",\"cols\":-1,\"rows\":40}",
            "{\"type\":\"resize\"}",
            "{\"type\":7}",
        ] {
            assert_eq!(read(other), Text::Message(ClientMessage::Other), "{other}");
        }
    }
}
