//! The lines of an ignore file, made into patterns (moby's `ignorefile.ReadAll`).

use std::borrow::Cow;

use super::{MAX_LINE, WrongPattern};

/// The patterns with the numbers of their lines, cleaned: without comments, white space, and slashes at their begin.
pub(super) fn patterns(text: &[u8]) -> impl Iterator<Item = (usize, Result<String, WrongPattern>)> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    text.split(|byte| *byte == b'\n').enumerate().filter_map(|(index, line)| {
        if line.len() >= MAX_LINE {
            return Some((index + 1, Err(WrongPattern::TooLong)));
        }
        pattern(line).map(|pattern| (index + 1, Ok(pattern)))
    })
}

/// The pattern of a line; none if it is empty or a comment.
fn pattern(line: &[u8]) -> Option<String> {
    if line.starts_with(b"#") {
        return None;
    }
    let line = comparable(line);
    let line = line.trim();
    let (mark, rest) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if line.is_empty() {
        return None;
    }
    let rest = if rest.is_empty() { String::new() } else { clean(rest) };
    let rest = rest.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&rest);
    Some(format!("{mark}{rest}"))
}

/// Bytes as text; each byte that is no UTF-8 becomes one replacement character, as Go's regular expressions see it.
pub(crate) fn comparable(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let mut text = String::with_capacity(bytes.len());
            for chunk in bytes.utf8_chunks() {
                text.push_str(chunk.valid());
                text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
            }
            Cow::Owned(text)
        }
    }
}

/// The shortest equal path (Go's `path.Clean`): without empty components, `.`, and `..` where something is before it.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_patterns_as_docker_reads_them() {
        let text = b"\xef\xbb\xbfone\r\n/two\n/a//b/./c/\n\n   \nlast \n# comment\n # none\n! /but/this\n!\n! \n/\n.\na/../b\n../up";
        let found: Vec<_> = patterns(text).map(|(line, pattern)| (line, pattern.unwrap())).collect();
        let expected = [
            (1, "one"),
            (2, "two"),
            (3, "a/b/c"),
            (6, "last"),
            (8, "# none"),
            (9, "!but/this"),
            (10, "!"),
            (11, "!"),
            (12, "/"),
            (13, "."),
            (14, "b"),
            (15, "../up"),
        ];
        assert_eq!(found, expected.map(|(line, pattern)| (line, pattern.to_owned())));
    }

    #[test]
    fn a_line_has_a_bound() {
        let long = "x".repeat(MAX_LINE);
        let mut found = patterns(long.as_bytes());
        assert_eq!(found.next(), Some((1, Err(WrongPattern::TooLong))));
    }
}
