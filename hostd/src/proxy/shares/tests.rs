//! What clients, microVMs and accounts get when they take as much as they can.

use ::bytes::{Buf as _, Bytes};
use futures_util::FutureExt as _;

use super::bytes::{CONNECTION, Kept, WINDOWS};
use super::*;
use crate::proxy::tests::{ACCOUNT, Host};

/// Size of a piece of a response, in bytes.
const PIECE: usize = 64 << 10;
const OTHERS: &str = "444455556666";

fn limits() -> EndpointConnections {
    EndpointConnections {
        per_account: Some(3),
        per_microvm: Some(2),
        requests_per_account: 3,
        requests_per_microvm: 2,
        buffered_mib_per_account: 1,
        ..EndpointConnections::default()
    }
}

/// The gates of two microVMs of one account, and of one of another.
async fn gates() -> (Host, [Arc<Gate>; 3]) {
    let host = Host::new().await;
    host.launch("microvm-2", "two", None).await;
    host.launch("microvm-3", "three", Some(OTHERS)).await;
    let gates = ["microvm-1", "microvm-2", "microvm-3"].map(|id| host.microvms.gate(id).unwrap());
    (host, gates)
}

#[tokio::test]
async fn a_microvm_and_an_account_have_a_limited_number_of_connections() {
    let (_host, [one, two, three]) = gates().await;
    let shares = Shares::new(limits());
    let enter = |gate: &Arc<Gate>| shares.enter(gate);
    let first = enter(&one).unwrap();
    let second = enter(&one).unwrap();
    assert_eq!(enter(&one).unwrap_err(), ShareTaken::MicrovmConnections(2));
    let third = enter(&two).unwrap();
    for _ in 0..5 {
        assert_eq!(enter(&two).unwrap_err(), ShareTaken::AccountConnections(3));
    }
    let other = (enter(&three).unwrap(), enter(&three).unwrap());
    drop(first);
    let fourth = enter(&two).expect("those who were refused have taken no place");
    assert_eq!(enter(&one).unwrap_err(), ShareTaken::AccountConnections(3));
    drop((second, third, fourth, other));
    drop(enter(&three).unwrap());
    assert_eq!(shares.accounts.lock().unwrap().len(), 1, "accounts without connections take no room");
}

#[tokio::test]
async fn a_microvm_and_an_account_have_a_limited_number_of_requests() {
    let (_host, [one, two, three]) = gates().await;
    let shares = Shares::new(limits());
    let [one, two, three] = [one, two, three].map(|gate| shares.enter(&gate).unwrap());
    let first = one.request().unwrap();
    let _second = one.request().unwrap();
    assert_eq!(one.request().unwrap_err(), ShareTaken::MicrovmRequests(2));
    let _third = two.request().unwrap();
    for _ in 0..5 {
        assert_eq!(two.request().unwrap_err(), ShareTaken::AccountRequests(3));
    }
    let _other = (three.request().unwrap(), three.request().unwrap());
    drop(first);
    let _fourth = two.request().expect("those who were refused have taken no place");
    assert_eq!(one.request().unwrap_err(), ShareTaken::AccountRequests(3));
}

#[tokio::test]
async fn who_holds_nothing_gets_a_piece_however_much_the_account_holds() {
    let (_host, [one, two, three]) = gates().await;
    let shares = Shares::new(limits());
    let [slow, reader, other] = [one, two, three].map(|gate| shares.enter(&gate).unwrap());
    let piece = |seat: &Arc<Seat>| seat.piece(Bytes::from_static(&[0; PIECE]));
    let mut held = Vec::new();
    while slow.may_take() {
        held.push(piece(&slow));
    }
    assert_eq!(shares.buffered(ACCOUNT), 1 << 20);
    assert!(other.may_take() && reader.may_take());
    let mut own = piece(&reader);
    assert!(!reader.may_take());
    own.advance(PIECE - 1);
    assert!(!reader.may_take(), "a piece is held until all of it is written");
    let mut turn = Box::pin(Arc::clone(&reader).turn());
    assert!((&mut turn).now_or_never().is_none());
    drop(own);
    assert!((&mut turn).now_or_never().is_some() && reader.may_take());
    // One that holds something goes on when the account has room again, though its own bytes are still held.
    let _own = piece(&reader);
    let mut turn = Box::pin(Arc::clone(&reader).turn());
    assert!((&mut turn).now_or_never().is_none());
    held.truncate(held.len() / 2);
    assert!((&mut turn).now_or_never().is_some());
}

#[tokio::test]
async fn a_connection_holds_a_limited_number_of_bytes() {
    let (_host, [one, ..]) = gates().await;
    let shares = Shares::new(EndpointConnections { buffered_mib_per_account: 1024, ..limits() });
    let [slow, reader] = [(); 2].map(|()| shares.enter(&one).unwrap());
    let mut held = Vec::new();
    while slow.may_take() {
        held.push(slow.piece(Bytes::from_static(&[0; PIECE])));
    }
    assert_eq!(held.len() * PIECE, CONNECTION);
    assert!(reader.may_take());
    let mut turn = Box::pin(Arc::clone(&slow).turn());
    assert!((&mut turn).now_or_never().is_none());
    held.pop();
    assert!((&mut turn).now_or_never().is_some());
}

#[tokio::test]
async fn uploads_of_a_connection_share_its_window_and_those_of_an_account_its_budget() {
    let (_host, [one, two, three]) = gates().await;
    let shares = Shares::new(EndpointConnections { buffered_mib_per_account: 5, ..limits() });
    let [first, second, other] = [&one, &two, &three].map(|gate| shares.enter(gate).unwrap());
    let (stream, connection) = (WINDOWS.0 as usize, WINDOWS.1 as usize);
    let held = || shares.buffered(ACCOUNT);
    let rooms: Vec<_> = (0..7).map(|_| first.room(stream).unwrap()).collect();
    assert_eq!(held(), connection);
    let small = second.room(1000).unwrap();
    assert_eq!(held(), connection + 1000);
    for _ in 0..5 {
        assert_eq!(second.room(stream).unwrap_err(), ShareTaken::AccountBytes(5 << 20));
    }
    assert_eq!(held(), connection + 1000, "what was refused holds nothing");
    let _other = other.room(stream).unwrap();
    // In whatever order they end, nothing remains.
    for (number, room) in rooms.into_iter().enumerate() {
        drop(room);
        let rest = (6 - number) * stream;
        assert_eq!(held(), rest.min(connection) + 1000);
    }
    drop(small);
    assert_eq!(held(), 0);
}

#[tokio::test]
async fn what_is_kept_of_requests_counts_for_the_account_and_is_no_more_than_it_may_hold() {
    const MOST: usize = 64 << 10;
    let (_host, [one, ..]) = gates().await;
    let shares = Shares::new(limits());
    let seat = shares.enter(&one).unwrap();
    let mut kept: Vec<_> = (0..16).map(|_| Kept::of(&seat)).collect();
    for kept in &mut kept {
        assert!(kept.push(&[7; MOST - 1], MOST) && kept.push(&[7], MOST));
        assert!(!kept.push(&[7], MOST));
        assert_eq!(kept.bytes().len(), MOST);
    }
    let mut another = Kept::of(&seat);
    assert!(!another.push(&[7], MOST), "the account has 1 MiB");
    drop((another, kept));
    assert!(Kept::of(&seat).push(&[7; MOST], MOST));
    assert_eq!(seat.microvm.account.bytes.held(), 0);
}
