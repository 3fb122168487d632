//! The certificate authorities that this machine trusts.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;

use crate::error::Failure;

/// Name of the file with the host's authority.
const FILE: &str = "hearth.crt";
/// Folders of authorities with the programs that apply changes: the first pair of which both exist is used.
const KNOWN: [Known; 4] = [
    // Fedora, RHEL, Amazon Linux
    Known { folder: "etc/pki/ca-trust/source/anchors", program: "usr/bin/update-ca-trust", remove: &[] },
    // Arch
    Known {
        folder: "etc/ca-certificates/trust-source/anchors",
        program: "usr/bin/update-ca-trust",
        remove: &[],
    },
    // openSUSE
    Known {
        folder: "etc/pki/trust/anchors",
        program: "usr/sbin/update-ca-certificates",
        remove: &["--fresh"],
    },
    // Debian, Ubuntu, Alpine: a removed authority stays trusted unless everything is generated anew.
    Known {
        folder: "usr/local/share/ca-certificates",
        program: "usr/sbin/update-ca-certificates",
        remove: &["--fresh"],
    },
];

struct Known {
    folder: &'static str,
    program: &'static str,
    /// Options of the program after a removal.
    remove: &'static [&'static str],
}

/// This machine's store of authorities.
pub(crate) struct TrustStore {
    file: PathBuf,
    program: PathBuf,
    remove: &'static [&'static str],
}

/// Result of a change.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The authority's file.
    pub(crate) file: PathBuf,
    /// The program that applied the change; none if nothing had to be done.
    pub(crate) program: Option<String>,
    /// Whether the authority is installed now.
    pub(crate) installed: bool,
}

/// Why authorities cannot be changed.
#[derive(Debug, thiserror::Error)]
enum TrustError {
    /// The system is neither Debian nor Fedora nor similar to them.
    #[error(
        "this system's store of authorities is not known; put the output of `hearth ca` where its manual says \
         (ca-certificates may have to be installed first)"
    )]
    Unknown,
    /// The daemon's answer is not exactly one certificate.
    #[error("the daemon's answer is no certificate: {0}")]
    Certificate(String),
    /// The authority could sign for servers that are none of the host's.
    #[error(
        "the daemon's authority is not installed: it {0}, so that with it the daemon's host could pose as other servers; use it for single programs \
         (`hearth ca > FILE`, then curl --cacert FILE)"
    )]
    Unlimited(String),
    /// The store belongs to root.
    #[error("cannot change {}: the store of authorities is root's; run the same as root (sudo)", .0.display())]
    Denied(PathBuf),
    /// The file cannot be changed.
    #[error("cannot change {}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    /// The program that applies changes cannot be run.
    #[error("cannot run {}: {}", .0.display(), .1)]
    Start(PathBuf, io::Error),
    /// The program that applies changes has failed.
    #[error("{} failed ({}): {}", .0.display(), .1.status, String::from_utf8_lossy(&.1.stderr).trim())]
    Program(PathBuf, Output),
}

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        Self::failed(error.to_string())
    }
}

impl TrustStore {
    /// This machine's store.
    pub(crate) fn find() -> Result<Self, Failure> {
        Ok(Self::below(Path::new("/"))?)
    }

    fn below(root: &Path) -> Result<Self, TrustError> {
        let known =
            KNOWN.iter().find(|known| root.join(known.folder).is_dir() && root.join(known.program).exists());
        let known = known.ok_or(TrustError::Unknown)?;
        let file = root.join(known.folder).join(FILE);
        Ok(Self { file, program: root.join(known.program), remove: known.remove })
    }

    /// Installs an authority that can sign for names below `domain` and nothing else, and replaces the one that was installed before, if
    /// any.
    pub(crate) fn install(&self, pem: &str, domain: &str) -> Result<Changed, Failure> {
        limited(&one_certificate(pem)?, domain)?;
        self.write(pem).map_err(|error| self.failed(error))?;
        if let Err(error) = self.take_over(&[]) {
            // If the file stayed, it would take effect as soon as another program changes the store.
            drop(fs::remove_file(&self.file));
            return Err(error.into());
        }
        Ok(self.changed(true))
    }

    /// Removes the authority.
    pub(crate) fn uninstall(&self) -> Result<Changed, Failure> {
        match fs::remove_file(&self.file) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Changed { file: self.file.clone(), program: None, installed: false });
            }
            Err(error) => return Err(self.failed(error).into()),
        }
        self.take_over(self.remove)?;
        Ok(self.changed(false))
    }

    fn changed(&self, installed: bool) -> Changed {
        let program = Some(self.program.display().to_string());
        Changed { file: self.file.clone(), program, installed }
    }

    /// Writes the file in one step, readable for everybody.
    fn write(&self, pem: &str) -> io::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(pem.as_bytes())?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(&self.file)?;
        Ok(())
    }

    fn take_over(&self, options: &[&str]) -> Result<(), TrustError> {
        let output = Command::new(&self.program).args(options).stdin(Stdio::null()).output();
        let output = output.map_err(|error| TrustError::Start(self.program.clone(), error))?;
        if output.status.success() { Ok(()) } else { Err(TrustError::Program(self.program.clone(), output)) }
    }

    fn failed(&self, error: io::Error) -> TrustError {
        match error.kind() {
            io::ErrorKind::PermissionDenied => TrustError::Denied(self.file.clone()),
            _ => TrustError::File(self.file.clone(), error),
        }
    }
}

/// The certificate, which has to be exactly one: nothing else may get into the machine's store.
fn one_certificate(pem: &str) -> Result<CertificateDer<'static>, TrustError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let mut certificates = certificates.map_err(|error| TrustError::Certificate(error.to_string()))?;
    match (certificates.pop(), certificates.len()) {
        (Some(certificate), 0) => Ok(certificate),
        (None, _) => Err(TrustError::Certificate("it has none".into())),
        (_, more) => Err(TrustError::Certificate(format!("it has {} of them", more + 1))),
    }
}

/// Checks that an authority can sign for names below a domain of at least two labels, and for nothing else (RFC 5280, section 4.2.1.10).
fn limited(certificate: &CertificateDer<'_>, domain: &str) -> Result<(), TrustError> {
    let unlimited = |why: &str| TrustError::Unlimited(why.to_owned());
    let (_, read) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| TrustError::Certificate(error.to_string()))?;
    let constraints = read.name_constraints().map_err(|error| TrustError::Certificate(error.to_string()))?;
    // Programs may ignore what is not critical.
    let constraints = constraints.filter(|constraints| constraints.critical);
    let constraints = constraints.ok_or_else(|| unlimited("may sign for every name"))?.value;
    if !domain.trim_matches('.').contains('.') {
        return Err(unlimited("is for a whole top-level domain"));
    }
    let permitted = constraints.permitted_subtrees.iter().flatten();
    let names: Vec<&GeneralName<'_>> = permitted.map(|tree| &tree.base).collect();
    let is_domain = |name: &&GeneralName<'_>| matches!(name, GeneralName::DNSName(name) if name.eq_ignore_ascii_case(domain));
    if names.is_empty() || !names.iter().all(is_domain) {
        return Err(unlimited(&format!("may sign for more than names below {domain}")));
    }
    // A kind of name that is not mentioned at all is permitted.
    let excluded = constraints.excluded_subtrees.iter().flatten();
    let all = |bytes: &[u8], length: usize| bytes.len() == length && bytes.iter().all(|byte| *byte == 0);
    let addresses: Vec<&[u8]> = excluded
        .filter_map(|tree| match tree.base {
            GeneralName::IPAddress(bytes) => Some(bytes),
            _ => None,
        })
        .collect();
    // An address and its mask: the empty prefix of IPv4 and of IPv6.
    if [8, 32].iter().all(|length| addresses.iter().any(|bytes| all(bytes, *length))) {
        Ok(())
    } else {
        Err(unlimited("may sign for addresses"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard};

    use tempfile::TempDir;

    use super::*;

    /// Serializes the tests: a program cannot be started while another thread that is about to start its own holds the file open.
    fn turn() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A system whose program records its arguments, and exits with a status.
    fn system(folder: &str, program: &str, status: i32) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(folder)).unwrap();
        let program = root.path().join(program);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        let calls = root.path().join("calls");
        let text =
            format!("#!/bin/sh\necho \"called $*\" >> {}\necho broken >&2\nexit {status}\n", calls.display());
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        root
    }

    const DOMAIN: &str = "vm.example";
    const ADDRESSES: [&str; 2] = ["0.0.0.0/0", "::/0"];

    /// An authority for these names that excludes these addresses; without any, for everything.
    fn authority(names: &[&str], excluded: &[&str]) -> String {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let address = |text: &&str| rcgen::GeneralSubtree::IpAddress(text.parse().unwrap());
        parameters.name_constraints = (!names.is_empty()).then(|| rcgen::NameConstraints {
            permitted_subtrees: names
                .iter()
                .map(|name| rcgen::GeneralSubtree::DnsName((*name).to_owned()))
                .collect(),
            excluded_subtrees: excluded.iter().map(address).collect(),
        });
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn pem() -> String {
        authority(&[DOMAIN], &ADDRESSES)
    }

    #[test]
    fn an_authority_is_installed_replaced_and_removed_on_every_known_system() {
        let _turn = turn();
        for known in &KNOWN {
            let root = system(known.folder, known.program, 0);
            let store = TrustStore::below(root.path()).unwrap();
            let file = root.path().join(known.folder).join("hearth.crt");
            store.install(&pem(), DOMAIN).unwrap();
            let second = pem();
            assert!(store.install(&second, DOMAIN).unwrap().installed);
            assert_eq!(fs::read_to_string(&file).unwrap(), second);
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
            assert!(!store.uninstall().unwrap().installed);
            assert!(!file.exists());
            assert_eq!(store.uninstall().unwrap().program, None, "nothing is left to do");
            let calls = fs::read_to_string(root.path().join("calls")).unwrap();
            let last = format!("called {}", known.remove.join(" "));
            assert_eq!(calls.lines().collect::<Vec<_>>(), ["called ", "called ", last.as_str()]);
        }
    }

    #[test]
    fn a_program_that_fails_leaves_nothing_behind() {
        let _turn = turn();
        let root = system("usr/local/share/ca-certificates", "usr/sbin/update-ca-certificates", 3);
        let store = TrustStore::below(root.path()).unwrap();
        let text = store.install(&pem(), DOMAIN).unwrap_err().to_string();
        assert!(text.ends_with("update-ca-certificates failed (exit status: 3): broken"), "{text}");
        assert!(!store.file.exists());
    }

    #[test]
    fn only_one_certificate_gets_in() {
        let _turn = turn();
        let root = system("usr/local/share/ca-certificates", "usr/sbin/update-ca-certificates", 0);
        let store = TrustStore::below(root.path()).unwrap();
        for wrong in [String::new(), "text".to_owned(), format!("{}{}", pem(), pem())] {
            assert!(store.install(&wrong, DOMAIN).is_err(), "{wrong}");
        }
        assert!(!store.file.exists());
        assert!(TrustStore::below(&root.path().join("empty")).is_err());
    }

    #[test]
    fn an_authority_for_other_servers_does_not_get_in() {
        let _turn = turn();
        let root = system("usr/local/share/ca-certificates", "usr/sbin/update-ca-certificates", 0);
        let store = TrustStore::below(root.path()).unwrap();
        for (pem, domain, why) in [
            (authority(&[], &[]), DOMAIN, "every name"),
            (authority(&["example"], &ADDRESSES), DOMAIN, "more than names below vm.example"),
            (authority(&[DOMAIN, "bank.example"], &ADDRESSES), DOMAIN, "more than names below vm.example"),
            (authority(&[DOMAIN], &[]), DOMAIN, "addresses"),
            (authority(&[DOMAIN], &["0.0.0.0/0"]), DOMAIN, "addresses"),
            (authority(&[DOMAIN], &["0.0.0.0/1", "::/0"]), DOMAIN, "addresses"),
            // A daemon can name any domain as its own.
            (authority(&["com"], &ADDRESSES), "com", "top-level domain"),
            (authority(&[""], &ADDRESSES), "", "top-level domain"),
        ] {
            let text = store.install(&pem, domain).unwrap_err().to_string();
            assert!(text.contains(why), "{text}");
        }
        assert!(!store.file.exists());
    }
}
