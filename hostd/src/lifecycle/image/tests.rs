use proptest::prelude::*;

use super::*;
use crate::clock::timestamp;

const ARN: &str = "arn:aws:lambda:eu-west-1:123456789012:microvm-image:demo";

fn at(second: u64) -> Timestamp {
    timestamp(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 + second))
}

fn new_version(build_id: &str) -> NewVersion {
    let config = MicrovmImageVersion { image_arn: ARN.to_owned(), ..Default::default() };
    NewVersion { config, build_id: build_id.to_owned(), generation: "2".to_owned() }
}

fn created() -> Image {
    let record = ImageRecord {
        account: "123456789012".into(),
        name: "demo".into(),
        uid: "uid".into(),
        ..Default::default()
    };
    Image::create(record, new_version("b1"), at(0))
}

fn successful() -> Outcome {
    Outcome::Successful(SnapshotBuild { memory_snapshot_size_in_bytes: Some(1), ..Default::default() })
}

fn failed() -> Outcome {
    Outcome::Failed { reason: "The container image build failed.".into(), code_install_bytes: None }
}

/// An image whose version 1.0 has been built.
fn built() -> Image {
    let mut image = created();
    image.build_started(1, "b1", at(1));
    image.build_ended(1, "b1", successful(), at(2));
    image
}

fn updated(mut image: Image, outcome: Outcome) -> Image {
    let number = image.update(new_version(&format!("b{}", image.record.newest_version + 1)), at(10)).unwrap();
    image.build_ended(number, &format!("b{number}"), outcome, at(11));
    image
}

#[test]
fn a_build_that_succeeds_makes_its_version_active_and_its_image_created() {
    let mut image = created();
    assert_eq!(image.record.state(), State::Creating);
    assert_eq!(image.version_state(1), Some(VersionState::Pending));
    image.build_started(1, "b1", at(1));
    assert_eq!(image.version_state(1), Some(VersionState::InProgress));
    image.build_ended(1, "b1", successful(), at(2));
    assert_eq!((image.record.state(), image.record.latest_active), (State::Created, 1));
    let version = image.versions[&1].version.as_ref().unwrap();
    assert_eq!((version.status(), version.image_version.as_str()), (Status::Active, "1.0"));
    assert_eq!(version.updated_at, Some(at(2)));
}

#[test]
fn a_failed_build_consumes_its_number_and_says_why() {
    let mut image = created();
    let reason = "Ready hook invocation timed out after PT5M".to_owned();
    let outcome = Outcome::Failed { reason: reason.clone(), code_install_bytes: Some(77) };
    image.build_ended(1, "b1", outcome, at(2));
    assert_eq!((image.record.state(), image.record.latest_failed), (State::CreateFailed, 1));
    let record = &image.versions[&1];
    let version = record.version.as_ref().unwrap();
    assert_eq!((version.status(), version.state_reason.as_ref()), (Status::Inactive, Some(&reason)));
    let build = record.builds[0].build.as_ref().unwrap();
    let sizes = build.snapshot_build.as_ref().unwrap();
    assert_eq!(build.state_reason, Some(reason));
    assert_eq!(
        (sizes.code_install_size_in_bytes, sizes.memory_snapshot_size_in_bytes),
        (Some(77), None),
        "only the code's size is known"
    );
    let image = updated(image, successful());
    assert_eq!(image.record.state(), State::Updated);
    assert_eq!((image.record.latest_active, image.record.latest_failed), (2, 1));
}

#[test]
fn nothing_is_accepted_while_something_is_under_way() {
    let mut image = built();
    image.update(new_version("b2"), at(3)).unwrap();
    let before = image.clone();
    let busy = "MicroVM Image is already in state: UPDATING";
    assert_eq!(image.update(new_version("b3"), at(4)).unwrap_err().to_string(), busy);
    assert_eq!(image.set_status(1, Status::Inactive, at(4)).unwrap_err().to_string(), busy);
    assert_eq!(image.delete_version(1, at(4)).unwrap_err().to_string(), busy);
    let error = image.delete(at(4)).unwrap_err().to_string();
    assert_eq!(error, format!("Cannot delete MicroVM image in its current state: {ARN}"));
    assert_eq!(image, before);
}

#[test]
fn a_version_is_deleted_and_the_image_is_updated_again() {
    let mut image = updated(built(), successful());
    assert_eq!(image.delete_version(2, at(20)), Ok(VersionDeletion::Begun));
    assert_eq!((image.record.state(), image.record.latest_active), (State::Updating, 1));
    assert_eq!(image.version_state(2), Some(VersionState::Deleting));
    assert_eq!(image.version_gone(2, at(21)).unwrap().number, 2);
    assert_eq!((image.record.state(), image.record.versions.as_slice()), (State::Updated, [1].as_slice()));
    assert_eq!(image.delete_version(2, at(22)), Ok(VersionDeletion::Gone), "asked again");
    assert_eq!(image.delete_version(1, at(22)), Err(Refusal::LastVersion));
    assert!(matches!(image.delete_version(3, at(22)), Err(Refusal::NoVersion { number: 3, .. })));
}

#[test]
fn a_deleted_image_takes_all_versions_with_it() {
    let mut image = updated(built(), failed());
    image.delete(at(30)).unwrap();
    assert_eq!(image.record.state(), State::Deleting);
    assert_eq!((image.record.latest_active, image.record.latest_failed), (0, 0));
    assert!([1, 2].iter().all(|number| image.version_state(*number) == Some(VersionState::Deleting)));
    let before = image.clone();
    image.delete(at(31)).unwrap();
    assert_eq!(image, before, "asked again");
    assert_eq!(image.update(new_version("b3"), at(32)), Err(Refusal::Busy(State::Deleting)));
}

#[test]
fn only_what_was_built_is_activated() {
    let mut image = updated(built(), failed());
    let error = image.set_status(2, Status::Active, at(20)).unwrap_err();
    assert_eq!(error, Refusal::NotSuccessful { number: 2, state: VersionState::Failed });
    image.set_status(2, Status::Inactive, at(20)).unwrap();
    image.set_status(1, Status::Inactive, at(21)).unwrap();
    assert_eq!(image.record.latest_active, 0);
    image.set_status(1, Status::Active, at(22)).unwrap();
    assert_eq!(image.record.latest_active, 1);
    assert_eq!(image.record.state(), State::UpdateFailed, "activation changes no state");
}

fn resolved(image: &Image, requested: Option<&str>) -> Result<u32, String> {
    let number = requested_version(Some(&image.record), requested);
    let version = number.and_then(|number| image.versions.get(&number).cloned());
    let resolved = resolve(ARN, Some(&image.record), version, requested);
    resolved.map(|version| version.number).map_err(|error| error.to_string())
}

#[test]
fn an_older_active_version_runs_while_the_image_is_updated_and_after_that_failed() {
    let mut image = built();
    image.update(new_version("b2"), at(3)).unwrap();
    assert_eq!(resolved(&image, None), Ok(1));
    assert_eq!(
        resolved(&image, Some("2.0")),
        Err(format!("No active version found for MicroVM image {ARN} and version 2.0"))
    );
    image.build_ended(2, "b2", failed(), at(4));
    assert_eq!((resolved(&image, None), resolved(&image, Some("1"))), (Ok(1), Ok(1)));
}

#[test]
fn without_an_active_version_the_sentence_is_that_of_an_unknown_image() {
    let mut image = built();
    image.set_status(1, Status::Inactive, at(3)).unwrap();
    let sentence = format!("No active version found for MicroVM image {ARN}");
    assert_eq!(resolved(&image, None), Err(sentence.clone()));
    assert_eq!(resolve(ARN, None, None, None).unwrap_err().to_string(), sentence);
    assert_eq!(resolved(&image, Some("1.0")), Err(format!("{sentence} and version 1.0")));
    assert_eq!(resolved(&image, Some("no number")), Err(format!("{sentence} and version no number")));
    image.set_status(1, Status::Active, at(4)).unwrap();
    image.delete(at(5)).unwrap();
    assert_eq!(resolved(&image, None), Err(sentence));
}

#[derive(Debug, Clone)]
enum Operation {
    Update,
    Start,
    End(bool),
    Status(u32, bool),
    DeleteVersion(u32),
    Gone,
    Delete,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        4 => Just(Operation::Update),
        2 => Just(Operation::Start),
        5 => any::<bool>().prop_map(Operation::End),
        3 => (1..8_u32, any::<bool>()).prop_map(|(number, active)| Operation::Status(number, active)),
        3 => (1..8_u32).prop_map(Operation::DeleteVersion),
        3 => Just(Operation::Gone),
        1 => Just(Operation::Delete),
    ];
    prop::collection::vec(operation, 0..60)
}

/// Applies the operation; returns the number of the version that it created.
fn apply(image: &mut Image, operation: &Operation, now: Timestamp) -> Option<u32> {
    let newest = image.record.newest_version;
    match operation {
        Operation::Update => return image.update(new_version(&format!("b{}", newest + 1)), now).ok(),
        Operation::Start => {
            image.build_started(newest, &format!("b{newest}"), now);
        }
        Operation::End(true) => image.build_ended(newest, &format!("b{newest}"), successful(), now),
        Operation::End(false) => image.build_ended(newest, &format!("b{newest}"), failed(), now),
        Operation::Status(number, active) => {
            let status = if *active { Status::Active } else { Status::Inactive };
            let _ = image.set_status(*number, status, now);
        }
        Operation::DeleteVersion(number) => {
            let _ = image.delete_version(*number, now);
        }
        Operation::Gone => {
            let deleting = |number: &&u32| image.version_state(**number) == Some(VersionState::Deleting);
            let number = image.versions.keys().find(deleting).copied();
            if image.record.state() != State::Deleting {
                number.and_then(|number| image.version_gone(number, now));
            }
        }
        Operation::Delete => {
            let _ = image.delete(now);
        }
    }
    None
}

fn check(image: &Image) {
    let numbers: Vec<u32> = image.versions.keys().copied().collect();
    assert_eq!(image.record.versions, numbers, "the image names its versions");
    assert!(!numbers.is_empty(), "an image has a version");
    assert!(numbers.iter().all(|number| *number <= image.record.newest_version));
    let active = numbers.iter().copied().filter(|number| {
        let version = image.versions[number].version.as_ref().unwrap();
        version.state() == VersionState::Successful && version.status() == Status::Active
    });
    let failed = numbers.iter().copied().filter(|n| image.version_state(*n) == Some(VersionState::Failed));
    assert_eq!(image.record.latest_active, active.max().unwrap_or(0));
    assert_eq!(image.record.latest_failed, failed.max().unwrap_or(0));
    let under_way = numbers.iter().filter(|number| {
        let state = image.version_state(**number).unwrap();
        matches!(state, VersionState::Pending | VersionState::InProgress | VersionState::Deleting)
    });
    match image.record.state() {
        State::Creating | State::Updating => assert_eq!(under_way.count(), 1, "one thing at a time"),
        State::Deleting => assert_eq!(under_way.count(), numbers.len()),
        _ => assert_eq!(under_way.count(), 0, "a settled image has nothing under way"),
    }
}

proptest! {
    #[test]
    fn an_image_is_consistent_after_whatever_happens(operations in operations()) {
        let mut image = created();
        let mut given = vec![1];
        check(&image);
        for (second, operation) in operations.iter().enumerate() {
            let before = image.clone();
            given.extend(apply(&mut image, operation, at(u64::try_from(second).unwrap() + 100)));
            check(&image);
            for (number, version) in &before.versions {
                let (was, is) = (version.version.as_ref().unwrap().state(), image.version_state(*number));
                let allowed = match was {
                    VersionState::Pending => is.is_some(),
                    VersionState::InProgress => is.is_some_and(|is| is != VersionState::Pending),
                    VersionState::Successful | VersionState::Failed => is == Some(was) || is == Some(VersionState::Deleting),
                    _ => is.is_none() || is == Some(VersionState::Deleting),
                };
                prop_assert!(allowed, "version {number} was {was:?} and is {is:?} after {operation:?}");
            }
            if before.record.state() == State::Deleting {
                prop_assert_eq!(&image, &before, "what is being deleted never comes back");
            }
        }
        prop_assert!(given.is_sorted_by(|one, other| one < other), "numbers are never used again: {given:?}");
    }
}
