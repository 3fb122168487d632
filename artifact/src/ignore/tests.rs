//! The cases are those of moby's own tests (`patternmatcher_test.go`), and some of this project's.
//!
//! Beside them, 60,000 random ignore files with twelve paths each were compared with moby's `patternmatcher` (main of November 2026, Go 1.19):
//! every file that is accepted here gave the same answers. A malformed exception that moby never compares with anything is refused here.

use super::*;

fn rules(patterns: &[&str]) -> Rules {
    Rules::parse(patterns.join("\n").as_bytes()).unwrap()
}

/// Whether a path is ignored, judged as a walk does: first the folders above it.
fn ignores(rules: &Rules, path: &str) -> bool {
    let mut inherited = Inherited::default();
    for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
        inherited = rules.judge(&path[..at], &inherited).1;
    }
    rules.judge(path, &inherited).0
}

#[test]
fn patterns_match_what_mobys_match() {
    for (pattern, path, expected) in [
        ("*", "fileutils.go", true),
        ("*.go", "fileutils.go", true),
        ("**", "file", true),
        ("**", "file/", true),
        ("**/", "file", true),
        ("**/", "file/", true),
        ("**", "/", true),
        ("**/", "/", true),
        ("**", "dir/file", true),
        ("**/", "dir/file", true),
        ("**", "dir/file/", true),
        ("**/", "dir/file/", true),
        ("**/**", "dir/file", true),
        ("**/**", "dir/file/", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir/file/", true),
        ("dir/**", "dir/dir2/file", true),
        ("dir/**", "dir/dir2/file/", true),
        ("**/dir", "dir", true),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/*", "dir/dir2/file/", true),
        ("**/dir2/**", "dir/dir2/dir3/file", true),
        ("**/dir2/**", "dir/dir2/dir3/file/", true),
        ("**file", "file", true),
        ("**file", "dir/file", true),
        ("**/file", "dir/file", true),
        ("**file", "dir/dir/file", true),
        ("**/file", "dir/dir/file", true),
        ("**/file*", "dir/dir/file", true),
        ("**/file*", "dir/dir/file.txt", true),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/file*.txt", "dir/dir/file.txt", true),
        ("**/file*.txt*", "dir/dir/file.txt", true),
        ("**/**/*.txt", "dir/dir/file.txt", true),
        ("**/**/*.txt2", "dir/dir/file.txt", false),
        ("**/*.txt", "file.txt", true),
        ("**/**/*.txt", "file.txt", true),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/dir/file.txt", true),
        ("a**/*.txt", "a/dir/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt", "a/file.txt", true),
        ("a/*.txt**", "a/file.txt", true),
        ("a[b-d]e", "ae", false),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcdef", false),
        ("abc.def", "abc.def", true),
        ("abc.def", "abcZdef", false),
        ("abc?def", "abcZdef", true),
        ("abc?def", "abcdef", false),
        ("a\\\\", "a\\", true),
        ("a\\*b", "a*b", true),
        ("**/foo/bar", "foo/bar", true),
        ("**/foo/bar", "dir/foo/bar", true),
        ("**/foo/bar", "dir/dir2/foo/bar", true),
        ("abc/**", "abc", false),
        ("abc/**", "abc/def", true),
        ("abc/**", "abc/def/ghi", true),
        ("**/.foo", ".foo", true),
        ("**/.foo", "bar.foo", false),
        ("a(b)c/def", "a(b)c/def", true),
        ("a(b)c/def", "a(b)c/xyz", false),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        ("dist/app-2.4.0rc3.dev36+g08acad9-any.whl", "dist/app-2.4.0rc3.dev36+g08acad9-any.whl", true),
        ("dist/*.whl", "dist/app-2.4.0rc3.dev36+g08acad9-any.whl", true),
        // Those of Go's `filepath.Match`.
        ("abc", "abc", true),
        ("*", "abc", true),
        ("*c", "abc", true),
        ("a*", "a", true),
        ("a*", "abc", true),
        ("a*", "ab/c", true),
        ("a*/b", "abc/b", true),
        ("a*/b", "a/c/b", false),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
        ("a*b?c*x", "abxbbxdbxebxczzx", true),
        ("a*b?c*x", "abxbbxdbxebxczzy", false),
        ("ab[c]", "abc", true),
        ("ab[b-d]", "abc", true),
        ("ab[e-g]", "abc", false),
        ("ab[^c]", "abc", false),
        ("ab[^b-d]", "abc", false),
        ("ab[^e-g]", "abc", true),
        ("a\\*b", "ab", false),
        ("a?b", "a☺b", true),
        ("a[^a]b", "a☺b", true),
        ("a???b", "a☺b", false),
        ("a[^a][^a][^a]b", "a☺b", false),
        ("[a-ζ]*", "α", true),
        ("*[a-ζ]", "A", false),
        ("a?b", "a/b", false),
        ("a*b", "a/b", false),
        ("[\\]a]", "]", true),
        ("[\\-]", "-", true),
        ("[x\\-]", "x", true),
        ("[x\\-]", "-", true),
        ("[x\\-]", "z", false),
        ("[\\-x]", "x", true),
        ("[\\-x]", "-", true),
        ("[\\-x]", "a", false),
        ("*x", "xxx", true),
        // A slash at the end changes nothing, and letters keep their case.
        ("docs/", "docs", true),
        ("docs/", "docs/README.md", true),
        ("/docs", "docs", true),
        ("README.md", "readme.md", false),
        ("docs", "my/docs", false),
        // What Go and the `regex` crate write differently.
        ("a[&&b]c", "a&c", true),
        ("a[x[y]c", "a[c", true),
        ("a[x~~y]c", "a~c", true),
        ("x[[:digit:]]", "x7", true),
        ("x[[:digit:]]", "xd", false),
        ("x\\d", "x7", true),
        ("x\\d", "x٣", false),
        ("x\\<", "x<", true),
        // Braces are no alternatives, and a bar in an expression is one: moby escapes neither.
        ("*.{js,ts}", "x.js", false),
        ("*.{js,ts}", "x.{js,ts}", true),
        ("x{2}*", "xxa", true),
        ("a|*.o", "x.o", true),
        ("a|b", "b", false),
        // A star in a class is no star, but what a star becomes.
        ("x[*]", "x*", false),
    ] {
        assert_eq!(ignores(&rules(&[pattern]), path), expected, "{pattern:?} and {path:?}");
    }
}

#[test]
fn the_last_pattern_that_matches_decides() {
    for (patterns, path, expected) in [
        (&["!fileutils.go", "*.go"][..], "fileutils.go", true),
        (&["docs", "!docs/README.md"], "docs/README.md", false),
        (&["docs", "!docs/README.md"], "docs/other", true),
        (&["docs/", "!docs/README.md"], "docs/README.md", false),
        (&["docs/*", "!docs/README.md"], "docs/README.md", false),
        (&["*.go", "!fileutils.go"], "fileutils.go", false),
        (&["**", "!util/docker/web"], "util/docker/web/foo", false),
        (&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", true),
        (&["**", "!dist/app-2.4.0+g08acad9.whl"], "dist/app-2.4.0+g08acad9.whl", false),
        (&["**", "!dist/*.whl"], "dist/app-2.4.0+g08acad9.whl", false),
        (&["*", "!src", "src/*.tmp"], "src/a/b.rs", false),
        (&["*", "!src", "src/*.tmp"], "src/b.tmp", true),
        (&["# *", " !a", "a"], "a", true),
        (&[], "any/path", false),
    ] {
        assert_eq!(ignores(&rules(patterns), path), expected, "{patterns:?} and {path:?}");
    }
}

#[test]
fn what_moby_refuses_is_refused_with_its_line() {
    for pattern in [
        "[",
        "[]a]",
        "[-]",
        "[x-]",
        "[-x]",
        "\\",
        "[a-b-c]",
        "[^",
        "[^bc",
        "a[",
        "![",
        "[Local-Only]",
        "x\\Q",
    ] {
        let error = Rules::parse(format!("a\n\n{pattern}\n").as_bytes()).unwrap_err();
        assert!(matches!(error, (3, WrongPattern::Syntax(_))), "{pattern}: {error:?}");
    }
    for pattern in ["!", "! ", "!/"] {
        assert_eq!(Rules::parse(pattern.as_bytes()).unwrap_err(), (1, WrongPattern::LoneException));
    }
}

#[test]
fn patterns_take_the_form_that_mobys_take() {
    for (pattern, form) in [
        ("*", "^[^/]*$"),
        ("file*", "^file[^/]*$"),
        ("a*/b", "^a[^/]*/b$"),
        ("**", "suffix"),
        ("**/**", "^(.*/)?.*$"),
        ("dir/**", "prefix"),
        ("**/dir", "suffix"),
        ("**/dir2/*", "^(.*/)?dir2/[^/]*$"),
        ("**/dir2/**", "^(.*/)?dir2/.*$"),
        ("**file", "suffix"),
        ("**/**/*.txt", "^(.*/)?(.*/)?[^/]*\\.txt$"),
        ("a[b-d]e", "^a[b-d]e$"),
        ("abc.def", "exact"),
        ("abc?def", "^abc[^/]def$"),
        ("a(b)c/def", "exact"),
    ] {
        let found = rules(&[pattern]).patterns[0].describe();
        // Characters in classes are written with their numbers.
        assert_eq!(found.replace("\\x2F", "/").replace("\\x2E", "\\."), form, "{pattern}");
    }
}

#[test]
fn a_folder_is_walked_only_where_an_exception_may_match() {
    for (exception, folder, expected) in [
        ("!docs/README.md", "docs", true),
        ("!docs/README.md", "doc", false),
        ("!docs/README.md", "docs/README.md", false),
        ("!docs/a/b", "docs/a", true),
        ("!docs", "docs", false),
        ("!**/*.md", "node_modules", true),
        ("!src/*.rs", "node_modules", false),
        ("!src/*.rs", "src", true),
        ("!nod*/keep", "node_modules", true),
        ("node_modules/x", "node_modules", false),
        ("!a|*.md", "node_modules", true),
    ] {
        assert_eq!(rules(&[exception]).may_except_below(folder), expected, "{exception} and {folder}");
    }
}

#[test]
fn the_dockerfiles_own_file_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let ignored = |path: &str| ignores(&Rules::of_folder(folder.path()).unwrap(), path);
    assert!(!ignored("a") && !ignored("b"));
    write(".dockerignore", "a\n");
    assert!(ignored("a") && !ignored("b"));
    write("Dockerfile.dockerignore", "b\n");
    assert!(!ignored("a") && ignored("b"));
    write("Dockerfile.dockerignore", "");
    assert!(!ignored("a") && !ignored("b"), "an empty one counts, too");
    write("Dockerfile.dockerignore", "a\nb[\n");
    let error = Rules::of_folder(folder.path()).unwrap_err().to_string();
    assert!(error.contains("Dockerfile.dockerignore line 2: \"b[\" is no valid pattern"), "{error}");
}

#[test]
fn bytes_that_are_no_text_match_stars() {
    assert_eq!(comparable(b"a\xff\xfe/b"), "a\u{fffd}\u{fffd}/b");
    let rules = Rules::parse(b"*.o\n??\n").unwrap();
    assert!(rules.judge(&comparable(b"\xff.o"), &Inherited::default()).0);
    assert!(rules.judge(&comparable(b"\xc3\x28"), &Inherited::default()).0);
}
