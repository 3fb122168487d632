//! The script that completes the configurations of a container's files.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::support::{provider, run};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/build/scripts/openssl.pl");
/// Where the script leaves the provider.
const MODULE: &str = "usr/lib/hearth/openssl.so";
/// What Debian's configuration has of providers.
const DEBIAN: &str = "HOME = .\nopenssl_conf = openssl_init\nconfig_diagnostics = 1\noid_section = new_oids\n[ new_oids ]\n\
                      tsa_policy1 = 1.2.3.4.1\n[openssl_init]\nproviders = provider_sect\n\n[provider_sect]\n\
                      default = default_sect\n[default_sect]\n# activate = 1\n[ req ]\ndistinguished_name = name\n[ name ]";

/// A container's files, with the openssl(1) of this machine.
struct Root(TempDir);

impl Root {
    fn new() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        let libraries = run(Command::new("ldd").arg("/usr/bin/openssl"));
        let libraries =
            libraries.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
        for file in libraries.chain(["/usr/bin/openssl"]) {
            fs::create_dir_all(root.path(file).parent().unwrap()).unwrap();
            fs::copy(file, root.path(file)).unwrap();
        }
        root
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn library(&self) -> PathBuf {
        let folders = ["usr/lib", "lib"].map(|folder| self.path(folder)).into_iter();
        let folders = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
        let found =
            folders.map(|entry| entry.unwrap().path().join("libcrypto.so.3")).find(|path| path.exists());
        found.expect("the machine has OpenSSL 3")
    }

    /// Path of the file that the library reads.
    fn configuration(&self) -> String {
        let text = run(Command::new("openssl").args(["version", "-d"]));
        format!("{}/openssl.cnf", text.trim().trim_start_matches("OPENSSLDIR: ").trim_matches('"'))
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), content).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// Runs the script for these files, and returns its lines.
    fn complete(&self, files: &[PathBuf], provider: &str, environment: &str) -> Vec<String> {
        let mut perl = Command::new("perl");
        perl.arg(SCRIPT).arg(self.0.path()).args([provider, environment]);
        let mut script =
            perl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = script.stdin.take().unwrap();
        for file in files {
            write!(stdin, "{}\0", file.display()).unwrap();
        }
        drop(stdin);
        let output = script.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// Runs the script for the library, and expects this to be done, or a warning with this text.
    fn expect(&self, environment: &str, warning: Option<&str>) {
        let lines = self.complete(&[self.library()], provider().to_str().unwrap(), environment);
        match warning {
            None => assert!(lines.is_empty(), "{lines:?}"),
            Some(warning) => {
                assert!(lines.len() == 1 && lines[0].contains(warning), "{warning:?}: {lines:?}");
                assert!(
                    lines[0].starts_with("warning: /") && lines[0].contains("libcrypto.so.3 (OpenSSL 3."),
                    "{lines:?}"
                );
            }
        }
    }

    /// The container's own openssl(1).
    fn openssl(&self, arguments: &[&str]) -> String {
        run(Command::new("chroot").arg(self.0.path()).arg("/usr/bin/openssl").args(arguments))
    }

    fn generators(&self) -> Vec<String> {
        let text = self.openssl(&["list", "-random-instances"]);
        text.lines().filter_map(|line| line.trim().strip_prefix("CTR-DRBG @ ").map(str::to_owned)).collect()
    }
}

#[test]
fn debians_configuration_is_completed_and_keeps_what_it_has() {
    let root = Root::new();
    root.write("etc/ssl/openssl.cnf", DEBIAN);
    let link = root.configuration();
    fs::create_dir_all(root.path(&link).parent().unwrap()).unwrap();
    symlink("/etc/ssl/openssl.cnf", root.path(&link)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for path in ["etc/ssl/openssl.cnf", "usr/lib", "usr"] {
        File::open(root.path(path)).unwrap().set_modified(old).unwrap();
    }
    assert_eq!(root.generators(), ["default"; 3]);
    root.expect("", None);
    assert_eq!(root.generators(), ["hearth"; 3]);
    let text = root.read("etc/ssl/openssl.cnf");
    assert!(text.starts_with(DEBIAN), "{text}");
    for path in ["etc/ssl/openssl.cnf", "usr/lib", "usr"] {
        assert_eq!(fs::metadata(root.path(path)).unwrap().modified().unwrap(), old, "the time of {path}");
    }
    // The file as openssl(1) reads it for other things.
    root.openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        "/key",
        "-subj",
        "/",
    ]);
    let module = fs::metadata(root.path(MODULE)).unwrap();
    assert_eq!(module.permissions().mode() & 0o777, 0o755);
    assert_eq!(module.mtime(), fs::metadata(root.library()).unwrap().mtime());
    root.expect("", None);
    assert_eq!(root.read("etc/ssl/openssl.cnf"), text, "nothing is added twice");

    fs::remove_file(root.path(MODULE)).unwrap();
    assert_eq!(root.generators(), ["default"; 3]);
}

#[test]
fn a_container_without_configuration_gets_one() {
    let root = Root::new();
    root.expect("", None);
    assert_eq!(root.generators(), ["hearth"; 3]);
    assert!(root.read(&root.configuration()).starts_with("# Of Hearth"));

    let root = Root::new();
    fs::create_dir_all(root.path(&root.configuration()).parent().unwrap()).unwrap();
    symlink("/etc/ssl/openssl.cnf", root.path(&root.configuration())).unwrap();
    root.expect("", None);
    assert_eq!(root.generators(), ["hearth"; 3]);
    assert!(root.path("etc/ssl/openssl.cnf").is_file(), "where the link leads");

    let root = Root::new();
    root.write(&root.configuration(), "# nothing but \\\n[ ca ]\ndefault_ca = x # openssl_conf = y");
    root.expect("", None);
    assert_eq!(root.generators(), ["hearth"; 3]);
}

#[test]
fn other_providers_stay_as_they_are() {
    let root = Root::new();
    let own = "openssl_conf = \"init\" # the app's\n.include /etc/more\n.include = /etc/none\n[init]\nproviders = list\n[list]\n\
               default = one\n[one]\nactivate = yes\n";
    root.write(&root.configuration(), own);
    root.write(
        "etc/more/a.cnf",
        "[init]\nssl_conf = ssl\n[ssl]\nsystem_default = system\n[system]\nMinProtocol = TLSv1.3\n",
    );
    root.write("etc/more/unread", "[init]\nrandom = other\n");
    root.expect("", None);
    assert_eq!(root.generators(), ["hearth"; 3]);
    let only = "openssl_conf = init\n[init]\nproviders = list\n[list]\nbase = one\n[one]\nactivate = 1\n";
    root.write(&root.configuration(), only);
    root.expect("", None);
    let listed = root.openssl(&["list", "-providers"]);
    let names: Vec<_> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .collect();
    assert_eq!(names, ["base", "hearth"], "the default provider is not wanted: {listed}");
}

#[test]
fn what_asks_for_something_else_stays_and_the_log_says_so() {
    let init = "openssl_conf = init\n[init]\n";
    for (own, reason) in [
        (
            format!("{init}random = mine\n[mine]\nrandom = HASH-DRBG\n"),
            "settings of its own for random numbers",
        ),
        (
            format!(
                "{init}providers = list\n[list]\nfips = fips\nbase = base\n[fips]\nactivate = 1\n[base]\nactivate = 1\n"
            ),
            "it is for FIPS",
        ),
        (
            format!("{init}alg_section = algorithms\n[algorithms]\ndefault_properties = fips=yes\n"),
            "it is for FIPS",
        ),
        ("openssl_conf = $x\n".to_owned(), "its openssl_conf is no plain name"),
        (format!("{init}.include relative.cnf\n"), "it includes relative.cnf"),
        (".include /etc/loop.cnf\n".to_owned(), "it includes too many files"),
        ("#".repeat(2 << 20), "is too large"),
    ] {
        let root = Root::new();
        root.write("etc/loop.cnf", ".include /etc/loop.cnf\n");
        root.write(&root.configuration(), &own);
        root.expect("", Some(reason));
        assert!(root.read(&root.configuration()) == own && !root.path(MODULE).exists(), "{reason}");
    }
    let root = Root::new();
    root.expect("/dev/null", Some("/dev/null was not changed, it is not there"));
    root.expect("here.cnf", Some("its path is no absolute one"));
    root.write("etc/mine.cnf", "");
    root.expect("/etc/mine.cnf", None);
    assert!(root.read("etc/mine.cnf").contains("hearth") && !root.path(&root.configuration()).exists());
}

#[test]
fn hostile_files_lead_nowhere_and_nothing_waits_for_them() {
    let outside = tempfile::tempdir().unwrap();
    let root = Root::new();
    let folder = root.path(&root.configuration()).parent().unwrap().to_owned();
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    symlink(outside.path(), &folder).unwrap();
    // The link leads to a path in the container, where there is nothing.
    root.expect("", Some("was not changed, "));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    fs::create_dir_all(root.path(outside.path().to_str().unwrap())).unwrap();
    root.expect("", None);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(root.generators(), ["hearth"; 3]);

    let root = Root::new();
    fs::create_dir_all(root.path(&root.configuration()).parent().unwrap()).unwrap();
    run(Command::new("mkfifo").arg(root.path(&root.configuration())));
    root.expect("", Some(" is no file"));

    let root = Root::new();
    root.write("usr/lib/hearth", "a file in the way");
    root.expect("", Some("file exists"));
    assert!(!root.path(&root.configuration()).exists(), "it would name a provider that is not there");
}

#[test]
fn other_libraries_are_named_and_other_files_are_not() {
    let root = Root::new();
    let file = |name: &str, content: &str| {
        root.write(name, content);
        root.path(name)
    };
    let old = "\x7fELF .. OpenSSL 1.1.1w  11 Sep 2023\0OPENSSLDIR: \"/usr/lib/ssl\"\0";
    let files = [
        file("usr/lib/libcrypto.so.1.1", old),
        file("usr/lib/a\nb/libcrypto.so.1.1", &(String::from("\x7fELF") + &"x".repeat((1 << 20) - 50) + old)),
        file("usr/bin/node", "#!/bin/sh\nOpenSSL 1.1.1w  11 Sep 2023\0OPENSSLDIR: \"/usr/lib/ssl\"\0"),
        file("usr/lib/libcrypto.so.46", "\x7fELF OpenSSL 1.1.1 (compatible; AWS-LC 1.30)\0"),
        root.path("usr/lib/missing"),
    ];
    let lines = root.complete(&files, provider().to_str().unwrap(), "");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("warning: /usr/lib/a?b/libcrypto.so.1.1 (OpenSSL 1.1.1w) draws"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("warning: /usr/lib/libcrypto.so.1.1 (OpenSSL 1.1.1w) draws"), "{lines:?}");
    let lines = root.complete(&[root.library()], "", "");
    assert!(lines.len() == 1 && lines[0].contains("the base image is of an earlier release"), "{lines:?}");
}

#[test]
fn nodes_own_openssl_reads_it_too() {
    let root = Root::new();
    root.write(&root.configuration(), DEBIAN);
    root.expect("", None);
    let configuration = root.path("node.cnf");
    let text = root.read(&root.configuration());
    fs::write(&configuration, text.replace(&format!("/{MODULE}"), root.path(MODULE).to_str().unwrap()))
        .unwrap();
    let loaded = |configuration: &Path| {
        let ask = "require('crypto').randomBytes(16); console.log(require('fs').readFileSync('/proc/self/maps', 'utf8'))";
        let maps = run(Command::new("node").args(["-e", ask]).env("OPENSSL_CONF", configuration));
        maps.contains("hearth/openssl.so")
    };
    assert!(loaded(&configuration));
    assert!(!loaded(Path::new("/dev/null")));
}
