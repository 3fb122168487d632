//! A machine becomes files, and files become machines.

use hearth_vmm::client::SaveKind;

use crate::support::{Machine, Metal};

#[test]
fn a_restored_guest_goes_on_where_it_was() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    guest.run("mem-fill 16");
    let saved = guest.save(SaveKind::Full);
    eprintln!("{:?}", saved.answer);
    guest.client().resume().unwrap();
    assert_eq!(guest.run("ping"), "pong");
    guest.power_off();
    let clone = saved.clone_on(&metal);
    let clone = clone.restore();
    eprintln!(
        "{:?}",
        clone
            .client()
            .metrics()
            .unwrap()
            .groups
            .iter()
            .filter(|g| g.name.starts_with("restore"))
            .collect::<Vec<_>>()
    );
    assert_eq!(clone.run("ping"), "pong");
    let diff = clone.save(SaveKind::Diff);
    eprintln!("{:?} {}", diff.answer, diff.memory_on_disk());
    clone.kill();
    let again = diff.clone_on(&metal).restore();
    assert_eq!(again.run("ping"), "pong");
    assert_eq!(again.run("mem-free"), "16");
    again.power_off();
}
