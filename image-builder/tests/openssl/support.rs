//! What all tests need: the provider for this machine, and processes that are copies of each other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Folder of the provider's package.
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../openssl");

/// Two copies of a process that OpenSSL cannot tell from one that goes on: they have the memory and the process id of the one before
/// them, as clones of a microVM have. Prints what each draws, after that process has drawn a number itself.
const COPIES: &str = r#"
import ctypes, os, signal, ssl, sys
NEWPID = 0x20000000
assert os.getpid() == 1, "it has to be the first process of its namespace"
ssl.RAND_bytes(16)
libc = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": 56, "aarch64": 220}
for _ in range(2):
    sys.stdout.flush()
    child = libc.syscall(numbers[os.uname().machine], NEWPID | signal.SIGCHLD, 0, 0, 0, 0)
    assert child >= 0, os.strerror(ctypes.get_errno())
    if child == 0:
        assert os.getpid() == 1
        print(ssl.RAND_bytes(16).hex(), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"#;

/// Builds the provider for this machine.
pub(crate) fn provider() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openssl");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--offline", "--manifest-path"]).arg(format!("{PACKAGE}/Cargo.toml"));
    // Settings of the workspace's own build are not those of this one.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_") || text == "RUSTFLAGS" {
            cargo.env_remove(name);
        }
    }
    run(cargo.env("CARGO_TARGET_DIR", &target));
    target.join("release/libhearth_openssl.so")
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
    stdout.into_owned()
}

/// The machine's own openssl(1), with this configuration.
pub(crate) fn openssl(configuration: &Path, arguments: &[&str]) -> String {
    run(Command::new("openssl").args(arguments).env("OPENSSL_CONF", configuration))
}

/// What two copies of one process draw.
pub(crate) fn copies(configuration: &Path) -> [String; 2] {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "/usr/bin/python3", "-c", COPIES]);
    let text = run(command.env("OPENSSL_CONF", configuration));
    let mut lines = text.lines().map(str::to_owned);
    let two = [lines.next().unwrap(), lines.next().unwrap()];
    assert!(two.iter().all(|number| number.len() == 32) && lines.next().is_none(), "{text}");
    two
}

/// A configuration that prefers the provider in `module`.
pub(crate) fn configuration(folder: &Path, module: &Path) -> PathBuf {
    let path = folder.join("openssl.cnf");
    let text = format!(
        "config_diagnostics = 1\nopenssl_conf = init\n[init]\nproviders = providers\nrandom = random\n\
         [providers]\ndefault = default_provider\nhearth = hearth\n[default_provider]\nactivate = 1\n\
         [hearth]\nmodule = {}\nactivate = 1\nsoft_load = 1\n\
         [random]\nrandom = CTR-DRBG\nproperties = ?provider=hearth\n",
        module.display()
    );
    fs::write(&path, text).unwrap();
    path
}
