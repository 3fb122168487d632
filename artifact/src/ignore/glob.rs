//! Which patterns moby accepts: those that Go's `filepath.Match` compares with `.` without an error.
//!
//! It stops at the first part – from one star to the next – that cannot match, and does not look at what follows. So whether a pattern
//! is accepted depends on the comparison, which is done here as far as that needs it.

/// A pattern with an error in its syntax.
#[derive(Debug)]
pub(super) struct Wrong;

/// Checks a pattern by comparing it with `.`.
pub(super) fn check(pattern: &str) -> Result<(), Wrong> {
    let (mut rest, mut name) = (pattern, ".");
    while !rest.is_empty() {
        let (star, part, after) = next_part(rest);
        rest = after;
        if star && part.is_empty() {
            return Ok(());
        }
        let fits = |left: &str| !rest.is_empty() || left.is_empty();
        match compare(part, name)? {
            Some(left) if fits(left) => {
                name = left;
                continue;
            }
            _ if !star => return Ok(()),
            _ => {}
        }
        // The star may stand for the dot.
        let behind = match name.get(1..) {
            Some(behind) => compare(part, behind)?,
            None => None,
        };
        match behind.filter(|left| fits(left)) {
            Some(left) => name = left,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// The part up to the next star that is in no class: whether it begins with stars, itself, and what follows.
fn next_part(pattern: &str) -> (bool, &str, &str) {
    let text = pattern.trim_start_matches('*');
    let (mut in_class, mut escaped) = (false, false);
    let end = text.find(|character| {
        let was_escaped = std::mem::take(&mut escaped);
        match character {
            _ if was_escaped => false,
            '\\' => {
                escaped = true;
                false
            }
            '[' | ']' => {
                in_class = character == '[';
                false
            }
            '*' => !in_class,
            _ => false,
        }
    });
    let (part, rest) = text.split_at(end.unwrap_or(text.len()));
    (text.len() < pattern.len(), part, rest)
}

/// What is left of the name behind a part; none if the part does not match. The syntax of the whole part is checked.
fn compare<'n>(part: &str, name: &'n str) -> Result<Option<&'n str>, Wrong> {
    let mut left = Some(name);
    let mut part = part.chars().peekable();
    while let Some(character) = part.next() {
        let (next, behind) = match left.and_then(|left| Some((left.chars().next()?, left))) {
            Some((next, left)) => (Some(next), left.get(next.len_utf8()..)),
            None => (None, None),
        };
        let matches = match character {
            '[' => {
                let negated = part.next_if_eq(&'^').is_some();
                let (mut found, mut ranges) = (false, 0);
                while ranges == 0 || part.next_if_eq(&']').is_none() {
                    let low = member(&mut part)?;
                    let high = if part.next_if_eq(&'-').is_some() { member(&mut part)? } else { low };
                    found |= next.is_some_and(|next| (low..=high).contains(&next));
                    ranges += 1;
                }
                found != negated
            }
            '?' => next != Some('/'),
            '\\' => next == Some(part.next().ok_or(Wrong)?),
            other => next == Some(other),
        };
        left = behind.filter(|_| matches && next.is_some());
    }
    Ok(left)
}

/// A character of a class, which may be escaped, and behind which something has to follow.
fn member(part: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, Wrong> {
    let character = match part.next() {
        None | Some('-' | ']') => return Err(Wrong),
        Some('\\') => part.next().ok_or(Wrong)?,
        Some(other) => other,
    };
    if part.peek().is_some() { Ok(character) } else { Err(Wrong) }
}
