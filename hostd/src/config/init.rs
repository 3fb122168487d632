//! Writes a first configuration: the file with comments and, for requests over TCP, an authority, a certificate and
//! an access key. Existing files are not overwritten, and only the owner may read the new ones.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use time::{Duration, OffsetDateTime};

use crate::certificates::authority::{Authority, Signed, Validity};

/// Names of the files beside the configuration.
pub const AUTHORITY: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca.key";
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";
/// How long the certificates are valid.
const VALID: Duration = Duration::days(3650);
/// Number of random bytes in an access key's id; below, in its secret.
const ID_BYTES: usize = 12;
const SECRET_BYTES: usize = 30;

/// The settings of a first configuration.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Path of the configuration; the other files are written beside it.
    pub file: PathBuf,
    /// Address for requests over TCP.
    pub listen: Option<SocketAddr>,
    /// Names and addresses under which clients know this host, in addition to `localhost`.
    pub names: Vec<String>,
    /// Account of the access key: 12 digits.
    pub account: String,
}

/// Why no first configuration was written. Files that were written before the error stay.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file exists already.
    #[error("{} is there already, and nothing is overwritten: remove it, or name another file with --config", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The account number is invalid.
    #[error("the account {0:?} is none: give 12 digits")]
    Account(String),
    /// A certificate for these names cannot be made.
    #[error("no certificate can be made: {0}; look at the names")]
    Certificate(#[from] rcgen::Error),
    /// The operating system returned no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// What was written, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitOutcome {
    /// Paths of the files.
    pub files: Vec<PathBuf>,
    /// Shell commands that make the client connect.
    pub connect: Vec<String>,
}

impl Plan {
    /// Writes the configuration.
    ///
    /// # Errors
    /// [`InitError`]
    pub fn write(&self) -> Result<InitOutcome, InitError> {
        if self.account.len() != 12 || !self.account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InitError::Account(self.account.clone()));
        }
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let beside = |name: &str| folder.join(name);
        let mut files = vec![self.file.clone()];
        if self.listen.is_some() {
            files.extend([AUTHORITY, AUTHORITY_KEY, CERTIFICATE, KEY].map(beside));
        }
        if let Some(there) = files.iter().find(|path| path.symlink_metadata().is_ok()) {
            return Err(InitError::Exists(there.clone()));
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(|source| InitError::Write { path: folder.to_owned(), source })?;
        let Some(address) = self.listen else {
            write(&self.file, &text(&self.account, None))?;
            let connect = vec!["hearth host   # as root, on this machine".to_owned()];
            return Ok(InitOutcome { files, connect });
        };
        let (id, secret) = (format!("HK{}", random(ID_BYTES)?), random(SECRET_BYTES)?);
        let (authority, server) = certificates(&self.all_names(address))?;
        for (name, pem) in [
            (AUTHORITY, authority.pem()),
            (AUTHORITY_KEY, authority.key_pem()),
            (CERTIFICATE, &server.pem),
            (KEY, &server.key_pem),
        ] {
            write(&beside(name), pem)?;
        }
        let absolute = |name: &str| fs::canonicalize(beside(name)).unwrap_or_else(|_| beside(name));
        let tcp =
            Tcp { address, certificate: absolute(CERTIFICATE), key: absolute(KEY), id: &id, secret: &secret };
        write(&self.file, &text(&self.account, Some(&tcp)))?;
        let host = self.names.first().map_or_else(|| known_as(address.ip()), Clone::clone);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let connect = vec![
            format!("export HEARTH_ENDPOINT=https://{host}:{}", address.port()),
            format!("export HEARTH_CA={}   # on other machines: a copy of it", absolute(AUTHORITY).display()),
            format!("export HEARTH_ACCESS_KEY_ID={id}"),
            format!("export HEARTH_SECRET_ACCESS_KEY={secret}"),
            "hearth host".to_owned(),
        ];
        Ok(InitOutcome { files, connect })
    }

    fn all_names(&self, address: SocketAddr) -> Vec<String> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let own = (!address.ip().is_unspecified()).then(|| address.ip().to_string());
        for name in self.names.iter().cloned().chain(own) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

fn known_as(address: IpAddr) -> String {
    if address.is_loopback() || address.is_unspecified() {
        "localhost".to_owned()
    } else {
        address.to_string()
    }
}

/// An authority, and a server certificate that it has signed.
fn certificates(names: &[String]) -> Result<(Authority, Signed), rcgen::Error> {
    let valid = Validity::around(OffsetDateTime::now_utc(), VALID);
    let authority = Authority::new("Hearth", None, valid)?;
    let server = authority.sign("hearthd", names, valid)?;
    Ok((authority, server))
}

fn random(bytes: usize) -> Result<String, InitError> {
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).map_err(|_| InitError::Random)?;
    // Letters and digits only can be selected with a double click, and are not mistaken for an option.
    Ok(URL_SAFE_NO_PAD.encode(random).replace('-', "x").replace('_', "y"))
}

/// Writes a new file that only its owner may read.
fn write(path: &Path, text: &str) -> Result<(), InitError> {
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file: File| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    written.map_err(|source| InitError::Write { path: path.to_owned(), source })
}

struct Tcp<'a> {
    address: SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
    id: &'a str,
    secret: &'a str,
}

/// The text of the configuration.
fn text(account: &str, tcp: Option<&Tcp<'_>>) -> String {
    let head = "# The configuration of hearthd. Every key has a default; the reference is docs/configuration.md.\n\
         # After a change: `hearthd config check`, then restart the daemon. MicroVMs run on meanwhile.\n\n\
         # The Region in ARNs and in names of endpoints.\n\
         region = \"us-east-1\"\n\
         # \"aws-strict\" does what AWS was measured to do where that differs from its documentation.\n\
         profile = \"default\"\n\
         # Store, images, disks of microVMs, logs.\n\
         data = \"/var/lib/hearth\"\n\
         # Memory that microVMs may have together, in MiB; nine tenths of the host's unless given.\n\
         # capacity_mib = 16384\n\n\
         [listen]\n\
         # Permissions of the Unix socket. Who else may use it: socket_users in [access].\n\
         # socket_mode = \"0600\"\n";
    let aws = "# AWS's SDKs and its command line: an address of their own, and access keys to sign with (docs/aws.md).\n\
         # [aws]\n\
         # address = \"127.0.0.1:7480\"\n\n";
    let access = format!(
        "{aws}[access]\n# Account of those who come through the socket.\nlocal_account = \"{account}\"\n"
    );
    match tcp {
        None => format!(
            "{head}\
             # Requests over TCP: `hearthd init --listen ADDRESS:PORT` makes what they need.\n\
             # address = \"0.0.0.0:7443\"\n\n{access}"
        ),
        Some(tcp) => format!(
            "{head}\
             # Requests over TCP.\n\
             address = \"{}\"\ncertificate = {:?}\nkey = {:?}\n\n{access}\n\
             # Access keys of those who come over TCP. Without policies they may do everything in their account. What concerns\n\
             # the whole host is for the socket, and for policies that name it: actions = [\"*\", \"GetHostStatus\", \"BackUpStore\"].\n\
             # With keys of several accounts, each source in [artifacts] needs accounts = [\"ACCOUNT\"].\n\
             [[access.keys]]\nid = \"{}\"\nsecret = \"{}\"\naccount = \"{account}\"\n\
             # policies = [{{ actions = [\"RunMicrovm\", \"Get*\"], images = [\"web-*\"] }}]\n",
            tcp.address, tcp.certificate, tcp.key, tcp.id, tcp.secret
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Config;
    use super::*;

    fn plan(folder: &Path, listen: Option<&str>) -> Plan {
        Plan {
            file: folder.join("etc/hearthd.toml"),
            listen: listen.map(|address| address.parse().unwrap()),
            names: vec!["hearth.example".into()],
            account: "123456789012".into(),
        }
    }

    #[test]
    fn a_first_configuration_is_private_and_has_no_problem() {
        for listen in [None, Some("0.0.0.0:7443"), Some("[::1]:7443")] {
            let folder = tempfile::tempdir().unwrap();
            let made = plan(folder.path(), listen).write().unwrap();
            for file in &made.files {
                assert_eq!(
                    fs::metadata(file).unwrap().permissions().mode() & 0o777,
                    0o600,
                    "{}",
                    file.display()
                );
            }
            let config = Config::read(&made.files[0]).unwrap();
            assert_eq!(config.problems(), []);
            let missing: Vec<_> = config.missing().into_iter().map(|problem| problem.key).collect();
            assert!(!missing.iter().any(|key| key.starts_with("listen")), "{missing:?}");
            assert_eq!(config.access.local_account, "123456789012");
            assert_eq!(config.access.keys.len(), usize::from(listen.is_some()));
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let first = plan(folder.path(), None).write().unwrap();
        let text = fs::read(&first.files[0]).unwrap();
        let error = plan(folder.path(), Some("0.0.0.0:7443")).write().unwrap_err();
        assert!(matches!(error, InitError::Exists(path) if path == first.files[0]));
        assert_eq!(fs::read(&first.files[0]).unwrap(), text);
        assert!(!folder.path().join("etc").join(KEY).exists());
    }

    #[tokio::test]
    async fn the_certificate_is_good_for_the_names_and_signed_by_the_authority() {
        use tokio::net::TcpListener;
        use tokio_stream::wrappers::TcpListenerStream;
        use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};

        let (authority, server) =
            certificates(&["localhost".into(), "hearth.example".into(), "::1".into()]).unwrap();
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(&server.pem, &server.key_pem));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("https://{}", listener.local_addr().unwrap());
        let (_, health) = tonic_health::server::health_reporter();
        let server = Server::builder().tls_config(tls).unwrap().add_service(health);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        for (name, good) in
            [("hearth.example", true), ("localhost", true), ("::1", true), ("other.example", false)]
        {
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(authority.pem()))
                .domain_name(name);
            let endpoint = Endpoint::from_shared(uri.clone()).unwrap().tls_config(tls).unwrap();
            assert_eq!(endpoint.connect().await.is_ok(), good, "{name}");
        }
    }

    #[test]
    fn how_to_connect_names_the_host_as_clients_know_it() {
        let folder = tempfile::tempdir().unwrap();
        let made = plan(folder.path(), Some("0.0.0.0:7443")).write().unwrap();
        assert_eq!(made.connect[0], "export HEARTH_ENDPOINT=https://hearth.example:7443");
        let text = fs::read_to_string(&made.files[0]).unwrap();
        let secret = made.connect[3].split('=').nth(1).unwrap();
        assert!(text.contains(secret) && secret.len() == 40);
    }
}
