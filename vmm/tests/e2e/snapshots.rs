//! A machine becomes files, and files become machines.

use hearth_vmm::client::SaveKind;

use crate::support::{Machine, Metal};

#[test]
fn a_restored_guest_goes_on_where_it_was() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    guest.run("nonce-set 0123456789abcdef");
    guest.run("mem-fill 16");
    let saved = guest.save(SaveKind::Full);
    guest.client().resume().unwrap();
    assert_eq!(guest.run("ping"), "pong");
    guest.power_off();
    let clone = saved.clone_on(&metal).restore();
    assert_eq!(clone.run("nonce-get"), "0123456789abcdef");
    let diff = clone.save(SaveKind::Diff);
    assert!(diff.memory_on_disk() < 4 << 20, "{:?}", diff.answer);
    clone.kill();
    let again = diff.clone_on(&metal).restore();
    assert_eq!(again.run("nonce-get"), "0123456789abcdef");
    assert_eq!(again.run("mem-free"), "16");
    again.power_off();
}
