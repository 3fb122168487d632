//! Who a guest is told to be, and the credentials it is given.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_host::agent::Agent;
use hearth_host::network::{GATEWAY, GUEST, PREFIX_LENGTH};
use hearth_host::roles::{Credentials, RoleProvider, Secret};
use hearth_proto::guest::v1 as proto;

use crate::clock::Clock;

/// Bytes of entropy for a guest's random number generator.
const ENTROPY: usize = 64;
/// How long before credentials expire the guest gets new ones: the provider has new ones by then.
const BEFORE: Duration = Duration::from_secs(4 * 60);
/// How long to wait at least before a role is asked for again.
const RETRY: Duration = Duration::from_secs(30);

/// What a guest with a network card is told of its network.
pub(super) fn network(mtu: u16) -> proto::Network {
    proto::Network {
        address: format!("{GUEST}/{PREFIX_LENGTH}"),
        gateway: GATEWAY.to_string(),
        mtu: mtu.into(),
    }
}

/// What a restored guest is told, with fresh entropy and the time of now. What its metadata says is the image's.
pub(super) fn message(
    microvm: &str,
    clock: &Clock,
    network: Option<proto::Network>,
    credentials: Option<&Credentials>,
) -> io::Result<proto::Identify> {
    let mut entropy = vec![0; ENTROPY];
    File::open("/dev/urandom")?.read_exact(&mut entropy)?;
    let now = clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(proto::Identify {
        microvm_id: microvm.to_owned(),
        wall_clock_ns: u64::try_from(now).unwrap_or_default(),
        entropy,
        network,
        hostname: String::new(),
        metadata: None,
        credentials: credentials.map(grant),
    })
}

/// Credentials as the guest's metadata service wants them.
fn grant(credentials: &Credentials) -> proto::Credentials {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    proto::Credentials {
        access_key_id: credentials.access_key_id.clone(),
        secret_access_key: credentials.secret_access_key.expose().to_owned(),
        session_token: credentials.session_token.as_ref().map(Secret::expose).unwrap_or_default().to_owned(),
        last_updated: seconds(credentials.last_updated),
        expiration: seconds(credentials.expiration),
    }
}

/// Gives a guest new credentials before those that it has expire: at `expiration`; at once without, since nobody knows what it
/// has.
pub(super) async fn refresh(
    agent: Agent,
    roles: Arc<RoleProvider>,
    role_arn: String,
    clock: Clock,
    mut expiration: Option<SystemTime>,
) {
    loop {
        if let Some(expiration) = expiration {
            clock.sleep_until(expiration.checked_sub(BEFORE).unwrap_or(UNIX_EPOCH)).await;
        }
        match roles.credentials(&role_arn).await {
            Ok(credentials) => {
                let granted = credentials.as_ref().map(grant);
                let set = async { agent.control().await?.set_credentials(granted).await };
                match set.await {
                    Ok(()) => match credentials {
                        Some(credentials) => expiration = Some(credentials.expiration),
                        None => return, // the role stands for nothing (any more)
                    },
                    Err(error) => tracing::debug!(%error, "the guest did not take its credentials"),
                }
            }
            Err(error) => tracing::warn!(role = role_arn, %error, "no new credentials"),
        }
        // Never again at once: an STS that is away gives what it gave before, and some give what soon expires.
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdStream;

    use hearth_host::agent::Dial;
    use hearth_host::agent::frame::{receive, send};
    use hearth_host::roles::{RolesConfig, VALIDITY};
    use hearth_vmm::client::ClientError;
    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_guest_gets_entropy_of_its_own_and_what_is_true_now() {
        let clock = Clock::system();
        let one = message("microvm-1", &clock, Some(network(1400)), None).unwrap();
        let other = message("microvm-2", &clock, None, None).unwrap();
        assert_ne!(one.entropy, other.entropy);
        assert_eq!(one.entropy.len(), ENTROPY);
        assert_eq!(one.network.unwrap().mtu, 1400);
        assert!(one.wall_clock_ns > 1_700_000_000_000_000_000 && one.metadata.is_none());
    }

    struct Guest(mpsc::UnboundedSender<StdStream>);

    impl Dial for Guest {
        fn dial(&self) -> Result<StdStream, ClientError> {
            let (ours, theirs) = StdStream::pair().unwrap();
            self.0.send(theirs).unwrap();
            Ok(ours)
        }
    }

    /// Answers the next request of a host, and returns the credentials in it.
    async fn answer(streams: &mut mpsc::UnboundedReceiver<StdStream>) -> proto::Credentials {
        let stream = streams.recv().await.unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut stream = UnixStream::from_std(stream).unwrap();
        let _: proto::Open = receive(&mut stream).await.unwrap();
        send(&mut stream, &proto::Opened::default()).await.unwrap();
        let request: proto::Request = receive(&mut stream).await.unwrap();
        let result = Some(proto::response::Result::Done(proto::Done {}));
        send(&mut stream, &proto::Response { result }).await.unwrap();
        let Some(proto::request::Operation::SetCredentials(set)) = request.operation else {
            panic!("{request:?}")
        };
        set.credentials.unwrap()
    }

    #[tokio::test]
    async fn an_adopted_guest_gets_credentials_at_once() {
        let (dial, mut streams) = mpsc::unbounded_channel();
        let config: RolesConfig = toml::from_str(
            "[rules.\"arn:aws:iam::1:role/app\".static]\naccess_key_id = \"AKIA\"\nsecret_access_key = \"s\"\n",
        )
        .unwrap();
        let roles = Arc::new(RoleProvider::new(config).unwrap());
        let role = "arn:aws:iam::1:role/app".to_owned();
        let refreshing = tokio::spawn(refresh(Agent::new(Guest(dial)), roles, role, Clock::system(), None));
        let given = answer(&mut streams).await;
        assert_eq!((given.access_key_id.as_str(), given.secret_access_key.as_str()), ("AKIA", "s"));
        assert_eq!(given.expiration - given.last_updated, VALIDITY.as_secs());
        refreshing.abort();
    }
}
