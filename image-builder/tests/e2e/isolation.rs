//! Addresses that a build can reach, tested inside a RUN step.

use super::support::Site;

/// Tries addresses and prints for each whether it answered. The host's own are those of the emulated metal and of its network.
const PROBE: &str = r#"
import socket, sys, urllib.request
def tcp(address, port):
    try:
        socket.create_connection((address, port), 3).close()
        return "reached"
    except OSError as error:
        return f"blocked ({error})"
def udp(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(3)
        try:
            probe.connect((address, port))
            probe.send(bytes.fromhex("123401000001000000000000096c6f63616c686f73740000010001"))
            probe.recv(512)
            return "reached"
        except OSError as error:
            return f"blocked ({error})"
for what, result in [
    ("link-local", tcp("169.254.1.1", 80)),
    ("host", tcp(sys.argv[1], int(sys.argv[2]))),
    ("private", tcp("10.1.2.3", 80)),
    ("udp to a resolver", udp("10.0.2.3", 53)),
    ("udp to the internet", udp("1.1.1.1", 53)),
]:
    print(f"probe {what}: {result}")
request = urllib.request.Request(
    "http://169.254.169.254/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
)
token = urllib.request.urlopen(request, timeout=10).read().decode()
region = urllib.request.Request(
    "http://169.254.169.254/latest/meta-data/placement/region", headers={"X-aws-ec2-metadata-token": token}
)
print("probe region:", urllib.request.urlopen(region, timeout=10).read().decode())
try:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    print("probe vsock: reached")
except OSError as error:
    print(f"probe vsock: blocked ({error})")
"#;

#[tokio::test]
async fn a_run_step_reaches_neither_the_host_nor_its_networks() {
    let Some(site) = Site::new() else { return };
    // A listener on all addresses of this host: a refusal must not be due to a missing listener.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = own_address();
    let context = site.dockerfile(
        "probe",
        &format!(
            "FROM hearth/python:3.13\nCOPY probe.py /\nRUN python3 /probe.py {address} {port}\nRUN exit 1\n"
        ),
    );
    std::fs::write(context.join("probe.py"), PROBE).unwrap();
    let request = site.request(&context, "probe");
    let (_, events) = site.build(&request).await;
    let log = events.said();
    let probes: Vec<&String> = log.iter().filter(|line| line.starts_with("probe ")).collect();
    assert_eq!(probes.len(), 7, "{log:?}");
    for probe in &probes {
        if probe.starts_with("probe region") {
            assert_eq!(*probe, "probe region: eu-west-1");
        } else {
            assert!(probe.contains(": blocked"), "{probe}");
        }
    }
}

/// The address of this host in the network over which it reaches others.
fn own_address() -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").unwrap(); // sends nothing
    socket.local_addr().unwrap().ip().to_string()
}

/// Whether this host reaches the mirror from which `hearth/debian:13` gets its packages, at an address that guests may reach.
fn mirror() -> std::io::Result<()> {
    let mirror = hearth_base::recipe::Sources::default().mirror;
    let host = mirror.split('/').nth(2).unwrap();
    let addresses = std::net::ToSocketAddrs::to_socket_addrs(&(host, 80))?;
    let address = addresses.into_iter().find(|address| match address.ip() {
        std::net::IpAddr::V4(ip) => !ip.is_private() && !ip.is_link_local() && !ip.is_loopback(),
        std::net::IpAddr::V6(_) => false,
    });
    let address = address.ok_or_else(|| std::io::Error::other("its name leads to no public IPv4 address"))?;
    std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(10)).map(drop)
}

#[tokio::test]
async fn a_run_step_installs_a_package_where_the_network_allows_it() {
    let Some(site) = Site::new() else { return };
    if let Err(error) = mirror() {
        hearth_testing::skip(&format!("this host itself does not reach Debian's mirror: {error}"));
        return;
    }
    let context = site.dockerfile(
        "apt",
        // The base is a configured Debian: no package in it is left to be configured, and certificates of other parties can be verified.
        "FROM hearth/debian:13\nRUN dpkg --audit && test -z \"$(dpkg --audit)\" && openssl verify /etc/ssl/certs/ISRG_Root_X1.pem\n\
         RUN apt-get update && apt-get install -y --no-install-recommends hello | tee /tmp/said\n\
         RUN grep '^Setting up' /tmp/said | sed 's/^/set: /'; hello && exit 1\n",
    );
    let request = site.request(&context, "apt");
    let (_, events) = site.build(&request).await;
    let log = events.said();
    assert!(log.iter().any(|line| line == "Hello, world!"), "{log:?}");
    let set_up: Vec<_> = log.iter().filter(|line| line.starts_with("set: ")).collect();
    assert!(set_up.len() == 1 && set_up[0].contains(" hello "), "only what is new is configured: {set_up:?}");
}
