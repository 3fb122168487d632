//! Tests against this kernel, in network namespaces of their own. They need root.

use std::net::{TcpListener, TcpStream};

use super::*;
use crate::system::namespaces;

/// Runs a test in a network namespace of its own. Skips it without root.
fn in_a_namespace(test: impl FnOnce() -> io::Result<()> + Send) {
    let result = namespaces::on_a_thread(|| {
        match namespaces::leave(libc::CLONE_NEWNET) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                hearth_testing::skip("network namespaces need root");
                return Ok(());
            }
            result => result?,
        }
        test()
    });
    result.unwrap();
}

#[test]
fn a_pair_of_devices_connects_two_namespaces() {
    let (here, there) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 1, 1));
    in_a_namespace(|| {
        let (outer, inner) = (namespaces::network_of_this_thread()?, std::sync::mpsc::channel());
        namespaces::on_a_thread(|| {
            namespaces::leave(libc::CLONE_NEWNET)?;
            let mine = namespaces::network_of_this_thread()?;
            namespaces::on_a_thread(|| {
                namespaces::enter(&outer, libc::CLONE_NEWNET)?;
                let mut routes = Routes::open()?;
                routes.add_pair("one", "two", &mine)?;
                assert!(routes.add_pair("one", "two", &mine).is_err(), "it is there already");
                let one = device("one")?;
                routes.bring_up(one, 1400)?;
                routes.add_address(one, here, 32)?;
                routes.add_host_route(one, there)
            })?;
            let mut routes = Routes::open()?;
            let two = device("two")?;
            routes.bring_up(two, 0)?;
            routes.add_address(two, there, 32)?;
            routes.add_host_route(two, here)?;
            let _ = inner.0.send(TcpListener::bind((there, 80))?);
            Ok(())
        })?;
        let listener = inner.1.recv().unwrap();
        let stream = TcpStream::connect((there, 80))?;
        let (_, peer) = listener.accept()?;
        assert_eq!((peer.ip(), stream.local_addr()?), (here.into(), peer));
        Ok(())
    });
}

#[test]
fn addresses_are_replaced() {
    in_a_namespace(|| {
        let mut routes = Routes::open()?;
        let loopback = device("lo")?;
        routes.bring_up(loopback, 0)?;
        let (old, new) = (Ipv4Addr::new(10, 8, 0, 1), Ipv4Addr::new(10, 8, 0, 2));
        routes.add_address(loopback, old, 32)?;
        assert!(TcpListener::bind((old, 0)).is_ok());
        routes.remove_addresses(loopback)?;
        routes.add_address(loopback, new, 32)?;
        assert!(TcpListener::bind((old, 0)).is_err());
        assert!(TcpListener::bind((new, 0)).is_ok());
        Ok(())
    });
}

#[test]
fn only_addresses_with_a_prefix_are_parsed() {
    assert_eq!(parse_address("100.64.0.2/30").unwrap(), (Ipv4Addr::new(100, 64, 0, 2), 30));
    for text in ["", "100.64.0.2", "100.64.0.2/33", "100.64.0/30", "::1/64", "100.64.0.2/-1"] {
        assert!(parse_address(text).is_err(), "{text:?}");
    }
}

#[test]
fn only_connections_that_are_meant_are_reset() {
    use std::io::{Read as _, Write as _};
    in_a_namespace(|| {
        let mut routes = Routes::open()?;
        let loopback = device("lo")?;
        routes.bring_up(loopback, 0)?;
        let (far, near) = (Ipv4Addr::new(10, 7, 0, 1), Ipv4Addr::LOCALHOST);
        routes.add_address(loopback, far, 32)?;
        let connect = |address: Ipv4Addr| -> io::Result<_> {
            let listener = TcpListener::bind((address, 0))?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            Ok((client, listener.accept()?.0))
        };
        let (mut ended, _peer) = connect(far)?;
        let (mut client, mut server) = connect(near)?;
        match Connections::open()?.reset(|_, destination| destination == far) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                hearth_testing::skip("this kernel cannot end connections");
                return Ok(());
            }
            // Both sockets of the connection are in this namespace, and resetting one closes the other.
            count => assert!((1..=2).contains(&count?)),
        }
        assert!(ended.read(&mut [0]).is_err());
        server.write_all(b"x")?;
        client.read_exact(&mut [0])?;
        Ok(())
    });
}
