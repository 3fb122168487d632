//! Text that a guest or another hostile party wrote, for sentences that people read in terminals, logs and web pages.

/// Bytes of a text that are looked at: what is kept is far less.
const LOOKED_AT: usize = 16 << 10;

/// The text in one line of at most `most` bytes of UTF-8, without escape sequences and characters that a terminal would obey. Of
/// what a carriage return has overwritten the last is kept; what is too long ends with `…`.
#[must_use]
pub fn harmless(text: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(text.get(..LOOKED_AT).unwrap_or(text));
    let plain = anstream::adapter::strip_str(&text).to_string();
    let plain = plain.trim_end_matches(['\r', '\n']);
    let shown = plain.rsplit_once('\r').map_or(plain, |(_, last)| last);
    let spaced = shown.replace(char::is_whitespace, " ");
    let kept: String = spaced.chars().filter(|character| !is_obeyed(*character)).collect();
    let line = kept.split_whitespace().collect::<Vec<_>>().join(" ");
    shorten(line, most)
}

/// Whether a terminal or a browser obeys the character instead of showing it: controls, marks of direction, and what has no width.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Cuts a line that is longer than `most` bytes.
fn shorten(mut line: String, most: usize) -> String {
    if line.len() > most {
        line.truncate(line.floor_char_boundary(most.saturating_sub('…'.len_utf8())));
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_left_out() {
        for (text, expected) in [
            (&b"plain"[..], "plain"),
            (b"\x1b[31mred\x1b[0m and \x1b]0;title\x07more", "red and more"),
            (b" 10%\r 90%\r100% done\r\n", "100% done"),
            (b"tab\there  \x00\x08two", "tab here two"),
            (b"not \xff UTF-8", "not \u{fffd} UTF-8"),
            ("a\u{202e}b\u{2066}c\u{feff}d\u{85}e".as_bytes(), "abcd e"),
            (b"", ""),
        ] {
            assert_eq!(harmless(text, 100), expected, "{text:?}");
        }
        assert_eq!(harmless("üüüü".as_bytes(), 8), "üüüü");
        assert_eq!(harmless("üüüü".as_bytes(), 7), "üü…");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_longer_or_harmful(text in proptest::collection::vec(any::<u8>(), 0..300), most in 4..200_usize) {
            let line = harmless(&text, most);
            prop_assert!(line.len() <= most);
            prop_assert!(!line.chars().any(is_obeyed), "{line:?}");
            prop_assert_eq!(harmless(line.as_bytes(), most), line);
        }
    }
}
