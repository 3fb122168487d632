//! The provider by itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::{configuration, copies, openssl, provider, run};

/// Where the library's random numbers come from, as it says.
fn instances(configuration: &Path) -> Vec<String> {
    let text = openssl(configuration, &["list", "-random-instances"]);
    text.lines().filter_map(|line| line.trim().strip_prefix("CTR-DRBG @ ").map(str::to_owned)).collect()
}

#[test]
fn all_generators_of_the_library_are_the_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = configuration(folder.path(), &provider());
    assert_eq!(instances(&configuration), ["hearth"; 3], "primary, public and private");
    let out = folder.path().join("random");
    openssl(&configuration, &["rand", "-out", out.to_str().unwrap(), "3000000"]);
    let bytes = fs::read(out).unwrap();
    assert_eq!(bytes.len(), 3_000_000);
    // Each value is expected 11,719 times; 1,000 more or less are nine standard deviations.
    let mut counts = [0; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    assert!(counts.iter().all(|count| (10_719..12_719).contains(count)), "{counts:?}");
}

#[test]
fn copies_of_a_process_draw_the_same_without_it_and_not_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none.cnf");
    fs::write(&none, "").unwrap();
    let [one, other] = copies(&none);
    assert_eq!(one, other, "the copies are none");
    let [one, other] = copies(&configuration(folder.path(), &provider()));
    assert_ne!(one, other);
}

#[test]
fn keys_and_generators_that_ask_it_for_seed_work() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = configuration(folder.path(), &provider());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (key, certificate) = (path("key"), path("certificate"));
    openssl(
        &configuration,
        &["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"]
            .into_iter()
            .chain(["-keyout", &key, "-out", &certificate, "-config", "/dev/null"])
            .collect::<Vec<_>>(),
    );
    openssl(&configuration, &["verify", "-CAfile", &certificate, &certificate]);
    // A generator of the library below this one: it takes seed and nonce from it.
    let child = r#"
import ctypes, ctypes.util
crypto = ctypes.CDLL("libcrypto.so.3")
for name in ("EVP_RAND_fetch", "EVP_RAND_CTX_new", "RAND_get0_primary"):
    getattr(crypto, name).restype = ctypes.c_void_p
primary = ctypes.c_void_p(crypto.RAND_get0_primary(None))
hmac = ctypes.c_void_p(crypto.EVP_RAND_fetch(None, b"HASH-DRBG", None))
class Param(ctypes.Structure):
    _fields_ = [("key", ctypes.c_char_p), ("kind", ctypes.c_uint), ("data", ctypes.c_char_p),
                ("size", ctypes.c_size_t), ("returned", ctypes.c_size_t)]
params = (Param * 2)(Param(b"digest", 4, b"SHA256", 6, 0), Param())
context = ctypes.c_void_p(crypto.EVP_RAND_CTX_new(hmac, primary))
assert context.value
assert crypto.EVP_RAND_instantiate(context, 256, 0, None, ctypes.c_size_t(0), params) == 1
out = ctypes.create_string_buffer(32)
assert crypto.EVP_RAND_generate(context, out, ctypes.c_size_t(32), 256, 0, None, ctypes.c_size_t(0)) == 1
assert any(out.raw)
crypto.EVP_RAND_CTX_free(context)
"#;
    run(Command::new("/usr/bin/python3").args(["-c", child]).env("OPENSSL_CONF", &configuration));
}

#[test]
fn a_library_without_the_file_goes_on_with_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("damaged.so");
    fs::write(&damaged, "no program").unwrap();
    for module in [folder.path().join("missing.so"), damaged] {
        let configuration = configuration(folder.path(), &module);
        assert_eq!(instances(&configuration), ["default"; 3]);
        let connect = "import ssl; ssl.create_default_context(); print(len(ssl.RAND_bytes(16)))";
        let mut python = Command::new("/usr/bin/python3");
        assert_eq!(run(python.args(["-c", connect]).env("OPENSSL_CONF", &configuration)), "16\n");
    }
}

#[test]
fn the_file_needs_no_other() {
    let provider = provider();
    let said = run(Command::new("readelf").args(["--wide", "--dynamic", "--dyn-syms"]).arg(provider));
    assert!(!said.contains("(NEEDED)") && !said.contains("(TEXTREL)"), "{said}");
    let symbols: Vec<_> = said
        .lines()
        .filter_map(|line| line.split_whitespace().collect::<Vec<_>>().get(6..8).map(|end| end.join(" ")))
        .filter(|end| end.starts_with("UND ") || end.contains("OSSL"))
        .collect();
    assert!(matches!(symbols.as_slice(), [one] if one.ends_with(" OSSL_provider_init")), "{said}");
}
