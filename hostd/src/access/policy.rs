//! What somebody may: actions × names of images.

use serde::{Deserialize, Serialize};

use crate::service::Operation;

/// Allows some actions with some images. What no policy allows is denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Names of operations, like `RunMicrovm` or `lambda:RunMicrovm`; with `*` for any characters, as in `Get*`.
    pub actions: Vec<String>,
    /// Names of images, with `*` for any characters and `?` for one. What is not about one image (lists, the host) needs `*`.
    #[serde(default = "every")]
    pub images: Vec<String>,
}

fn every() -> Vec<String> {
    vec!["*".to_owned()]
}

impl Policy {
    /// Allows everything.
    #[must_use]
    pub fn everything() -> Self {
        Self { actions: every(), images: every() }
    }

    /// Whether it allows an operation with an image, or, without one, with everything there is.
    #[must_use]
    pub fn allows(&self, operation: Operation, image: Option<&str>) -> bool {
        let name = operation.name();
        let action = |action: &String| matches(action.strip_prefix("lambda:").unwrap_or(action), name);
        let with = |pattern: &String| match image {
            Some(image) => matches(pattern, image),
            None => pattern == "*",
        };
        self.actions.iter().any(action) && self.images.iter().any(with)
    }

    /// What is wrong with it: a pattern for actions that no operation has.
    ///
    /// # Errors
    ///
    /// The pattern.
    pub fn check(&self) -> Result<(), String> {
        let known = |action: &str| {
            let pattern = action.strip_prefix("lambda:").unwrap_or(action);
            Operation::ALL.iter().any(|operation| matches(pattern, operation.name()))
        };
        self.actions.iter().find(|action| !known(action)).map_or(Ok(()), |action| Err(action.clone()))
    }
}

/// Whether `text` is like `pattern`, in which `*` stands for any characters and `?` for one. Linear but for the last `*`.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut seen) = (0_usize, 0_usize);
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at = at.saturating_add(1);
            }
            Some(&byte) if byte == b'?' || text.get(seen) == Some(&byte) => {
                (at, seen) = (at.saturating_add(1), seen.saturating_add(1));
            }
            _ => {
                let Some((of_star, from)) = star else { return false };
                seen = from.saturating_add(1);
                star = Some((of_star, seen));
                at = of_star.saturating_add(1);
            }
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(actions: &[&str], images: &[&str]) -> Policy {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Policy { actions: owned(actions), images: owned(images) }
    }

    #[test]
    fn a_policy_allows_its_actions_with_its_images() {
        let web = policy(&["RunMicrovm", "lambda:Get*"], &["web-*", "demo"]);
        assert!(web.allows(Operation::RunMicrovm, Some("web-shop")));
        assert!(web.allows(Operation::GetMicrovm, Some("demo")));
        assert!(!web.allows(Operation::RunMicrovm, Some("web")));
        assert!(!web.allows(Operation::TerminateMicrovm, Some("demo")));
        assert!(!web.allows(Operation::GetHostStatus, None), "that is about everything");
        assert!(policy(&["*"], &["*"]).allows(Operation::ListMicrovms, None));
        assert!(!policy(&[], &["*"]).allows(Operation::ListMicrovms, None));
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b", "xaxbxaxb", true),
            ("", "", true),
            ("", "a", false),
            ("a", "ab", false),
            ("a**", "a", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn actions_that_nobody_knows_are_found() {
        assert_eq!(policy(&["*", "List*", "RunMicrovm"], &[]).check(), Ok(()));
        assert_eq!(policy(&["RunMicroVM"], &[]).check(), Err("RunMicroVM".to_owned()));
    }
}
