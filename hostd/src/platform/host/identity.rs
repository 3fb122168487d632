//! The identity and the credentials that a guest receives.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_host::agent::Agent;
use hearth_host::network::{GATEWAY, GUEST, PREFIX_LENGTH};
use hearth_host::roles::{Credentials, RoleError, RoleProvider, Secret};
use hearth_model::id::MicrovmId;
use hearth_model::role::RoleUse;
use hearth_proto::guest::v1 as proto;

use crate::clock::Clock;

/// Bytes of entropy for a guest's random number generator.
const ENTROPY: usize = 64;
/// How long before its credentials expire the guest gets new ones: by then the provider has new ones.
const BEFORE: Duration = Duration::from_secs(4 * 60);
/// Shortest pause before credentials of a role are requested again.
const RETRY: Duration = Duration::from_secs(30);

/// The network settings for a guest with a network card.
pub(super) fn network(mtu: u16) -> proto::Network {
    proto::Network {
        address: format!("{GUEST}/{PREFIX_LENGTH}"),
        gateway: GATEWAY.to_string(),
        mtu: mtu.into(),
    }
}

/// The identification message for a restored guest, with fresh entropy and the current time. Its metadata settings
/// are those of the image. With `own_name`, host name and machine id are those of the microVM.
pub(super) fn message(
    (microvm, own_name): (&MicrovmId, bool),
    clock: &Clock,
    network: Option<proto::Network>,
    credentials: Option<&Credentials>,
) -> io::Result<proto::Identify> {
    let mut entropy = vec![0; ENTROPY];
    File::open("/dev/urandom")?.read_exact(&mut entropy)?;
    let now = clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let machine_id = microvm.machine_id().filter(|_| own_name);
    Ok(proto::Identify {
        microvm_id: microvm.to_string(),
        wall_clock_ns: u64::try_from(now).unwrap_or_default(),
        entropy,
        network,
        hostname: machine_id.as_ref().map(|_| microvm.to_string()).unwrap_or_default(),
        machine_id: machine_id.unwrap_or_default(),
        metadata: None,
        credentials: credentials.map(grant),
    })
}

/// Credentials in the format of the guest's metadata service.
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

/// Gives a guest new credentials before its present ones expire at `expiration`; at once if that is unknown. If the
/// role is refused, the guest's credentials are removed: an account that may not use a role, or may no longer, does
/// not keep its credentials until they expire.
pub(super) async fn refresh(
    agent: Agent,
    roles: Arc<RoleProvider>,
    role: RoleUse,
    clock: Clock,
    expiration: Option<SystemTime>,
) {
    keep_fresh(agent, &roles, &role, clock, expiration, RETRY).await;
}

/// [`refresh`] with the shortest pause between two requests for the role's credentials as a parameter.
async fn keep_fresh(
    agent: Agent,
    roles: &RoleProvider,
    role: &RoleUse,
    clock: Clock,
    mut expiration: Option<SystemTime>,
    retry: Duration,
) {
    let mut taken = false;
    loop {
        if let Some(expiration) = expiration {
            clock.sleep_until(expiration.checked_sub(BEFORE).unwrap_or(UNIX_EPOCH)).await;
        }
        let (fetched, ends) = match roles.credentials(role).await {
            Ok(Some(credentials)) => (Some(Some(credentials)), false),
            Ok(None) => (Some(None), true), // the role stands for no credentials (any more)
            Err(error) => {
                let (role_arn, account) = (role.role_arn.as_str(), role.account.as_str());
                tracing::warn!(role = role_arn, account, %error, "no new credentials");
                // A refusal by the configuration is final until the daemon restarts; an STS may change its mind.
                let ends = matches!(error, RoleError::NotForAccount { .. });
                ((error.is_refusal() && !taken).then_some(None), ends)
            }
        };
        if let Some(credentials) = fetched {
            let set = async { agent.control().await?.set_credentials(credentials.as_ref().map(grant)).await };
            match set.await {
                Ok(()) if ends => return,
                Ok(()) => {
                    taken = credentials.is_none();
                    expiration = credentials.map(|credentials| credentials.expiration);
                }
                Err(error) => tracing::debug!(%error, "the guest did not take its credentials"),
            }
        }
        // Never retry at once: an STS that cannot be reached yields the former credentials, and some yield
        // credentials that soon expire.
        tokio::time::sleep(retry).await;
    }
}

#[cfg(test)]
mod tests {
    use hearth_host::agent::double::{Lines, played};
    use hearth_host::roles::{RolesConfig, VALIDITY};
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_guest_gets_entropy_of_its_own_and_what_is_true_now() {
        let clock = Clock::system();
        let [first, second] = [1, 2].map(|number| MicrovmId::with_uuid(uuid::Uuid::from_u128(number)));
        let one = message((&first, false), &clock, Some(network(1400)), None).unwrap();
        let other = message((&second, true), &clock, None, None).unwrap();
        assert_ne!(one.entropy, other.entropy);
        assert_eq!(one.entropy.len(), ENTROPY);
        assert_eq!(one.network.unwrap().mtu, 1400);
        assert!(one.wall_clock_ns > 1_700_000_000_000_000_000 && one.metadata.is_none());
        assert!(one.hostname.is_empty() && one.machine_id.is_empty());
        assert_eq!(
            (other.hostname, &*other.machine_id),
            (second.to_string(), "00000000000000000000000000000002")
        );
    }

    /// Answers the next request of a host, and returns the credentials in it.
    async fn answer(guest: &mut Lines) -> Option<proto::Credentials> {
        let mut line = guest.next().await.unwrap().unwrap();
        line.accept().await.unwrap();
        let request = line.receive_request().await.unwrap();
        line.answer(proto::response::Result::Done(proto::Done {})).await.unwrap();
        let Some(proto::request::Operation::SetCredentials(set)) = request else { panic!("{request:?}") };
        set.credentials
    }

    const ARN: &str = "arn:aws:iam::111111111111:role/app";

    /// A guest of this account, and the task that refreshes its credentials of a role of the account 111111111111.
    fn refreshing(account: &str, expiration: Option<SystemTime>) -> (tokio::task::JoinHandle<()>, Lines) {
        let (agent, guest) = played();
        let keys = "[rules.\"arn:aws:iam::*\".static]\naccess_key_id = \"AKIA\"\nsecret_access_key = \"s\"\n";
        let roles = Arc::new(RoleProvider::new(toml::from_str::<RolesConfig>(keys).unwrap()).unwrap());
        let role = RoleUse::new(account, ARN);
        (tokio::spawn(refresh(agent, roles, role, Clock::system(), expiration)), guest)
    }

    #[tokio::test]
    async fn an_adopted_guest_gets_credentials_at_once() {
        let (refreshing, mut guest) = refreshing("111111111111", None);
        let given = answer(&mut guest).await.unwrap();
        assert_eq!((given.access_key_id.as_str(), given.secret_access_key.as_str()), ("AKIA", "s"));
        assert_eq!(given.expiration - given.last_updated, VALIDITY.as_secs());
        refreshing.abort();
    }

    /// A guest that an earlier daemon, or an earlier configuration, gave credentials of a role of another account.
    #[tokio::test]
    async fn credentials_of_another_accounts_role_are_taken_away() {
        for expiration in [None, Some(SystemTime::now())] {
            let (refreshing, mut guest) = refreshing("222222222222", expiration);
            assert_eq!(answer(&mut guest).await, None);
            // The refusal is final.
            refreshing.await.unwrap();
            assert!(guest.next().await.is_none(), "it was never given anything");
        }
    }

    /// The STS returns credentials that have expired, so that new ones are requested at once.
    #[tokio::test]
    async fn what_an_sts_refuses_is_taken_away_once_and_given_again_when_it_may_be() {
        let (endpoint, answers) = sts().await;
        let (agent, mut guest) = played();
        let config = format!(
            "[default.assume_role]\nendpoint = \"{endpoint}\"\nregion = \"r\"\n\
             credentials = {{ static = {{ access_key_id = \"AKIA\", secret_access_key = \"s\" }} }}\n"
        );
        let roles = RoleProvider::new(toml::from_str::<RolesConfig>(&config).unwrap()).unwrap();
        let role = RoleUse::new("111111111111", ARN);
        let task = tokio::spawn(async move {
            keep_fresh(agent, &roles, &role, Clock::system(), None, Duration::from_millis(1)).await;
        });
        answers.send(GIVEN).await.unwrap();
        assert_eq!(answer(&mut guest).await.unwrap().access_key_id, "ASIA");
        answers.send(REFUSED).await.unwrap();
        assert_eq!(answer(&mut guest).await, None, "taken away");
        // After a second refusal the guest gets no second message.
        answers.send(REFUSED).await.unwrap();
        answers.send(GIVEN).await.unwrap();
        assert_eq!(answer(&mut guest).await.unwrap().access_key_id, "ASIA");
        task.abort();
    }

    const GIVEN: (&str, &str) = (
        "200 OK",
        "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIA</AccessKeyId>\
         <SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>2020-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>",
    );
    const REFUSED: (&str, &str) =
        ("403 Forbidden", "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>");

    /// An STS on the loopback device that answers each request with the next response from the channel.
    async fn sts() -> (String, mpsc::Sender<(&'static str, &'static str)>) {
        use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
        let (answers, mut next) = mpsc::channel::<(&str, &str)>(1);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Some((status, body)) = next.recv().await {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                let (mut line, mut length) = (String::new(), 0);
                while stream.read_line(&mut line).await.unwrap() > 2 {
                    if let Some((_, value)) = line.to_lowercase().split_once("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                stream.read_exact(&mut vec![0; length]).await.unwrap();
                let head = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        (endpoint, answers)
    }
}
