//! Tests of opening a folder for a monitor to restore.

use hearth_vmm_api::config::DiskSource;

use super::*;

fn message<T: std::fmt::Debug>(result: Result<T, OpenError>) -> String {
    result.unwrap_err().to_string()
}

fn overlaid() -> DiskSource {
    let file = || tempfile::tempfile().unwrap();
    DiskSource::Overlay { base: file(), layers: Vec::new(), overlay: file() }
}

/// Takes a full snapshot `full` and a diff `diff` of a machine with a read-only disk and one with an overlay.
fn chain() -> Scene {
    let scene = Scene::new(Script { disks: vec![None, Some(0)], ..Script::default() });
    let base = scene.restored("full", [7; 16]);
    take(&scene.client, &scene.at("diff"), &Take { base: Some(base), ..Take::default() }).unwrap();
    scene
}

#[test]
fn a_diff_is_opened_with_its_base() {
    let scene = chain();
    fs::write(scene.at("full/working-set"), "").unwrap();
    let full = open(&scene.at("full")).unwrap();
    assert_eq!((full.is_diff(), full.layers(0), full.layers(1)), (false, 0, 1));
    let diff = open(&scene.at("diff")).unwrap();
    assert_eq!((diff.is_diff(), diff.layers(0), diff.layers(1)), (true, 0, 2));
    assert_eq!(diff.next_base(), full.next_base());
    let file = tempfile::tempfile().unwrap();
    let config = diff.into_config(vec![DiskSource::ReadOnly(file), overlaid()]).unwrap();
    assert!(config.working_set.is_some(), "it is that of the base");
    let diff_memory = memory_file::check(&config.diff.unwrap(), "memory", MEMORY_BYTES, &[0xdd; 16]);
    diff_memory.unwrap();
    memory_file::check(&config.memory, "memory", MEMORY_BYTES, &[7; 16]).unwrap();
    let DiskSource::Overlay { layers, .. } = &config.disks[1] else { panic!("{:?}", config.disks) };
    assert_eq!(layers.len(), 2);
}

#[test]
fn a_chain_that_moves_as_a_whole_stays_one() {
    let scene = chain();
    fs::create_dir(scene.at("new")).unwrap();
    for name in ["full", "diff"] {
        fs::rename(scene.at(name), scene.at("new").join(name)).unwrap();
    }
    assert!(open(&scene.at("new/diff")).unwrap().next_base().ends_with("new/full"));
}

#[test]
fn chains_that_no_snapshot_has_are_refused_by_name() {
    let scene = chain();
    fs::rename(scene.at("full"), scene.at("moved")).unwrap();
    let missing = message(open(&scene.at("diff")));
    assert!(missing.contains("builds on ../full, which cannot be opened"), "{missing}");
    fs::rename(scene.at("moved"), scene.at("full")).unwrap();
    std::os::unix::fs::symlink("../diff", scene.at("full/base")).unwrap();
    let chain = message(open(&scene.at("diff")));
    assert!(chain.contains("/full, which builds on another one itself"), "{chain}");
}

#[test]
fn what_is_no_snapshot_is_refused_by_name() {
    let scene = chain();
    assert!(message(open(&scene.at("nothing"))).contains("opening the folder"));
    assert!(message(open(scene.folder.path())).contains("opening the state"));
    fs::remove_file(scene.at("full/memory")).unwrap();
    assert!(message(open(&scene.at("diff"))).contains("opening the memory"));
    fs::write(scene.at("full/state"), "garbage").unwrap();
    fs::write(scene.at("full/memory"), "garbage").unwrap();
    assert!(message(open(&scene.at("full")).unwrap().machine()).contains("not a saved state"));
}

#[test]
fn other_disks_than_the_machines_are_refused_by_number() {
    let scene = chain();
    let refused = |disks, why: &str| {
        let message = message(open(&scene.at("diff")).unwrap().into_config(disks));
        assert!(message.contains(why), "{message}");
    };
    let file = || tempfile::tempfile().unwrap();
    refused(vec![], "it has 2, 0 given");
    refused(vec![overlaid(), overlaid()], "disk 0 of the snapshot");
    refused(vec![DiskSource::Writable(file()), overlaid()], "was read-only");
    refused(vec![DiskSource::ReadOnly(file()), DiskSource::ReadOnly(file())], "attached with an overlay");
    let used = file();
    used.set_len(1).unwrap();
    let used = DiskSource::Overlay { base: file(), layers: Vec::new(), overlay: used };
    refused(vec![DiskSource::ReadOnly(file()), used], "the overlay of disk 1 is not empty");
}
