//! Detection of requests that could reach a lifecycle hook.
//!
//! Only the platform may call hooks, at `/aws/lambda-microvms/runtime/v1/NAME` on one port of the app. Which paths lead
//! there depends on the app's server: some decode more than once, remove `;parameters`, treat `\` as `/`, resolve `..`
//! before or after they decode, or ignore case. The proxy does not imitate each of them. On the port of hooks it
//! refuses everything that contains the one word that every such path finally contains, `lambda-microvms`, at any
//! place, after every decoding that is known of any server.
//!
//! Removing parts of a path cannot assemble the word: parameters end with their segment, and `..` removes whole
//! segments. So neither has to be resolved here.
//!
//! Some frameworks do not route by the path alone. A query can be the route (`?q=` of Drupal 7, `?rest_route=` of
//! WordPress): it is refused if it contains the word and `runtime`. The word alone is not a route, but may be the name
//! of a log group (`/aws/lambda-microvms/IMAGE`). Headers can replace or prefix the path (`X-Original-URL`,
//! `X-Rewrite-URL`, `X-Forwarded-Prefix`): headers whose names end like the names of such headers are refused if they
//! contain the word.

use hyper::header::HeaderMap;
use hyper::{Request, Uri};
use unicode_normalization::char::decompose_compatible;

use super::headers::is_spelled;

/// The part of a hook's path that occurs in no other path.
const WORD: &[u8] = b"lambda-microvms";
/// The part of the path that follows.
const NEXT: &[u8] = b"runtime";
/// Ends of the names of headers that contain a path or a part of it.
const CARRIERS: [&str; 7] = ["url", "uri", "path", "pathbase", "prefix", "script-name", "path-info"];

/// Whether some server could treat a request as the call of a hook.
#[must_use]
pub fn could_be_called<B>(request: &Request<B>) -> bool {
    is_target_of_hook(request.uri()) || headers_lead_to_hook(request.headers())
}

fn is_target_of_hook(target: &Uri) -> bool {
    let is_route = |query: &str| {
        let query = plain(query.as_bytes());
        contains(&query, WORD) && contains(&query, NEXT)
    };
    contains(&plain(target.path().as_bytes()), WORD) || target.query().is_some_and(is_route)
}

fn headers_lead_to_hook(headers: &HeaderMap) -> bool {
    headers.iter().any(|(name, value)| {
        let name = name.as_str().as_bytes();
        let ends_with = |end: &str| {
            let start = name.len().checked_sub(end.len());
            start.and_then(|start| name.get(start..)).is_some_and(|name| is_spelled(name, end))
        };
        CARRIERS.iter().any(|end| ends_with(end)) && contains(&plain(value.as_bytes()), WORD)
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// The text as it is after every conversion that servers apply: percent-decoding until nothing is left to decode, `%u`
/// with four digits (IIS, `unescape` of JavaScript), overlong forms of UTF-8, characters that are compatible with ASCII
/// (NFKC: full-width letters), removal of control characters (parsers of URLs remove tabs and ends of lines), lower
/// case.
///
/// Every step leaves fewer bytes that could begin another one, and no two steps can begin with the same byte. One pass
/// therefore finds what repeated passes would find, in time linear in the length.
fn plain(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut next = Vec::new();
    for byte in text {
        next.push(*byte);
        while let Some(byte) = next.pop() {
            if byte.is_ascii_control() {
                continue;
            }
            plain.push(byte.to_ascii_lowercase());
            if let Some((length, stands_for)) = decoded(&plain) {
                plain.truncate(plain.len().saturating_sub(length));
                next.extend(stands_for.into_iter().rev());
            }
        }
    }
    plain
}

/// The number of bytes at the end of a text that encode other bytes, and these bytes.
fn decoded(text: &[u8]) -> Option<(usize, Vec<u8>)> {
    let end = |length: usize| text.get(text.len().checked_sub(length)?..);
    if !text.last()?.is_ascii() {
        return character(text);
    }
    if let Some([b'%', digits @ ..]) = end(3)
        && let Some(byte) = number(digits).and_then(|number| u8::try_from(number).ok())
    {
        return Some((3, vec![byte]));
    }
    if let Some([b'%', b'u', digits @ ..]) = end(6)
        && let Some(number) = number(digits)
    {
        let character = char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER);
        return Some((6, character.to_string().into_bytes()));
    }
    None
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |number, digit| {
        number.checked_mul(16)?.checked_add(char::from(*digit).to_digit(16)?)
    })
}

/// The number of bytes at the end of a text that are a UTF-8 character, in any form, and the ASCII text that it is
/// compatible with.
fn character(text: &[u8]) -> Option<(usize, Vec<u8>)> {
    let rest = text.iter().rev().take_while(|byte| **byte & 0xc0 == 0x80).take(6).count();
    let length = rest.saturating_add(1);
    let end = text.get(text.len().checked_sub(length)?..)?;
    let (&first, low) = end.split_first()?;
    // The number of leading ones of the first byte is the number of bytes of the character.
    if rest == 0 || first.leading_ones() as usize != length {
        return None;
    }
    let high = u32::from(first) & (0x7f >> first.leading_ones().min(7));
    let number = low.iter().try_fold(high, |number, byte| {
        number.checked_mul(64).map(|number| number | u32::from(byte & 0x3f))
    })?;
    let mut stands_for = String::new();
    decompose_compatible(char::from_u32(number)?, |one| stands_for.push(one));
    stands_for.is_ascii().then(|| (length, stands_for.into_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOOK: &str = "/aws/lambda-microvms/runtime/v1/suspend";

    fn text(input: impl AsRef<[u8]>) -> String {
        String::from_utf8_lossy(&plain(input.as_ref())).into_owned()
    }

    fn request(target: &str, headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().uri(target);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
    }

    fn refused(target: &str) -> bool {
        could_be_called(&request(target, &[]))
    }

    #[test]
    fn a_text_is_decoded_until_nothing_is_left_to_decode() {
        for (given, expected) in [
            ("/Plain/%zz/%", "/plain/%zz/%"),
            ("%2e%2E/%2f", "..//"),
            ("%252525256c", "l"),
            ("%%36%63", "l"),
            ("%2%35%2565", "%e"),
            ("%u006c%U002d%uFF4C%uff05%36c", "l-ll"),
            ("\u{ff4c}\u{ff0d}\u{1d425}\u{17f}\u{33b3}\u{fe6a}\u{ff16}\u{ff23}", "l-lsmsl"),
            ("%ef%bd%8c%c1%ac%e0%81%ac%f0%80%81%ac%f8%80%80%81%ac%fc%80%80%80%81%ac%C0%AF", "llllll/"),
            ("a%09b%0d%0ac%00d", "abcd"),
            ("\u{e4}\u{20ac}%c3%a4%ff%80%c3", "\u{e4}\u{20ac}\u{e4}\u{fffd}\u{fffd}\u{fffd}"),
            ("%ud83d", "\u{fffd}"),
        ] {
            assert_eq!(text(given), expected, "{given}");
        }
        assert_eq!(text([0xff, 0xbf, 0xbf, 0xbf, 0xbf, 0xbf, 0xbf, b'a']).chars().next_back(), Some('a'));
    }

    #[test]
    fn what_some_server_takes_for_a_hook_is_found() {
        for target in [
            HOOK,
            "https://name.example/aws/lambda-microvms/runtime/v1/suspend",
            "//aws///lambda-microvms/x",
            "/x%2fy/../aws/lambda-microvms/runtime/v1/suspend",
            "/aws;a/lambda-microvms/runtime/v1/suspend",
            "/aws/lambda-microvms;a=b/runtime/v1/suspend",
            "/x/..;/aws/./%6cambda%2Dmicrovms/runtime/v1/suspend",
            "/aws%252flambda-microvms%252fruntime",
            "/AWS/Lambda-MicroVMs/",
            "/\\aws\\lambda-microvms\\",
            "/%u0061ws/%u006cambda-microvms/",
            "/aws/%c1%acambda-microvms/",
            "/aws/%ef%bd%8cambda-microvms/",
            "/aws/\u{ff4c}ambda-microvms/",
            "/aws/lambda%09-microvms/",
            "/x/aws/lambda-microvms-2",
            "/x%3f/aws/lambda-microvms",
            "/index.php?q=aws/lambda-microvms/runtime/v1/suspend",
            "/?rest_route=%2faws%2Flambda%2dmicrovms%2Fruntime%2Fv1%2fsuspend",
        ] {
            assert!(refused(target), "{target}");
        }
        for name in ["X-Original-URL", "x-rewrite-url", "X_Original_URL", "x-forwarded-prefix", "script_name"]
        {
            assert!(could_be_called(&request("/", &[(name, "/aws/%6cambda-microvms")])), "{name}");
        }
    }

    #[test]
    fn other_requests_are_not() {
        for target in [
            "*",
            "/",
            "/aws",
            "/aws/lambda",
            "/aws/lambda-microvm/s",
            "/aws/lambda-;x/microvms",
            "/lambda/microvms",
            "/%zz%",
            "/a%20b/%e2%82%ac/\u{20ac}",
            "/logs?group=/aws/lambda-microvms/demo",
            "/?lambda+microvms/runtime",
        ] {
            assert!(!refused(target), "{target}");
        }
        for (name, value) in [
            ("user-agent", "aws-sdk lambda-microvms/runtime"),
            ("sec-websocket-protocol", "lambda-microvms"),
            ("x-original-url", "/aws/lambda"),
        ] {
            assert!(!could_be_called(&request("/", &[(name, value)])), "{name}");
        }
    }

    #[test]
    fn a_path_can_be_encoded_as_often_as_its_length_allows() {
        let deep = format!("/%{}6c", "25".repeat(30_000));
        assert_eq!(text(&deep), "/l");
        assert_eq!(text("%".repeat(60_000)).len(), 60_000);
        // The one digit at the end completes all escapes, beginning with the last one.
        let chain = format!("{}5", "%3".repeat(20_000));
        assert_eq!(text(&chain), "5");
    }

    /// A change of a path that a server reverts or ignores.
    #[derive(Debug, Clone)]
    enum Disguise {
        Percent(u64),
        Unicode(u64),
        Wide(u64),
        Long(u64),
        Case(u64),
        Parameters(u64),
        Backslashes(u64),
        Doubled(u64),
        Dots(u64),
        Before(&'static str),
    }

    impl Disguise {
        fn on(&self, path: &str) -> String {
            // Bits of a number, repeated, select the characters that are changed.
            let each = |bits: u64, change: &dyn Fn(char) -> Option<String>| -> String {
                let changed = |(index, one): (usize, char)| {
                    let chosen = bits >> (index % 64) & 1 == 1;
                    change(one).filter(|_| chosen).unwrap_or_else(|| one.to_string())
                };
                path.chars().enumerate().map(changed).collect()
            };
            let slash = |one: char, with: &str| (one == '/').then(|| with.to_owned());
            match self {
                Self::Percent(bits) => each(*bits, &|one| {
                    let mut bytes = [0; 4];
                    let bytes = one.encode_utf8(&mut bytes).bytes();
                    Some(bytes.map(|byte| format!("%{byte:02x}")).collect())
                }),
                Self::Unicode(bits) => {
                    each(*bits, &|one| one.is_ascii().then(|| format!("%u{:04X}", u32::from(one))))
                }
                Self::Wide(bits) => each(*bits, &|one| {
                    let wide = one.is_ascii_graphic().then(|| char::from_u32(u32::from(one) + 0xfee0));
                    wide.flatten().map(String::from)
                }),
                Self::Long(bits) => each(*bits, &|one| {
                    let one = u8::try_from(one).ok().filter(u8::is_ascii)?;
                    Some(format!("%{:02x}%{:02x}", 0xc0 | one >> 6, 0x80 | one & 0x3f))
                }),
                Self::Case(bits) => each(*bits, &|one| Some(one.to_ascii_uppercase().to_string())),
                Self::Parameters(bits) => each(*bits, &|one| slash(one, ";a=b;c/")),
                Self::Backslashes(bits) => each(*bits, &|one| slash(one, "\\")),
                Self::Doubled(bits) => each(*bits, &|one| slash(one, "//")),
                Self::Dots(bits) => each(*bits, &|one| slash(one, "/./x/../")),
                Self::Before(with) => format!("{with}{path}"),
            }
        }
    }

    fn disguises() -> impl Strategy<Value = Vec<Disguise>> {
        let bits = any::<u64>;
        let before = proptest::sample::select(vec!["/x%2fy/..", "/..", "/;x", "/x/..;y", "/%5c"]);
        let one = prop_oneof![
            bits().prop_map(Disguise::Percent),
            bits().prop_map(Disguise::Unicode),
            bits().prop_map(Disguise::Wide),
            bits().prop_map(Disguise::Long),
            bits().prop_map(Disguise::Case),
            bits().prop_map(Disguise::Parameters),
            bits().prop_map(Disguise::Backslashes),
            bits().prop_map(Disguise::Doubled),
            bits().prop_map(Disguise::Dots),
            before.prop_map(Disguise::Before),
        ];
        proptest::collection::vec(one, 0..4)
    }

    proptest! {
        #[test]
        fn a_hook_is_found_behind_any_chain_of_disguises(chain in disguises()) {
            let path = chain.iter().fold(HOOK.to_owned(), |path, disguise| disguise.on(&path));
            prop_assert!(contains(&plain(path.as_bytes()), WORD), "{}", path);
        }

        #[test]
        fn one_pass_finds_what_repeated_passes_do(
            parts in proptest::collection::vec(
                proptest::sample::select(vec!["%", "2", "5", "25", "%25", "6", "c", "%6c", "%2", "lambda", "-", "%2d", "microvms", "/"]),
                0..24,
            ),
        ) {
            let mut rounds = parts.concat().into_bytes();
            loop {
                let next: Vec<u8> = percent_encoding::percent_decode(&rounds).collect();
                if next == rounds {
                    break;
                }
                rounds = next;
            }
            rounds.retain(|byte| !byte.is_ascii_control());
            rounds.make_ascii_lowercase();
            // `%55` is a `U`, and what begins with `%u` is no percent-encoding any more.
            prop_assume!(!contains(&rounds, b"%u"));
            prop_assert_eq!(&plain(parts.concat().as_bytes()), &rounds);
            prop_assert_eq!(contains(&plain(parts.concat().as_bytes()), WORD), contains(&rounds, WORD));
        }

        #[test]
        fn no_input_is_too_much(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let once = plain(&text);
            prop_assert_eq!(plain(&once), once, "nothing is left to decode");
        }
    }
}
