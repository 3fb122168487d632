//! The protocol's version on a connection: the highest that both host and agent support.
//!
//! A version changes what messages mean. An addition that changes nothing else is a feature: the host names the features that it would
//! use, and the agent answers with those of them that it has.

use hearth_proto::Versions;
use hearth_proto::guest::v1::{Open, Opened, open::Kind};

/// The versions that this code supports. The oldest is that of Hearth 0.2, the first release whose images are kept.
pub const OWN: Versions = Versions::new(3, 3);
/// Names of the features that this code has beyond its versions.
pub const FEATURES: [&str; 0] = [];

/// The negotiated version and features of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The version.
    pub version: u32,
    /// The features that both sides have, out of those that the host requested.
    pub features: Vec<String>,
}

/// Error: host and agent have no version in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the guest's agent speaks {agent} of its protocol and the host {host}: they have none in common; build the image again with a base image \
     of this host's release, or run it on a host of its own"
)]
pub struct NoCommonVersion {
    /// The versions that the agent supports.
    pub agent: Versions,
    /// The versions that the host supports.
    pub host: Versions,
}

/// The first message of a host on a connection of this kind.
#[must_use]
pub fn open(kind: Kind, features: &[&str]) -> Open {
    Open {
        version: OWN.newest(),
        oldest_version: OWN.oldest(),
        features: features.iter().map(|name| (*name).to_owned()).collect(),
        kind: Some(kind),
    }
}

/// Negotiates, for an agent with these versions and features, on the basis of a host's [`Open`].
///
/// # Errors
/// [`NoCommonVersion`]
pub fn agree(open: &Open, own: Versions, features: &[&str]) -> Result<Agreed, NoCommonVersion> {
    let host = Versions::new(open.oldest_version, open.version);
    let version = own.highest_common(host).ok_or(NoCommonVersion { agent: own, host })?;
    let both = open.features.iter().filter(|name| features.contains(&name.as_str()));
    Ok(Agreed { version, features: both.cloned().collect() })
}

/// The agent's answer that opens a connection.
#[must_use]
pub fn opened(agreed: Agreed) -> Opened {
    Opened { failure: None, version: agreed.version, features: agreed.features }
}

/// The version and features in an agent's answer; none if the agent has chosen a version or feature that was not offered: it is hostile
/// or broken.
#[must_use]
pub fn agreed(open: &Open, opened: &Opened) -> Option<Agreed> {
    let offered = Versions::new(open.oldest_version, open.version);
    let asked = opened.features.iter().all(|name| open.features.contains(name));
    (offered.has(opened.version) && asked)
        .then(|| Agreed { version: opened.version, features: opened.features.clone() })
}

#[cfg(test)]
mod tests {
    use hearth_proto::guest::v1::OpenControl;

    use super::*;

    fn asked(versions: Versions, features: &[&str]) -> Open {
        let open = open(Kind::Control(OpenControl {}), features);
        Open { version: versions.newest(), oldest_version: versions.oldest(), ..open }
    }

    #[test]
    fn an_agent_takes_the_highest_version_that_the_host_speaks_too() {
        let versions = Versions::new;
        for (host, agent, expected) in [
            (versions(3, 3), versions(3, 3), Some(3)),
            (versions(3, 7), versions(5, 9), Some(7)),
            (versions(5, 9), versions(3, 7), Some(7)),
            (versions(3, 4), versions(5, 6), None),
        ] {
            let agreed = agree(&asked(host, &[]), agent, &[]);
            assert_eq!(agreed.ok().map(|agreed| agreed.version), expected, "{host} and {agent}");
        }
    }

    #[test]
    fn who_has_no_version_in_common_is_told_what_both_speak() {
        let error = agree(&asked(Versions::new(5, 6), &[]), Versions::new(3, 3), &[]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("agent speaks version 3 ") && text.contains("host versions 5 to 6"), "{text}");
    }

    #[test]
    fn a_host_that_names_no_oldest_version_speaks_all_before_its_newest() {
        let open = asked(Versions::new(0, OWN.newest() + 2), &[]);
        assert_eq!(agree(&open, OWN, &[]).unwrap().version, OWN.newest());
    }

    #[test]
    fn features_are_those_that_were_asked_for_and_are_there() {
        let open = asked(OWN, &["a", "b"]);
        let answer = agree(&open, OWN, &["b", "c"]).unwrap();
        assert_eq!(answer.features, ["b"]);
        assert_eq!(agreed(&open, &opened(answer.clone())), Some(answer));
    }

    #[test]
    fn an_agent_that_chooses_what_it_was_not_offered_is_not_believed() {
        let open = asked(Versions::new(3, 4), &["a"]);
        let answer =
            |version, feature: &str| Opened { failure: None, version, features: vec![feature.into()] };
        assert!(agreed(&open, &answer(3, "a")).is_some());
        for wrong in [answer(2, "a"), answer(5, "a"), answer(0, "a"), answer(3, "b")] {
            assert_eq!(agreed(&open, &wrong), None);
        }
    }
}
