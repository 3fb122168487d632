//! Tests of a network card on a tap interface.

use std::io::{self, BufReader, Read as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::thread;

use hearth_test_guest::client::Line;
use hearth_test_guest::pattern;

use crate::support::{Guest, Machine, Metal, TEST_TIMEOUT, Tap, within};

const BYTES: u64 = 4 << 20;

fn boot_with(metal: &Metal, taps: &[&Tap]) -> Guest {
    let mut machine = Machine::new(metal);
    machine.config.vcpus = 2;
    machine.config.nets = taps.iter().map(|tap| tap.card()).collect();
    let guest = machine.boot();
    for (number, tap) in taps.iter().enumerate() {
        guest.run(&format!("net-up eth{number} {} 24", tap.guest()));
    }
    guest
}

/// Sends the stream `seed` to an echo server at `address`, and checks what comes back.
fn round_trip(address: Ipv4Addr, port: u16, seed: u64) {
    let stream = TcpStream::connect((address, port)).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let out = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        let mut content = vec![0; usize::try_from(BYTES).unwrap()];
        pattern::fill(seed, 0, &mut content);
        io::copy(&mut content.as_slice(), &mut &out).unwrap();
        out.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    BufReader::new(stream).read_to_end(&mut back).unwrap();
    sender.join().unwrap();
    assert_eq!((back.len() as u64, pattern::mismatch(seed, 0, &back)), (BYTES, None));
}

#[test]
fn tcp_runs_in_both_directions_without_a_wrong_byte() {
    let Some(metal) = Metal::find() else { return };
    let tap = Tap::new();
    let guest = boot_with(&metal, &[&tap]);

    let mut echo = guest.start("tcp-echo 7000");
    assert_eq!(echo.next_line().unwrap(), Line::Progress("listening".to_string()));
    round_trip(tap.guest(), 7000, 41);
    assert_eq!(echo.finish().unwrap(), Ok(BYTES.to_string()));

    guest.echo_through(&tap, BYTES);

    for counter in ["rx_packets", "tx_packets"] {
        assert!(guest.counter("net0", counter) > 0, "net0 counts no {counter}");
    }
    assert!(guest.counter("net0", "tx_bytes") >= 2 * BYTES);
    guest.power_off();
}

#[test]
fn two_cards_are_two_networks() {
    let Some(metal) = Metal::find() else { return };
    let (one, other) = (Tap::new(), Tap::new());
    let guest = boot_with(&metal, &[&one, &other]);
    for (tap, port) in [(&one, 7001), (&other, 7002)] {
        let mut echo = guest.start(&format!("tcp-echo {port}"));
        assert_eq!(echo.next_line().unwrap(), Line::Progress("listening".to_string()));
        let address = tap.guest();
        within("the round trip", move || round_trip(address, port, 43));
        echo.finish().unwrap().unwrap();
    }
    guest.power_off();
}
