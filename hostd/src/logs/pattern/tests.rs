//! The examples of AWS's documentation ("Filter pattern syntax …"), and properties that hold for all patterns.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn matches(pattern: &str, line: &str) -> bool {
    Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).matches(line.as_bytes())
}

#[track_caller]
fn check(pattern: &str, yes: &[&str], no: &[&str]) {
    for line in yes {
        assert!(matches(pattern, line), "{pattern} must match {line}");
    }
    for line in no {
        assert!(!matches(pattern, line), "{pattern} must not match {line}");
    }
}

fn error(pattern: &str) -> String {
    Pattern::parse(pattern).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn terms_are_those_of_the_documentation() {
    let lines =
        ["[ERROR 400] BAD REQUEST", "[ERROR 401] UNAUTHORIZED REQUEST", "[ERROR 419] MISSING ARGUMENTS"];
    check("", &lines, &[]);
    check("ERROR", &lines, &["[WARN 400] ", "error"]);
    check("ERROR", &["[ERROR] A fatal exception has occurred", "Exiting with ERRORCODE: -1"], &[]);
    check("ERROR REQUEST", &lines[..2], &lines[2..]);
    check("?ERROR ?ARGUMENTS", &["[ERROR 400]", "ARGUMENTS"], &["[WARN 400] REQUEST"]);
    check("ERROR -ARGUMENTS", &lines[..2], &lines[2..]);
    check("ERROR \"BAD REQUEST\"", &lines[..1], &lines[1..]);
    check("\"ERROR\" - \"Exiting\"", &["[ERROR] A fatal exception"], &["Exiting with ERRORCODE: -1"]);
    check(
        "Failed to process the request",
        &["[ERROR] Unable: Failed to process the request"],
        &["Failed to"],
    );
    let three = ["ERROR WARN message", "ERROR message", "WARN message"];
    check("?ERROR ?WARN", &three, &["INFO message"]);
    check("ERROR WARN", &three[..1], &three[1..]);
    check("ERROR -WARN", &three[1..2], &[three[0], three[2]]);
    // Terms with ? are ignored beside others.
    check("?ERROR ?WARN message", &["INFO message"], &["ERROR"]);
    check(r#""say \"yes\"""#, &[r#"they say "yes""#], &["say yes"]);
}

#[test]
fn regular_expressions_are_those_of_the_documentation() {
    check("%AUTHORIZED%", &["[ERROR 401] UNAUTHORIZED REQUEST", "AUTHORIZED"], &["authorized"]);
    check("%^ERROR%", &["ERROR 1"], &["an ERROR"]);
    check("%gray|grey%", &["gray", "grey"], &["green"]);
    check("%colou?r%", &["color", "colour"], &["colouur"]);
    check(r"%10\.10\.0\.1%", &["from 10.10.0.1"], &["from 10110.0.1"]);
    check("%4[0-9]{2}%", &["status 404"], &["status 4"]);
    check(r"%\d\s\w\x41%", &["1 aA"], &["1 ab"]);
    check("ERROR %4[0-9]{2}%", &["ERROR 404"], &["404", "ERROR"]);
    check("{ $.eventType = %Trail% }", &[r#"{"eventType":"UpdateTrail"}"#], &[r#"{"eventType":"x"}"#]);
    check("[w1=%E.R%, w2]", &["ERR 1", "an-ERR 1"], &["ER 1", "ERR"]);
    assert_eq!(
        error("%something!%"),
        "Invalid filter pattern: the regular expression %something!% has !, which is not supported"
    );
    for (wrong, word) in [
        ("%(a)%", "has (,"),
        (r"%\bword%", r"has \b,"),
        ("%grün%", "has ü,"),
        ("%[%", "is invalid"),
        ("%[a-z]{30000}%", "is too large"),
        ("%a", "a closing %"),
        ("%a% %b% %c%", "more than 2 regular expressions"),
    ] {
        assert!(error(wrong).contains(word), "{wrong}: {}", error(wrong));
    }
}

const EVENT: &str = r#"{
    "eventType": "UpdateTrail", "sourceIPAddress": "111.111.111.111",
    "arrayKey": ["value", "another value"],
    "objectList": [{"name": "a", "id": 1}, {"name": "b", "id": 2}],
    "SomeObject": null, "ThisFlag": true, "a.key": "dotted", "latency": 500, "account": "123456789012"
}"#;

#[test]
fn json_patterns_are_those_of_the_documentation() {
    for yes in [
        r#"{ $.eventType = "UpdateTrail" }"#,
        r#"{ $.sourceIPAddress != 123.123.* }"#,
        r#"{ $.arrayKey[0] = "value" }"#,
        r#"{ $.objectList[1].id = 2 }"#,
        r#"{ $.SomeObject IS NULL }"#,
        r#"{ $.SomeOtherObject NOT EXISTS }"#,
        r#"{ $.ThisFlag IS TRUE }"#,
        r#"{$.eventType = *Trail}"#,
        r#"{ $.eventType = "Update*" && $.latency = * }"#,
        r#"{ $.['a.key'] = "dotted" && $["eventType"] = UpdateTrail }"#,
        r#"{ $.objectList[*].name = "b" }"#,
        r#"{ $.objectList[*].missing NOT EXISTS }"#,
        r#"{ $.* = "UpdateTrail" }"#,
        r#"{ $.latency >= 500 && $.latency <= 500.0 && $.latency < 10e3 && $.latency > 10e-3 }"#,
        r#"{ $.latency = 500 && $.latency != 501 && $.latency > -1 && $.latency < +1000 }"#,
        r#"{ $.account = 123456789012 }"#,
        r#"{ $.latency = 5* }"#,
    ] {
        assert!(matches(yes, EVENT), "{yes}");
    }
    for no in [
        r#"{ $.eventType = "updatetrail" }"#,
        r#"{ $.eventType = "Update*Trail" }"#,
        r#"{ $.sourceIPAddress != 111.111.* }"#,
        r#"{ $.arrayKey = "value" }"#,
        r#"{ $.arrayKey != "value" }"#,
        r#"{ $.missing != "value" }"#,
        r#"{ $.missing IS NULL }"#,
        r#"{ $.SomeObject NOT EXISTS }"#,
        r#"{ $.SomeObject = * }"#,
        r#"{ $.ThisFlag IS FALSE }"#,
        r#"{ $.arrayKey[7] = * }"#,
        r#"{ $.eventType[0] = * }"#,
        r#"{ $.latency > 500 }"#,
        r#"{ $.eventType > 5 }"#,
    ] {
        assert!(!matches(no, EVENT), "{no}");
    }
    check(
        "{ $.foo = bar || $.foo = baz }",
        &[r#"{"foo": "bar"}"#, r#" {"foo": "baz"} "#],
        &[r#"{"foo": "qux"}"#, "foo bar", "{foo", ""],
    );
}

#[test]
fn conditions_have_the_documented_order() {
    let event = r#"{
        "user": {"id": 1, "email": "John.Stiles@example.com"},
        "users": [{"id": 2, "email": "John.Doe@example.com"}, {"id": 3, "email": "Jane.Doe@example.com"}],
        "actions": ["GET", "PUT", "DELETE"], "coordinates": [[0, 1, 2], [4, 5, 6], [7, 8, 9]]
    }"#;
    for (pattern, expected) in [
        (r#"{ ($.user.id = 1) && ($.users[0].email = "John.Doe@example.com") }"#, true),
        (r#"{ ($.user.id = 2 && $.users[0].email = "nonmatch") || $.actions[2] = "GET" }"#, false),
        (
            r#"{ $.user.email = "John.Stiles@example.com" || $.coordinates[0][1] = nonmatch && $.actions[2] = nomatch }"#,
            true,
        ),
        (
            r#"{ ($.user.email = "John.Stiles@example.com" || $.coordinates[0][1] = nonmatch) && $.actions[2] = nomatch }"#,
            false,
        ),
        ("{ $.coordinates[0][1] = 1 }", true),
    ] {
        assert_eq!(matches(pattern, event), expected, "{pattern}");
    }
}

#[test]
fn patterns_of_fields_are_those_of_the_documentation() {
    let logs = [
        r#"127.0.0.1 - frank [10/Oct/2000:13:25:15 -0700] "GET /apache_pb.gif HTTP/1.0" 200 1534"#,
        r#"127.0.0.1 - frank [10/Oct/2000:13:35:22 -0700] "GET /apache_pb.gif HTTP/1.0" 500 5324"#,
        r#"127.0.0.1 - frank [10/Oct/2000:13:25:15 -0700] "GET /index.html HTTP/1.0" 404 1534"#,
    ];
    check("[ip, user, username, timestamp, request, status_code, bytes]", &logs, &["127.0.0.1 - frank"]);
    for all in
        ["[..., status_code, bytes]", "[ip, user, ..., status_code, bytes]", "[ip, user, ...]", "[...]"]
    {
        check(all, &logs, &[]);
    }
    check("[ip, user, username, timestamp, request, status_code, bytes > 1600]", &logs[1..2], &[logs[0]]);
    check("[ip, user, username, timestamp, request, status_code = 200, bytes]", &logs[..1], &logs[1..]);
    check("[ip, user, username, timestamp, request, status_code = 4*, bytes]", &logs[2..], &logs[..2]);
    check(
        "[ip, user, username, timestamp, request = *html*, status_code = 4*, bytes]",
        &logs[2..],
        &logs[..2],
    );
    check(
        "[ip, user, username, timestamp, request, status_code = 4* && bytes > 1000]",
        &logs[2..],
        &logs[..2],
    );
    check(
        "[ip, user, username, timestamp, request, status_code = 4* && status_code != 403, bytes]",
        &logs[2..],
        &logs[..2],
    );
    check("[..., request=*.html*, status_code=4*,]", &logs[2..], &logs[..2]);
    check("[..., status_code = 404 || status_code = 500, bytes]", &logs[1..], &logs[..1]);
    let three = ["ERROR WARN message", "ERROR message", "WARN message"];
    check("[w1=ERROR, w2]", &three[1..2], &[three[0], three[2]]);
    check("[w1=ERROR || w1=WARN, w2]", &three[1..], &three[..1]);
    check("[w1=!ERROR&&w1=!WARN, w2]", &["INFO message"], &three);
    check("[w1=\"two words\", w2 >= 7]", &["\"two words\" 7"], &["two words 7", "\"two words\" 6"]);
}

#[test]
fn what_is_no_pattern_is_refused_with_the_place() {
    assert_eq!(error("foo.bar"), "Invalid character(s) in term 'foo.bar': put it in double quotes");
    assert_eq!(error("{ $.a ~ 1 }"), "Invalid filter pattern: expected one of = != < <= > >= at character 7");
    for (wrong, word) in [
        ("\"open", "a closing quote"),
        ("ERROR -", "a term"),
        ("{ a = 1 }", "a selector"),
        ("{ $ = 1 }", ". or ["),
        ("{ $.a = }", "a value at character 9"),
        ("{ $.a = 1", "}, && or ||"),
        ("{ $.a = 1 } x", "the end of the pattern"),
        ("{ ($.a = 1 }", "expected )"),
        ("{ $.a > \"b\" }", "a number"),
        ("{ $.a IS WRONG }", "NULL, TRUE or FALSE"),
        ("{ $.a NOT NULL }", "EXISTS"),
        ("{ $.a[x] = 1 }", "an index"),
        ("{ $.a[99999999999999999999999] = 1 }", "an index"),
        ("{ $.a[*][*] = 1 }", "more than 1 * in a selector"),
        ("{ $.*=1 && $.*=1 && $.*=1 && $.*=1 }", "more than 3 selectors with *"),
        ("[a, ..., b, ...]", "more than 1 ellipses"),
        ("[a b]", "one of ="),
        ("[a=1", ", or ]"),
        (&format!("[{}]", ",".repeat(200)), "more than 100 fields"),
        (&format!("{{ {}$.a=1 }}", "(".repeat(100)), "more than 32 parentheses"),
        (&"x".repeat(1025), "more than 1024 characters"),
    ] {
        assert!(error(wrong).contains(word), "{wrong}: {}", error(wrong));
    }
}

/// Texts that look like patterns.
fn patterns() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{", "}", "[", "]", "(", ")", "$", ".a", "[0]", "[*]", "['b']", "=", "!=", "=!", "<=", ">", "&&",
        "||", "%", "a+", "\\", "\"", "*", " ", ",", "...", "-", "?", "x", "7", "1e9", "é", "IS", "NULL",
        "NOT", "EXISTS",
    ]);
    prop_oneof![prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat()), "\\PC{0,60}",]
}

proptest! {
    #[test]
    fn any_text_and_any_line_are_stood(pattern in patterns(), line in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(pattern) = Pattern::parse(&pattern) {
            let _ = pattern.matches(&line);
            let _ = pattern.matches(EVENT.as_bytes());
        }
    }

    /// For all terms and lines: a line matches that contains all terms and none of the excluded ones.
    #[test]
    fn terms_mean_what_containing_means(
        wanted in prop::collection::vec("[ab]{1,2}", 1..4),
        unwanted in prop::collection::vec("[ab]{1,3}", 0..3),
        line in "[abc ]{0,8}",
    ) {
        let minus = unwanted.iter().map(|term| format!("-{term}"));
        let pattern: Vec<String> = wanted.iter().cloned().chain(minus).collect();
        let expected = wanted.iter().all(|term| line.contains(term.as_str()))
            && !unwanted.iter().any(|term| line.contains(term.as_str()));
        prop_assert_eq!(matches(&pattern.join(" "), &line), expected);
    }

    /// For all numbers: comparisons in JSON and in fields are those of numbers.
    #[test]
    fn numbers_compare_as_numbers(value in -50..50_i32, wanted in -50..50_i32) {
        for (sign, expected) in [
            ("=", value == wanted), ("!=", value != wanted), ("<", value < wanted), ("<=", value <= wanted),
            (">", value > wanted), (">=", value >= wanted),
        ] {
            let pattern = format!("{{ $.n {sign} {wanted} }}");
            let line = format!("{{\"n\": {value}}}");
            prop_assert_eq!(matches(&pattern, &line), expected, "{}", pattern);
            prop_assert_eq!(matches(&format!("[n {sign} {wanted}]"), &value.to_string()), expected);
        }
    }

    /// For all conditions: `!=` and `=` are opposites where there is a value, and `!(a && b)` is `!a || !b`.
    #[test]
    fn conditions_follow_de_morgan(a in 0..3_u8, b in 0..3_u8, of_a in 0..3_u8, of_b in 0..3_u8) {
        let line = format!("{{\"a\": {a}, \"b\": {b}}}");
        let both = matches(&format!("{{ $.a = {of_a} && $.b = {of_b} }}"), &line);
        let neither = matches(&format!("{{ $.a != {of_a} || $.b != {of_b} }}"), &line);
        prop_assert_ne!(both, neither);
    }
}
