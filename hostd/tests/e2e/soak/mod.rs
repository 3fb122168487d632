//! An honest account beside hostile ones.
//!
//! Five guests attack the host – with connections, DNS queries, flushes and discards, lines of logs, and files until the disk is full –,
//! and so do a client without a key and one with a key of its own account, at both listeners. Meanwhile an honest account launches
//! microVMs, sends them requests and ends them: all of it succeeds. How much longer it takes than before the attack is printed, not judged.
//! What the daemon holds meanwhile, in memory and descriptors, has a bound.
//!
//! `cargo xtask test` runs a few rounds, `cargo xtask soak` as many as fit into minutes.
//!
//! * [`surroundings`] – a disk of its own, and a network that leads nowhere
//! * [`honest`] – what the honest account does, and how long it takes
//! * [`clients`] – the hostile clients
//! * [`held`] – what the daemon holds
//! * [`disk`] – a guest that fills the disk

mod clients;
mod disk;
mod held;
mod honest;
mod surroundings;

use std::env;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hearth_proto::microvms::v1::{Capability, MicrovmState};

use crate::support::api::request;
use crate::support::app::ask;
use crate::support::site::{Site, pack};
use crate::support::tenant::{Listener, Tenant};
use crate::support::{Daemon, until};
use clients::Clients;
use held::Held;
use honest::Rounds;
use surroundings::Surroundings;

/// Variable with the minutes of an attack. Without it, a few rounds are enough.
const MINUTES: &str = "HEARTH_SOAK_MINUTES";
/// Rounds of the honest account before the attack, and in a short one.
const ROUNDS: usize = 4;
/// What the hostile guests do.
const ATTACKS: [&str; 5] = ["connections", "dns", "flush", "log", "disk"];
/// The log group of the hostile image's microVMs.
const GROUP: &str = "/aws/lambda-microvms/attacker";
/// The address of the honest account, and that of the hostile clients.
const HONEST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const HOSTILE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// The access keys: id, secret, account.
const HONEST_KEY: (&str, &str, &str) = ("honest", "the-secret-of-the-honest", "111111111111");
const HOSTILE_KEY: (&str, &str, &str) = ("hostile", "the-secret-of-the-hostile", "222222222222");
/// The address of the API's listener.
const ADDRESS: &str = "127.0.0.1:7745";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_account_is_served_beside_hostile_guests_and_clients() {
    let Some(site) = Site::get() else { return };
    let surroundings = Surroundings::make(site);
    let site = surroundings.site();
    let listener = listener(site);
    let daemon = Daemon::start_on(site, &configuration(site)).await;
    let honest = tenant(&listener, HONEST, HONEST_KEY);
    let hostile = tenant(&listener, HOSTILE, HOSTILE_KEY);
    honest.build("app", site.counter(), &[]).await;
    let zip = pack(&site.examples.join("hostile"));
    hostile.build("attacker", zip, &[Capability::All]).await;

    let mut calm = Rounds::default();
    for _ in 0..ROUNDS {
        calm.go(&honest).await;
    }
    let before = Held::by(&daemon);

    let mut guests = Vec::new();
    for _ in ATTACKS {
        let launched = hostile.api().run_microvm(request("attacker")).await.unwrap().into_inner();
        guests.push(hostile.wait(&launched.microvm_id, MicrovmState::Running).await);
    }
    for (guest, attack) in guests.iter().zip(ATTACKS) {
        assert_eq!(ask(&guest.microvm_id, &format!("GET /attack/{attack}")).await, "begun");
    }
    let target = hostile.endpoint(&guests[0]).await;
    let clients = Clients::start(&listener, &hostile, target, HOSTILE);

    let mut attacked = Rounds::default();
    let mut most = before;
    let end = env::var(MINUTES).ok().map(|text| {
        Instant::now() + Duration::from_secs(60 * text.parse::<u64>().expect("a number of minutes"))
    });
    while end.map_or(attacked.len() < ROUNDS, |end| Instant::now() < end) {
        attacked.go(&honest).await;
        most = most.max(Held::by(&daemon));
    }
    // Each attack has been under way, not refused at its beginning.
    for (guest, attack) in guests.iter().zip(ATTACKS) {
        until(&format!("the attack `{attack}` has done something"), async || {
            let done: u64 = ask(&guest.microvm_id, &format!("GET /done/{attack}")).await.parse().ok()?;
            (done > 0).then(|| say(&format!("{attack}: done {done} times\n")))
        })
        .await;
    }
    say(&clients.end().await);
    for guest in &guests {
        hostile.terminate(&guest.microvm_id).await.unwrap();
    }
    for guest in &guests {
        hostile.wait(&guest.microvm_id, MicrovmState::Terminated).await;
    }
    say(&attacked.beside(&calm));
    say(&format!("hearthd held {before} before the attack, and {most} at most\n"));
    most.is_bounded();
    assert!(!daemon.log_text().contains("panicked"), "a panic is in the daemon's log");
    // The short form leaves it to `cargo xtask soak`.
    if std::env::var_os(MINUTES).is_some() {
        disk::is_filled_by_one_account_alone(&daemon, &surroundings, (&honest, &hostile)).await;
    }
    Rounds::default().go(&honest).await;
    daemon.finish().await;
}

/// Prints what a passing test prints, too.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn tenant(listener: &Listener, from: Ipv4Addr, (id, secret, account): (&str, &str, &str)) -> Tenant {
    Tenant::new(listener, from, (id, secret), account)
}

/// The API's listener, with a certificate.
fn listener(site: &Site) -> Listener {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(certificate(site), made.cert.pem()).unwrap();
    fs::write(key(site), made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(key(site), fs::Permissions::from_mode(0o600)).unwrap();
    Listener { address: ADDRESS.parse().unwrap(), authority_pem: made.cert.pem() }
}

fn certificate(site: &Site) -> impl AsRef<Path> + use<> {
    site.folder.join("certificate.pem")
}

fn key(site: &Site) -> impl AsRef<Path> + use<> {
    site.folder.join("key.pem")
}

/// The configuration: two accounts, of which neither may have all.
fn configuration(site: &Site) -> String {
    let mut text = format!(
        "listen.address = '{ADDRESS}'\nlisten.certificate = {:?}\nlisten.key = {:?}\ncapacity_mib = 4096\n\
         disk.reserve_mib = 64\ndisk.account_ratio = 2\n[quotas]\nmemory_mib = 2560\n",
        certificate(site).as_ref(),
        key(site).as_ref()
    );
    for (id, secret, account) in [HONEST_KEY, HOSTILE_KEY] {
        text += &format!("[[access.keys]]\nid = '{id}'\nsecret = '{secret}'\naccount = '{account}'\n");
    }
    text
}
