//! Access to the demo's daemon from this machine: a certificate, an access key and the client, in the cache's folder `demo`.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::{Cache, remove_folder};
use crate::command;
use crate::metal;
use crate::packages::{self, Need, program};
use crate::parts::{self, Executable, Parts};
use crate::toolchain;

/// The port of the daemon on the emulated metal.
pub(super) const METAL_PORT: u16 = 7443;
const KEY_ID: &str = "demo";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const CLIENT: &str = "hearth";
const PROFILE: &str = "config.toml";
/// The program that makes the certificate.
pub(super) const OPENSSL: Need = program("openssl", "openssl", "makes the demo's certificate");
/// openssl's configuration: a certificate that is no authority, for the names under which the daemon is reached.
const REQUEST: &str = "\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = hearthd
[extensions]
subjectAltName = DNS:localhost, IP:127.0.0.1
basicConstraints = critical, CA:FALSE
";

/// Credentials for the daemon.
#[derive(Debug)]
pub(super) struct Access {
    folder: PathBuf,
    port: u16,
    endpoints: u16,
    secret: String,
}

impl Access {
    /// Makes certificate and access key anew, and builds the client. `port` is the port of the daemon, `endpoints` that of the
    /// endpoints of its microVMs, both here and on the metal.
    pub(super) fn prepare(cache: &Cache, port: u16, endpoints: u16) -> Result<Self> {
        packages::ensure(cache, &[OPENSSL])?;
        let folder = cache.path("demo");
        remove_folder(&folder)?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        let access = Self { folder, port, endpoints, secret: random()? };
        access.make_certificate()?;
        access.write(PROFILE, &access.profile())?;
        let mut cargo = toolchain::native(cache)?;
        cargo.args(["build", "--package", "hearth-cli", "--bin", CLIENT]);
        let client = parts::executable_of(&mut cargo, "hearth-cli", Executable::Binary(CLIENT))?;
        fs::copy(client, access.folder.join(CLIENT)).context("cannot copy the client")?;
        Ok(access)
    }

    fn make_certificate(&self) -> Result<()> {
        let request = self.write("request.cnf", REQUEST)?;
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
            "-days",
            "30",
        ]);
        openssl.arg("-config").arg(&request);
        openssl.arg("-keyout").arg(self.folder.join(KEY)).arg("-out").arg(self.folder.join(CERTIFICATE));
        command::capture(&mut openssl)?;
        fs::remove_file(request).context("cannot remove openssl's configuration")
    }

    /// The client's configuration file.
    fn profile(&self) -> String {
        let certificate = self.folder.join(CERTIFICATE);
        format!(
            "[profiles.default]\nendpoint = \"https://127.0.0.1:{}\"\nca = {certificate:?}\n\
             access_key_id = \"{KEY_ID}\"\nsecret_access_key = \"{}\"\n",
            self.port, self.secret
        )
    }

    /// Writes a file that only its owner can read.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let written =
            fs::write(&path, text).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o600)));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Adds the daemon's part of the credentials to the inputs of the metal.
    pub(super) fn give(&self, parts: &mut Parts) -> Result<()> {
        for name in [CERTIFICATE, KEY] {
            parts.add(self.folder.join(name), name);
        }
        // On ARM64 metal, the daemon itself listens on this machine's port.
        let (listen, endpoint) = if metal::kvm_is_usable() {
            (format!("127.0.0.1:{}", self.port), format!("127.0.0.1:{}", self.endpoints))
        } else {
            (format!("0.0.0.0:{METAL_PORT}"), format!("0.0.0.0:{}", self.endpoints))
        };
        let secret = &self.secret;
        parts.add_script(
            "listen.sh",
            &format!("listen='{listen}'\nendpoint='{endpoint}'\nkey_id='{KEY_ID}'\nsecret='{secret}'\n"),
        )?;
        parts.add(self.write("keep", &self.text()?)?, "keep");
        Ok(())
    }

    /// Instructions for the user.
    fn text(&self) -> Result<String> {
        let folder = self.folder.display();
        let examples = toolchain::repository()?.join("examples");
        Ok(format!(
            "\n── the daemon runs on, until Ctrl-C here. In another shell:\n
export PATH=\"{folder}:$PATH\" HEARTH_CONFIG=\"{folder}/{PROFILE}\"
hearth ps                                       # the microVM that is left
hearth curl ID/                                 # ask it; a microVM that is suspended wakes up
hearth open ID/page                             # its page, in a browser
hearth shell ID -- /counter ask /               # run a program beside it
curl -H \"$(hearth token ID --port 8080)\" --cacert <(hearth ca) URL/   # URL: its endpoint, in hearth get ID
hearth image create notes {notes} --memory 512 --hooks-port 8080 --ready=300
hearth run notes                                # a Python app; its image takes a few minutes on an emulated host
hearth run counter --payload 'mine' --log-group /demo --log-stream third
hearth logs --group /demo --follow              # what the apps say
hearth suspend ID, hearth resume ID, hearth rm ID, hearth events, hearth host, hearth --help\n\n",
            notes = examples.join("notes").display()
        ))
    }
}

/// A secret of 160 random bits.
fn random() -> Result<String> {
    let mut bytes = [0; 20];
    let source = Path::new("/dev/urandom");
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .with_context(|| format!("cannot read {}", source.display()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_for_the_loopback_address_and_no_authority() {
        let folder = tempfile::tempdir().unwrap();
        let access = Access {
            folder: folder.path().to_path_buf(),
            port: 7443,
            endpoints: 7444,
            secret: random().unwrap(),
        };
        access.make_certificate().unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["x509", "-noout", "-text", "-in"]).arg(folder.path().join(CERTIFICATE));
        let text = command::capture(&mut openssl).unwrap();
        for expected in ["IP Address:127.0.0.1", "DNS:localhost", "CA:FALSE"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        let mode = fs::metadata(folder.path().join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "the key is its owner's alone");
        assert_eq!(access.secret.len(), 40);
        assert!(access.profile().contains(&access.secret));
    }
}
