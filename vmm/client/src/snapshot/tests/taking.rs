//! Tests of writing a machine into a folder, with failures at each step.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::snapshot::take::link_target;

fn message(result: Result<Taken, TakeError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_snapshot_is_a_folder_for_its_owner_and_the_machine_stays_paused() {
    let scene = Scene::new(Script { disks: vec![None, Some(0)], ..Script::default() });
    let to = scene.at("one");
    let taken = take(&scene.client, &to, &Take::default()).unwrap();
    assert!(taken.was_running && taken.linked.is_empty());
    assert_eq!(taken.saved.steps.last().unwrap().name, "commit");
    assert_eq!(names(&to), ["disk1", "memory", "state"]);
    assert_eq!(fs::read(to.join("disk1")).unwrap(), b"merged");
    assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(names(scene.folder.path()), ["one"]);
    assert_eq!(scene.asked(), ["hello", "save"]);
}

#[test]
fn a_folder_that_is_there_is_refused_before_anything_is_done() {
    let scene = Scene::new(Script::default());
    let to = scene.full("one", [1; 16]);
    assert!(message(take(&scene.client, &to, &Take::default())).contains("exists already"));
    assert!(message(take(&scene.client, Path::new("/"), &Take::default())).contains("names no folder"));
    let missing = scene.at("missing/one");
    assert!(message(take(&scene.client, &missing, &Take::default())).contains("making a folder beside"));
    assert!(!scene.asked().contains(&"save"));
}

#[test]
fn only_a_snapshot_is_replaced() {
    let scene = Scene::new(Script::default());
    let replace = Take { replace: true, ..Take::default() };
    let (folder, file, link) = (scene.at("folder"), scene.at("file"), scene.at("link"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("state"), "").unwrap();
    fs::write(folder.join("diary"), "").unwrap();
    fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    for (to, why) in [(&folder, "holds diary"), (&file, "no folder"), (&link, "no folder")] {
        let message = message(take(&scene.client, to, &replace));
        assert!(message.contains(why), "{message}");
    }
    assert_eq!(names(&folder), ["diary", "state"]);
    assert!(!scene.asked().contains(&"save"));
}

#[test]
fn a_snapshot_that_is_replaced_leaves_nothing() {
    let scene = Scene::new(Script { disks: vec![Some(0)], ..Script::default() });
    let to = scene.full("one", [1; 16]);
    fs::write(to.join(WORKING_SET), "").unwrap();
    scene.change(|script| script.id = [2; 16]);
    let taken = take(&scene.client, &to, &Take { replace: true, ..Take::default() }).unwrap();
    assert_eq!(taken.left, None);
    assert_eq!((id_of(&to), names(&to).len()), (2, 3));
    assert_eq!(names(scene.folder.path()), ["one"]);
}

#[test]
fn a_save_that_is_refused_leaves_what_was_there() {
    let scene = Scene::new(Script::default());
    let to = scene.full("one", [1; 16]);
    scene.change(|script| (script.id, script.refusal) = ([2; 16], Some("the disk is full")));
    let replace = Take { replace: true, ..Take::default() };
    assert_eq!(message(take(&scene.client, &to, &replace)), "the disk is full");
    assert_eq!((id_of(&to), names(scene.folder.path())), (1, vec!["one".to_string()]));
    // The client did not resume the machine: the monitor does that itself when a save fails.
    assert_eq!(scene.asked(), ["hello", "save"]);
}

#[test]
fn what_is_not_committed_is_gone_and_the_machine_goes_on() {
    let scene = Scene::new(Script::default());
    let uncommitted = write(&scene.client, &scene.at("one"), &Take::default()).unwrap();
    assert_eq!(names(scene.folder.path()).len(), 1);
    drop(uncommitted);
    assert!(names(scene.folder.path()).is_empty());
    assert_eq!(scene.asked(), ["hello", "save", "resume"]);
}

#[test]
fn a_machine_that_was_paused_stays_paused() {
    let scene = Scene::new(Script { state: MachineState::Paused, ..Script::default() });
    drop(write(&scene.client, &scene.at("one"), &Take::default()).unwrap());
    assert!(!take(&scene.client, &scene.at("one"), &Take::default()).unwrap().was_running);
    assert_eq!(scene.asked(), ["hello", "save", "hello", "save"]);
}

#[test]
fn a_place_that_was_taken_meanwhile_is_left_alone_and_the_machine_goes_on() {
    let scene = Scene::new(Script::default());
    let to = scene.at("one");
    let uncommitted = write(&scene.client, &to, &Take::default()).unwrap();
    fs::create_dir(&to).unwrap();
    assert!(message(uncommitted.commit()).contains("exists already"));
    assert!(names(&to).is_empty());
    assert_eq!(names(scene.folder.path()), ["one"]);
    assert_eq!(scene.asked(), ["hello", "save", "resume"]);
}

#[test]
fn a_machine_that_has_other_layers_than_the_folder_is_not_put_there() {
    let scene = Scene::new(Script { disks: vec![Some(0)], ..Script::default() });
    scene.change(|script| script.written = Some(vec![Some(2)]));
    let message = message(take(&scene.client, &scene.at("one"), &Take::default()));
    assert!(message.contains("disk 0 has 2 layers, not 1"), "{message}");
    assert!(names(scene.folder.path()).is_empty());
    assert_eq!(scene.asked(), ["hello", "save", "resume"]);
}

#[test]
fn a_diff_names_its_base_and_moves_with_it() {
    let scene = Scene::new(Script { disks: vec![Some(0)], ..Script::default() });
    let base = scene.restored("full", [7; 16]);
    let diff = Take { base: Some(base), ..Take::default() };
    take(&scene.client, &scene.at("diff"), &diff).unwrap();
    assert_eq!(fs::read_link(scene.at("diff").join(BASE)).unwrap(), Path::new("../full"));
    assert_eq!(names(&scene.at("diff")), ["base", "disk0", "memory", "state"]);
    fs::create_dir(scene.at("below")).unwrap();
    take(&scene.client, &scene.at("below/diff"), &diff).unwrap();
    assert_eq!(fs::read_link(scene.at("below/diff/base")).unwrap(), Path::new("../../full"));
    // Where only the root is shared, the link names the base by its whole path.
    let base = fs::canonicalize(scene.at("full")).unwrap();
    assert_eq!(link_target(&base, Path::new("/proc/diff")), base);
}

#[test]
fn a_base_that_is_none_is_refused_before_anything_is_done() {
    let scene = Scene::new(Script::default());
    let base = scene.restored("full", [7; 16]);
    let on = |base: &Path| Take { base: Some(base.into()), replace: true, ..Take::default() };
    take(&scene.client, &scene.at("diff"), &on(&base)).unwrap();
    scene.asked();
    let refused = |to: &str, base: &Path, why: &str| {
        let message = message(suspend(&scene.client, &scene.at(to), &on(base)));
        assert!(message.contains(why), "{message}");
        assert!(!scene.asked().contains(&"save"));
    };
    refused("new", &scene.at("diff"), "builds on another snapshot itself");
    refused("new", &scene.at("nothing"), "is that the folder of a snapshot?");
    refused("full", &base, "cannot be replaced by a snapshot that builds on it");
    scene.change(|script| script.base = Some([8; 16]));
    refused("new", &base, "is not what the machine builds on");
    scene.change(|script| script.base = None);
    refused("new", &base, "builds on no snapshot");
    assert_eq!(names(scene.folder.path()), ["diff", "full"]);
}

fn overlay(scene: &Scene, disk: usize, name: &str) -> Overlay {
    let path = scene.at(name);
    fs::write(&path, name).unwrap();
    Overlay::of(disk, &path, &File::open(&path).unwrap()).unwrap()
}

#[test]
fn a_machine_that_ends_leaves_its_overlay_where_nothing_is_to_be_merged() {
    let scene = Scene::new(Script { disks: vec![Some(0), Some(3)], ..Script::default() });
    let overlays = vec![overlay(&scene, 0, "first"), overlay(&scene, 1, "second")];
    let leave = Take { overlays, ..Take::default() };
    let kept = take(&scene.client, &scene.at("kept"), &leave).unwrap();
    assert_eq!((kept.linked.len(), scene.at("first").exists()), (0, true));
    let taken = suspend(&scene.client, &scene.at("one"), &leave).unwrap();
    assert_eq!(taken.linked, [0]);
    assert_eq!(fs::read(scene.at("one/disk0")).unwrap(), b"first");
    assert_eq!(fs::read(scene.at("one/disk1")).unwrap(), b"merged");
    assert_eq!(names(scene.folder.path()), ["kept", "one"]);
    assert_eq!(scene.asked(), ["hello", "save", "hello", "save", "shutdown"]);
}

#[test]
fn an_overlay_of_a_restored_machine_is_left_only_over_the_bases_layers() {
    let scene = Scene::new(Script { disks: vec![Some(0), Some(0)], ..Script::default() });
    let base = scene.restored("full", [7; 16]);
    // The second disk has a layer of its own, because the machine was restored from a diff.
    scene.change(|script| script.disks = vec![Some(1), Some(2)]);
    let overlays = vec![overlay(&scene, 0, "first"), overlay(&scene, 1, "second")];
    let taken =
        suspend(&scene.client, &scene.at("diff"), &Take { base: Some(base), overlays, ..Take::default() });
    assert_eq!(taken.unwrap().linked, [0]);
    assert_eq!(fs::read(scene.at("diff/disk0")).unwrap(), b"first");
    assert_eq!(fs::read(scene.at("diff/disk1")).unwrap(), b"merged");
}

#[test]
fn another_file_in_the_overlays_place_is_left_alone() {
    let scene = Scene::new(Script { disks: vec![Some(0)], ..Script::default() });
    let replaced = overlay(&scene, 0, "overlay");
    fs::rename(scene.at("overlay"), scene.at("moved")).unwrap();
    fs::write(scene.at("overlay"), "something else").unwrap();
    let taken =
        suspend(&scene.client, &scene.at("one"), &Take { overlays: vec![replaced], ..Take::default() });
    assert!(taken.unwrap().linked.is_empty());
    assert_eq!(fs::read(scene.at("one/disk0")).unwrap(), b"merged");
    assert_eq!(names(scene.folder.path()), ["moved", "one", "overlay"]);
}

#[test]
fn an_overlay_stays_when_the_machine_goes_on() {
    let scene = Scene::new(Script { disks: vec![Some(0)], ..Script::default() });
    scene.change(|script| script.refusal = Some("no"));
    let overlays = vec![overlay(&scene, 0, "overlay")];
    let take = Take { overlays, ..Take::default() };
    assert_eq!(message(suspend(&scene.client, &scene.at("one"), &take)), "no");
    assert_eq!(names(scene.folder.path()), ["overlay"]);
    assert_eq!(fs::read(scene.at("overlay")).unwrap(), b"overlay");
    assert!(!scene.asked().contains(&"shutdown"));
}

#[test]
fn a_working_set_replaces_the_one_before_as_a_whole() {
    let scene = Scene::new(Script { id: *b"first recording!", ..Script::default() });
    let to = scene.at(WORKING_SET);
    write_working_set(&scene.client, &to).unwrap();
    scene.change(|script| script.id = *b"second recording");
    write_working_set(&scene.client, &to).unwrap();
    scene.change(|script| (script.id, script.refusal) = (*b"not recording it", Some("no")));
    assert_eq!(write_working_set(&scene.client, &to).unwrap_err().to_string(), "no");
    assert_eq!(fs::read(&to).unwrap(), b"second recording");
    assert_eq!(names(scene.folder.path()), [WORKING_SET]);
}
