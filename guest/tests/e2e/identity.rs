//! The guest's identity, its metadata, and its network.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_agent_protocol::version;
use hearth_guest::system::netlink::{self, Routes};
use hearth_proto::guest::v1::request::Operation;
use hearth_proto::guest::v1::response::Result as Answer;
use hearth_proto::guest::v1::{
    Credentials, DnsAnswer, DnsQuery, Failure, FailureCode, Identify, Metadata, Network, Open, OpenDns,
    Quiesce, SetCredentials, open,
};
use hearth_vmm_api::config::NetConfig;
use hearth_vmm_client::tap::open_tap;

use super::probe;
use super::support::{Guest, Machine, Metal, shell};

const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 1);

fn network(address: &str) -> Option<Network> {
    Some(Network { address: format!("{address}/24"), gateway: HOST.to_string(), mtu: 1400 })
}

/// A machine with a network card on a tap of the host.
fn connected(metal: &Metal) -> Machine {
    let mut machine = Machine::new(metal);
    let tap = open_tap("hearth-guest0").unwrap();
    let host = || {
        let tap = netlink::device("hearth-guest0")?;
        let mut routes = Routes::open()?;
        routes.bring_up(tap, 0)?;
        routes.add_address(tap, HOST, 24)
    };
    host().unwrap();
    let mac = [2, 0, 0, 0, 0, 7];
    machine.card = Some(NetConfig { tap, mac, mtu: None, receive_limiter: None, transmit_limiter: None });
    machine.configure.network = network("198.18.77.2");
    machine
}

#[test]
fn a_new_identity_resets_connections_to_others_and_keeps_those_over_loopback() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = connected(&metal).boot();
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // No end of file ever reaches the connections' inputs.
    let app = format!(
        "mkfifo /in /hold; exec 3<>/in 4<>/hold; nc -l -p 7000 < /hold > /loop & \
         (while ! nc 127.0.0.1 7000 < /in 2> /dev/null; do :; done) & \
         (nc {HOST} {port} < /hold; echo foreign connection over) & \
         echo before >&3; while ! grep -q before /loop; do sleep 1; done; echo ready; \
         while ! [ -e /go ]; do sleep 1; done; echo after >&3; \
         while ! grep -q after /loop; do sleep 1; done; echo loopback lives; sleep 1000000"
    );
    guest.start(shell(&app));
    let (mut foreign, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), Ipv4Addr::new(198, 18, 77, 2));
    let mut logs = guest.logs(0);
    assert_eq!(logs.next().line, b"ready");
    assert_eq!(guest.sh("cat /sys/class/net/eth0/mtu"), "1400\n");

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + std::time::Duration::from_secs(86_400);
    let identify = Identify {
        microvm_id: "microvm-7".to_string(),
        wall_clock_ns: u64::try_from(now.as_nanos()).unwrap(),
        entropy: vec![42; 64],
        network: network("198.18.77.3"),
        hostname: "seven".to_string(),
        ..Identify::default()
    };
    guest.done(Operation::Identify(identify.clone()));
    assert_eq!(logs.next().line, b"foreign connection over");
    // The reset came from the old address, which is gone. Whether an error arrives here does not matter: no data may arrive.
    let _ = foreign.write_all(b"x");
    let _ = foreign.read(&mut [0]);
    guest.sh("touch /go");
    assert_eq!(logs.next().line, b"loopback lives");
    let seconds: u64 = guest.sh("date +%s").trim().parse().unwrap();
    assert!(seconds >= now.as_secs() && seconds < now.as_secs() + 3_600, "{seconds}");
    assert_eq!(guest.sh("hostname"), "seven\n");
    let addresses = guest.sh("ip -4 addr show dev eth0 | grep -o 'inet [0-9./]*'");
    assert_eq!(addresses, "inet 198.18.77.3/24\n");
    assert!(guest.sh("ip route").contains("default via 198.18.77.1 dev eth0"));
    let wrong = Identify { entropy: vec![1; 31], ..identify.clone() };
    assert_eq!(guest.refused(Operation::Identify(wrong)).code(), FailureCode::Invalid);
    let wrong = Identify { network: network("not an address"), ..identify };
    assert_eq!(guest.refused(Operation::Identify(wrong)).code(), FailureCode::Invalid);
    guest.power_off();
}

#[test]
fn a_restored_guest_goes_on_and_takes_another_identity() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    // The app counts in its memory, and passes each number through a connection over loopback.
    let app = "mkfifo /in /hold /go; exec 3<>/in 4<>/hold 5<>/go; nc -l -p 7000 < /hold & \
               (while ! nc 127.0.0.1 7000 < /in 2> /dev/null; do :; done) & \
               echo ready; n=0; while read line <&5; do n=$((n+1)); echo $n $line >&3; done";
    guest.start(shell(app));
    let mut logs = guest.logs(0);
    assert_eq!(logs.next().line, b"ready");
    guest.sh("echo one > /go");
    assert_eq!(logs.next().line, b"1 one");
    logs.acknowledge(2);
    while guest.status().acknowledged_log < 2 {}
    guest.ask(Operation::Quiesce(Quiesce { drop_page_cache: true }));
    // The connection to this process is closed by the restore.
    let mut lost = guest.exec(shell("echo started; exec sleep 7654321"), None, false);
    lost.wait_for("started");
    let mut guest = guest.save_and_restore();
    guest.sh("while ps -o args | grep -q '[7]654321'; do :; done");
    let identify = Identify {
        microvm_id: "microvm-8".to_string(),
        entropy: vec![7; 64],
        hostname: "eight".to_string(),
        machine_id: "0123456789abcdef0123456789abcdef".to_string(),
        ..Identify::default()
    };
    let wrong = Identify { machine_id: "no id".to_string(), ..identify.clone() };
    assert_eq!(guest.refused(Operation::Identify(wrong)).code(), FailureCode::Invalid);
    guest.done(Operation::Identify(identify));
    let mut logs = guest.logs(2);
    guest.sh("echo two > /go; sync");
    let record = logs.next();
    assert_eq!((record.sequence, record.line), (3, b"2 two".to_vec()));
    assert_eq!(
        guest.sh("hostname; cat /etc/hostname; tail -n 1 /etc/hosts"),
        "eight\neight\n127.0.1.1\teight\n"
    );
    assert_eq!(guest.sh("cat /etc/machine-id"), "0123456789abcdef0123456789abcdef\n");
    guest.power_off();
}

#[test]
fn the_metadata_service_answers_the_app_and_takes_no_port() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    let region = |region: &str| Some(Metadata { region: region.to_string(), ..Metadata::default() });
    machine.configure.metadata = region("eu-west-1");
    let mut guest = machine.boot();
    // The app has port 80 of all addresses, and port 53.
    guest.start(shell("nc -lu -p 53 & nc -l -p 80 > /dev/null; sleep 1000000"));
    let token = "t=$(printf 'PUT /latest/api/token HTTP/1.0\\r\\nX-aws-ec2-metadata-token-ttl-seconds: 60\\r\\n\\r\\n' \
                 | nc 169.254.169.254 80 | tail -n 1)";
    let get = |path: &str| {
        format!(
            "{token}; wget -q -O - --header \"X-aws-ec2-metadata-token: $t\" http://169.254.169.254/latest/{path} 2>&1 \
             || echo failed"
        )
    };
    let roles = get("meta-data/iam/security-credentials/");
    assert_eq!(guest.sh(&get("meta-data/placement/region")), "eu-west-1");
    let no_id = guest.sh(&get("meta-data/instance-id"));
    assert!(no_id.contains("404"), "{no_id}");
    let no_role = guest.sh(&roles);
    assert!(no_role.contains("404"), "{no_role}");
    let refused =
        guest.sh("wget -q -O - http://169.254.169.254/latest/meta-data/placement/region 2>&1 || true");
    assert!(refused.contains("401"), "{refused}");
    let credentials = Credentials { access_key_id: "AKID".to_string(), ..Credentials::default() };
    guest.done(Operation::Identify(Identify {
        microvm_id: "microvm-7".to_string(),
        metadata: region("us-east-1"),
        ..Identify::default()
    }));
    assert_eq!(guest.sh(&get("meta-data/instance-id")), "microvm-7");
    assert_eq!(guest.sh(&get("meta-data/placement/region")), "us-east-1");
    guest.done(Operation::SetCredentials(SetCredentials {
        credentials: Some(credentials),
        ..SetCredentials::default()
    }));
    assert_eq!(guest.sh(&roles), "execution_role");
    assert!(guest.sh(&get("meta-data/iam/security-credentials/execution_role")).contains("\"AKID\""));
    guest.done(Operation::SetCredentials(SetCredentials::default()));
    assert!(guest.sh(&roles).contains("404"));
    guest.power_off();
}

/// The answer to a query: this address, if the query is for an address.
fn answer(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let asks_for_an_address = query[end - 4..end - 2] == [0, 1];
    let mut answer = query[..end].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(asks_for_an_address), 0, 0, 0, 0]);
    if asks_for_an_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address);
    }
    answer
}

#[test]
fn names_are_resolved_by_the_host() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    guest.start_idle();
    let look_up = "nslookup example.com 2>&1 || echo failed";
    let failed = guest.sh(look_up);
    assert!(failed.contains("failed"), "there is no host to answer: {failed}");
    let mut host = guest.open(open::Kind::Dns(OpenDns {})).unwrap();
    thread::spawn(move || {
        while let Some(DnsQuery { id, message }) = host.receive() {
            host.send(&DnsAnswer { id, message: answer(&message, [192, 0, 2, 7]) });
        }
    });
    let found = guest.sh(look_up);
    assert!(found.contains("192.0.2.7") && !found.contains("failed"), "{found}");
    probe::copy_to(&guest);
    probe::run(&guest, "six_hundred_names_at_once");
    guest.power_off();
}

#[test]
fn a_quiet_guest_has_written_everything_and_gives_memory_back() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    guest.start_idle();
    guest.sh("head -c 30000000 /dev/zero > /large; cat /large > /dev/null");
    let mut quiesce = |drop_page_cache| match guest.ask(Operation::Quiesce(Quiesce { drop_page_cache })) {
        Answer::Quiesced(quiesced) => quiesced,
        other => panic!("not quiet: {other:?}"),
    };
    let (kept, dropped) = (quiesce(false), quiesce(true));
    assert!(kept.cached_mib >= 28 && dropped.cached_mib + 28 <= kept.cached_mib, "{kept:?} {dropped:?}");
    assert!(dropped.free_mib >= kept.free_mib + 28, "{kept:?} {dropped:?}");
    let status = guest.status();
    assert!(status.cpu_busy_ms > 0 && status.cpu_total_ms >= status.cpu_busy_ms, "{status:?}");
    guest.power_off();
}

#[test]
fn a_newer_host_is_served_and_what_makes_no_sense_is_refused() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot_only();
    // A host that supports more versions than this agent, and would use a feature that the agent does not have.
    let newer = version::open(open::Kind::Dns(OpenDns {}), &["of-another-release"]);
    let newer = Open { version: version::OWN.newest() + 4, ..newer };
    let (_, opened) = guest.greet(&newer).unwrap();
    assert_eq!((opened.version, opened.features), (version::OWN.newest(), Vec::new()));
    let refused: Failure =
        guest.greet(&Open { oldest_version: version::OWN.newest() + 1, ..newer }).err().unwrap();
    assert_eq!(refused.code(), FailureCode::Invalid);
    assert!(refused.message.contains("none in common"), "{}", refused.message);
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\x04\0\0\0\xff\xff\xff\xff", b"\x04\0\0\0\x08"] {
        let mut connection = guest.raw();
        connection.write_all(garbage).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        assert!(matches!(connection.read(&mut [0]), Ok(0) | Err(_)), "{garbage:?} is no message");
    }
    // The agent lives on.
    assert!(guest.open(open::Kind::Dns(OpenDns {})).is_ok());
    guest.power_off();
}

#[test]
fn the_wall_clock_follows_the_hosts() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    guest.start_idle();
    let time = |guest: &Guest| -> i64 { guest.sh("date +%s").trim().parse().unwrap() };
    let now = || i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    for wrong in [1_000_000, now() + 86_400] {
        guest.exec(shell(&format!("date -s @{wrong}")), None, true).finish().success("setting the clock");
        assert!((time(&guest) - wrong).abs() < 3_600, "the clock was set");
        while (time(&guest) - now()).abs() > 60 {
            guest.sh("sleep 1");
        }
    }
    guest.power_off();
}
