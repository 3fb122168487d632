//! Searches for texts in snapshots.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Bytes that are read at a time.
const STEP: usize = 4 << 20;
/// Bytes of context before and after a match that are shown.
const AROUND: usize = 96;

/// Searches a file for a text – as bytes, in UTF-16 or as hexadecimal digits – and describes the position with its context, for people.
///
/// # Panics
/// If the file cannot be read.
#[must_use]
pub fn find(file: &Path, text: &str) -> Option<String> {
    let needles: [Vec<u8>; 3] = [
        text.as_bytes().to_vec(),
        text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes(),
    ];
    let longest = needles.iter().map(Vec::len).max().unwrap();
    let (mut file, mut window, mut start) = (File::open(file).unwrap(), Vec::new(), 0);
    loop {
        // The end of the previous step is kept, so that a match across two steps is found, and shown with its context.
        let gone = window.len().saturating_sub(longest + AROUND);
        window.drain(..gone);
        start += gone;
        if file.by_ref().take(STEP as u64).read_to_end(&mut window).unwrap() == 0 {
            return None;
        }
        if window.iter().all(|byte| *byte == 0) {
            continue;
        }
        if let Some(at) = needles.iter().find_map(|needle| position(&window, needle)) {
            let around = &window[at.saturating_sub(AROUND)..window.len().min(at + longest + AROUND)];
            return Some(format!("at {:#x}: {}", start + at, around.escape_ascii()));
        }
    }
}

fn position(window: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = window[from..].iter().position(|byte| *byte == needle[0]) {
        if window[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}
