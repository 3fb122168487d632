//! Go's syntax of regular expressions, as far as patterns can become it, in the syntax of the `regex` crate.
//!
//! They differ in classes, where the crate knows nested classes and operators that are plain characters in Go, and in escapes, where
//! the crate's `\d`, `\w` and `\s` are Unicode's and Go's are ASCII's.

use std::iter::Peekable;
use std::str::Chars;

/// The expression in the crate's syntax; none if Go would refuse it, or for escapes that no ignore file has a use for.
pub(super) fn of_go(text: &str) -> Option<String> {
    let mut made = String::with_capacity(text.len() * 2);
    let mut chars = text.chars().peekable();
    // What was repeated already is not repeated again.
    let mut is_repeated = false;
    while let Some(character) = chars.next() {
        let was_repeated = std::mem::replace(&mut is_repeated, matches!(character, '*' | '?'));
        match character {
            '{' => match repetition(&mut chars) {
                Some(_) if was_repeated => return None,
                Some(repetition) => {
                    made.push_str(&repetition?);
                    is_repeated = true;
                }
                None => made.push_str("\\{"),
            },
            '}' => made.push_str("\\}"),
            '\\' => match escape(chars.next()?)? {
                Escape::Character(character) => literal(&mut made, character),
                Escape::Class(members) => made.extend(["[", members, "]"]),
                Escape::NotClass(members) => made.extend(["[^", members, "]"]),
                Escape::Anchor(anchor) => made.push_str(anchor),
            },
            '[' => class(&mut made, &mut chars)?,
            ']' => made.push_str("\\]"),
            other => made.push(other),
        }
    }
    Some(made)
}

/// A repetition like `{2,5}`, whose opening brace was read; none if the brace is only itself. The inner one is none if Go refuses the
/// numbers.
fn repetition(chars: &mut Peekable<Chars<'_>>) -> Option<Option<String>> {
    const MOST: u32 = 1000;
    let rest: String = chars.clone().take(16).collect();
    let (numbers, _) = rest.split_once('}')?;
    let (least, most) = match numbers.split_once(',') {
        Some((least, most)) => (least, Some(most)),
        None => (numbers, None),
    };
    let is_number = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        plain && !text.is_empty() && (text == "0" || !text.starts_with('0'))
    };
    if !is_number(least) || most.is_some_and(|most| !most.is_empty() && !is_number(most)) {
        return None;
    }
    chars.nth(numbers.len());
    let number = |text: &str| text.parse().ok().filter(|number: &u32| *number <= MOST);
    let in_order = match (number(least), most) {
        (None, _) => false,
        (Some(_), None | Some("")) => true,
        (Some(least), Some(most)) => number(most).is_some_and(|most| least <= most),
    };
    Some(in_order.then(|| format!("{{{numbers}}}")))
}

/// What an escaped character means.
enum Escape {
    Character(char),
    Class(&'static str),
    NotClass(&'static str),
    Anchor(&'static str),
}

const DIGITS: &str = "0-9";
const SPACES: &str = "\\t\\n\\x0C\\r\\x20";
const WORDS: &str = "0-9A-Za-z_";

fn escape(character: char) -> Option<Escape> {
    Some(match character {
        'd' => Escape::Class(DIGITS),
        'D' => Escape::NotClass(DIGITS),
        's' => Escape::Class(SPACES),
        'S' => Escape::NotClass(SPACES),
        'w' => Escape::Class(WORDS),
        'W' => Escape::NotClass(WORDS),
        'A' => Escape::Anchor("\\A"),
        'z' => Escape::Anchor("\\z"),
        'b' => Escape::Anchor("(?-u:\\b)"),
        'B' => return None,
        'a' => Escape::Character('\x07'),
        'f' => Escape::Character('\x0c'),
        'n' => Escape::Character('\n'),
        'r' => Escape::Character('\r'),
        't' => Escape::Character('\t'),
        'v' => Escape::Character('\x0b'),
        other if other.is_ascii() && !other.is_ascii_alphanumeric() => Escape::Character(other),
        _ => return None,
    })
}

/// A class, whose opening bracket was read.
fn class(made: &mut String, chars: &mut Peekable<Chars<'_>>) -> Option<()> {
    made.push('[');
    if chars.next_if_eq(&'^').is_some() {
        made.push('^');
    }
    let mut is_first = true;
    while is_first || chars.next_if_eq(&']').is_none() {
        is_first = false;
        if let Some(name) = named(chars) {
            made.push_str(&name);
            continue;
        }
        let low = match member(chars)? {
            Escape::Character(character) => character,
            Escape::Class(members) => {
                made.push_str(members);
                continue;
            }
            Escape::NotClass(members) => {
                made.extend(["[^", members, "]"]);
                continue;
            }
            Escape::Anchor(_) => return None,
        };
        literal(made, low);
        // A hyphen before the end is one.
        let mut ahead = chars.clone();
        if ahead.next() == Some('-') && ahead.next().is_some_and(|next| next != ']') {
            chars.next();
            let Escape::Character(high) = member(chars)? else { return None };
            if high < low {
                return None;
            }
            made.push('-');
            literal(made, high);
        }
    }
    made.push(']');
    Some(())
}

fn member(chars: &mut Peekable<Chars<'_>>) -> Option<Escape> {
    match chars.next()? {
        '\\' => escape(chars.next()?),
        other => Some(Escape::Character(other)),
    }
}

/// A class with a name, like `[:alpha:]`: the same in both syntaxes.
fn named(chars: &mut Peekable<Chars<'_>>) -> Option<String> {
    let rest: String = chars.clone().take(16).collect();
    let length = rest.strip_prefix("[:")?.find(":]")? + 4;
    let name = rest.get(..length)?;
    chars.nth(name.chars().count() - 1);
    Some(name.to_owned())
}

/// A character that means itself, inside of classes and outside.
fn literal(made: &mut String, character: char) {
    if character.is_ascii_alphanumeric() || !character.is_ascii() {
        made.push(character);
    } else {
        made.push_str(&format!("\\x{:02X}", u32::from(character)));
    }
}
