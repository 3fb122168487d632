//! Access from this machine to a daemon on the metal: a certificate, an access key, and forwarded ports.
//!
//! The daemon listens for gRPC and for AWS's clients, and serves the endpoints of its microVMs. Each port has the same number here and
//! on the metal, because the daemon names ports in its answers.

use std::env;
use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::{Cache, remove_folder};
use crate::command;
use crate::metal::{self, Job};
use crate::packages::{self, Need, program};
use crate::parts::Parts;

/// The access key's id.
const KEY_ID: &str = "xtask";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
/// The Region of a daemon whose configuration names none.
const REGION: &str = "us-east-1";
/// The program that makes the certificate.
pub(crate) const OPENSSL: Need =
    program("openssl", "openssl", "makes the certificate of a daemon on the metal");
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

/// The daemon's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    /// gRPC.
    pub(crate) api: u16,
    /// Endpoints of microVMs.
    pub(crate) endpoints: u16,
    /// AWS's clients.
    pub(crate) aws: u16,
}

impl Ports {
    /// Ports that nobody uses now.
    pub(crate) fn free() -> Result<Self> {
        let bind = || TcpListener::bind("127.0.0.1:0").context("finding a free port");
        // All are held until the last one is found, so that they differ.
        let held = [bind()?, bind()?, bind()?];
        let port = |listener: &TcpListener| Ok::<_, anyhow::Error>(listener.local_addr()?.port());
        Ok(Self { api: port(&held[0])?, endpoints: port(&held[1])?, aws: port(&held[2])? })
    }

    fn all(self) -> [u16; 3] {
        [self.api, self.endpoints, self.aws]
    }
}

/// Credentials for a daemon.
#[derive(Debug)]
pub(crate) struct Access {
    folder: PathBuf,
    ports: Ports,
    secret: String,
}

impl Access {
    /// Makes certificate and access key anew, in an empty folder of the cache.
    pub(crate) fn prepare(cache: &Cache, folder: &str, ports: Ports) -> Result<Self> {
        packages::ensure(cache, &[OPENSSL])?;
        let folder = cache.path(folder);
        remove_folder(&folder)?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        let access = Self { folder, ports, secret: random()? };
        access.make_certificate()?;
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
        openssl.arg("-keyout").arg(self.folder.join(KEY)).arg("-out").arg(self.certificate());
        command::capture(&mut openssl)?;
        fs::remove_file(request).context("cannot remove openssl's configuration")
    }

    /// Its folder, which only its owner can enter.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn ports(&self) -> Ports {
        self.ports
    }

    /// The daemon's certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join(CERTIFICATE)
    }

    /// The configuration file of `hearth`.
    pub(crate) fn profile(&self) -> String {
        format!(
            "[profiles.default]\nendpoint = \"https://127.0.0.1:{}\"\nca = {:?}\n\
             access_key_id = \"{KEY_ID}\"\nsecret_access_key = \"{}\"\n",
            self.ports.api,
            self.certificate(),
            self.secret
        )
    }

    /// The environment in which AWS's clients call the daemon. What the user has set up for AWS must not be in it.
    pub(crate) fn aws(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", format!("https://127.0.0.1:{}", self.ports.aws)),
            ("AWS_CA_BUNDLE", self.certificate().display().to_string()),
            ("AWS_ACCESS_KEY_ID", KEY_ID.into()),
            ("AWS_SECRET_ACCESS_KEY", self.secret.clone()),
            ("AWS_REGION", REGION.into()),
            ("AWS_DEFAULT_REGION", REGION.into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ]
    }

    /// A program that is a client of AWS, with that environment.
    pub(crate) fn aws_command(&self, program: &Path) -> Command {
        let mut command = command::clean(program);
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        // Neither files of the user nor a proxy.
        let nothing = self.folder.join("no-such-file");
        command.envs(["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"].map(|name| (name, &nothing)));
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        command.envs(self.aws());
        command
    }

    /// Writes a file that only its owner can read.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let written =
            fs::write(&path, text).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o600)));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Adds the daemon's part of the credentials to the inputs of the metal, where `configure.sh` takes them.
    pub(crate) fn give(&self, parts: &mut Parts) -> Result<()> {
        for name in [CERTIFICATE, KEY] {
            parts.add(self.folder.join(name), name);
        }
        // On ARM64 metal, the daemon itself listens on this machine's ports.
        let host = if metal::kvm_is_usable() { "127.0.0.1" } else { "0.0.0.0" };
        let Ports { api, endpoints, aws } = self.ports;
        let secret = &self.secret;
        parts.add_script(
            "listen.sh",
            &format!(
                "listen='{host}:{api}'\nendpoint='{host}:{endpoints}'\naws='{host}:{aws}'\n\
                 key_id='{KEY_ID}'\nsecret='{secret}'\n"
            ),
        )
    }

    /// Forwards the ports to the metal of a job.
    pub(crate) fn forward(&self, job: &mut Job) {
        job.forwards.extend(self.ports.all().map(|port| (port, port)));
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
            ports: Ports { api: 7443, endpoints: 7444, aws: 7480 },
            secret: random().unwrap(),
        };
        access.make_certificate().unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["x509", "-noout", "-text", "-in"]).arg(access.certificate());
        let text = command::capture(&mut openssl).unwrap();
        for expected in ["IP Address:127.0.0.1", "DNS:localhost", "CA:FALSE"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        let mode = fs::metadata(folder.path().join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "the key is its owner's alone");
        assert_eq!(access.secret.len(), 40);
        assert!(access.profile().contains(&access.secret));
        let url = access.aws().into_iter().find(|(name, _)| *name == "AWS_ENDPOINT_URL").unwrap().1;
        assert_eq!(url, "https://127.0.0.1:7480");
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = Ports::free().unwrap().all().to_vec();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 3);
    }
}
