//! Short names instead of ARNs, and the beginnings of microVM ids instead of whole ones.

use hearth_model::arn::is_arn;
use hearth_model::connector::{self, Connector};
use hearth_model::id::MicrovmId;
use hearth_model::image::ImageArn;
use hearth_model::role::role_arn;
use hearth_proto::host::v1::{GetHostStatusRequest, HostStatus};
use hearth_proto::microvms::v1::{ListMicrovmsRequest, MicrovmItem, MicrovmState};

use crate::connect::Client;
use crate::error::Failure;
use crate::pages::{self, PAGE};

/// Default build role.
pub(crate) const BUILD_ROLE: &str = "hearth-build";
/// Number of microVMs that are listed for an ambiguous prefix.
const CANDIDATES: usize = 3;

/// Splits `NAME:VERSION`, unless the text is an ARN.
pub(crate) fn with_version(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((name, version)) if name != "arn" => (name, Some(version)),
        _ => (text, None),
    }
}

/// Whether the microVM has ended, or is about to end.
pub(crate) fn has_ended(state: i32) -> bool {
    matches!(MicrovmState::try_from(state), Ok(MicrovmState::Terminating | MicrovmState::Terminated))
}

impl Client {
    /// The host's status: its region and the caller's account are parts of ARNs.
    pub(crate) async fn host_status(&self) -> Result<&HostStatus, Failure> {
        let ask = || async {
            let mut host = self.host();
            self.call("ask for the host's status", host.get_host_status(GetHostStatusRequest {})).await
        };
        self.status.get_or_try_init(ask).await
    }

    /// `text` if it is an ARN, else the ARN that `make` makes; `text` also if the caller may not read region and account.
    async fn arn(&self, text: &str, make: impl FnOnce(&HostStatus) -> String) -> Result<String, Failure> {
        if is_arn(text) {
            return Ok(text.to_owned());
        }
        match self.host_status().await {
            Ok(host) => Ok(make(host)),
            Err(failure) if failure.is_denied() => Ok(text.to_owned()),
            Err(failure) => Err(failure),
        }
    }

    /// The ARN of one of the account's images.
    pub(crate) async fn image(&self, name: &str) -> Result<String, Failure> {
        self.arn(name, |host| ImageArn::new(&host.region, &host.account, name).to_string()).await
    }

    /// The ARN of a base image.
    pub(crate) async fn base(&self, name: &str) -> Result<String, Failure> {
        self.arn(name, |host| ImageArn::base(&host.region, name).to_string()).await
    }

    /// The ARN of a role.
    pub(crate) async fn role(&self, name: &str) -> Result<String, Failure> {
        self.arn(name, |host| role_arn(&host.account, name)).await
    }

    /// The ARN of a build's role, by default that of the default build role.
    pub(crate) async fn build_role(&self, name: Option<&str>) -> Result<String, Failure> {
        self.role(name.unwrap_or(BUILD_ROLE)).await
    }

    /// The ARNs of built-in network connectors. `internet` and `none` are short names of the two for egress.
    pub(crate) async fn connectors(&self, names: &[String]) -> Result<Vec<String>, Failure> {
        let mut arns = Vec::with_capacity(names.len());
        for name in names {
            let known = match name.as_str() {
                "internet" => Connector::InternetEgress.name(),
                "none" => Connector::NoEgress.name(),
                other => other,
            };
            arns.push(self.arn(known, |host| connector::arn(&host.region, known)).await?);
        }
        Ok(arns)
    }

    /// All microVMs of the account, or of an image.
    pub(crate) async fn all_microvms(
        &self,
        image: Option<(String, Option<String>)>,
        limit: Option<usize>,
    ) -> Result<Vec<MicrovmItem>, Failure> {
        let (image_identifier, image_version) = image.unzip();
        pages::all(limit, async |next_token| {
            let request = ListMicrovmsRequest {
                max_results: Some(PAGE),
                next_token,
                image_identifier: image_identifier.clone(),
                image_version: image_version.clone().flatten(),
            };
            let answer = self.call("list microVMs", self.microvms().list_microvms(request)).await?;
            Ok((answer.items, answer.next_token))
        })
        .await
    }

    /// The ids of the microVMs that these prefixes stand for, each once.
    pub(crate) async fn microvm_ids(&self, beginnings: &[String]) -> Result<Vec<String>, Failure> {
        let mut items = None;
        let mut ids: Vec<String> = Vec::with_capacity(beginnings.len());
        for beginning in beginnings {
            let id = if MicrovmId::is_whole(beginning) {
                beginning.clone()
            } else {
                if items.is_none() {
                    items = Some(self.all_microvms(None, None).await?);
                }
                find(beginning, items.as_deref().unwrap_or_default())?
            };
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// The id of the microVM that this prefix stands for.
    pub(crate) async fn microvm_id(&self, beginning: &str) -> Result<String, Failure> {
        let ids = self.microvm_ids(&[beginning.to_owned()]).await?;
        Ok(ids.into_iter().next().unwrap_or_else(|| beginning.to_owned()))
    }
}

/// The only microVM whose id has this prefix, with or without `microvm-`. Living ones take precedence over those that have ended.
fn find(beginning: &str, items: &[MicrovmItem]) -> Result<String, Failure> {
    if beginning.is_empty() {
        return Err(Failure::usage("an empty id means no microVM; `hearth ps` lists them"));
    }
    let begins = |item: &&MicrovmItem| {
        let id = item.microvm_id.as_str();
        id.starts_with(beginning)
            || id.strip_prefix(MicrovmId::PREFIX).is_some_and(|uuid| uuid.starts_with(beginning))
    };
    let found: Vec<_> = items.iter().filter(begins).collect();
    let alive: Vec<_> = found.iter().copied().filter(|item| !has_ended(item.state)).collect();
    let found = if alive.is_empty() { found } else { alive };
    match found.as_slice() {
        [] => Err(Failure::failed(format!(
            "there is no microVM whose id begins with {beginning}; `hearth ps --all` lists them"
        ))),
        [one] => Ok(one.microvm_id.clone()),
        many => {
            let ids: Vec<_> = many.iter().take(CANDIDATES).map(|item| item.microvm_id.as_str()).collect();
            let more = if many.len() > CANDIDATES { ", …" } else { "" };
            Err(Failure::usage(format!(
                "{} microVMs have ids that begin with {beginning}: {}{more}; write more of the one you mean",
                many.len(),
                ids.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, state: MicrovmState) -> MicrovmItem {
        MicrovmItem { microvm_id: format!("microvm-{id}"), state: state.into(), ..MicrovmItem::default() }
    }

    #[test]
    fn the_beginning_of_an_id_is_enough_where_only_one_begins_so() {
        let items = [
            item("ab12", MicrovmState::Running),
            item("ab34", MicrovmState::Suspended),
            item("ab99", MicrovmState::Terminated),
            item("cd56", MicrovmState::Terminated),
        ];
        assert_eq!(find("ab1", &items).unwrap(), "microvm-ab12");
        assert_eq!(find("microvm-ab3", &items).unwrap(), "microvm-ab34");
        assert_eq!(find("c", &items).unwrap(), "microvm-cd56", "ended ones can be meant, too");
        let error = find("ab", &items).unwrap_err();
        assert!(matches!(error, Failure::Usage(_)));
        let text = error.to_string();
        assert!(text.contains("ab12") && text.contains("ab34") && !text.contains("ab99"), "{text}");
        assert!(find("x", &items).unwrap_err().to_string().contains("hearth ps --all"));
        assert!(find("", &items).is_err());
    }

    #[test]
    fn a_version_follows_a_name_but_not_an_arn() {
        assert_eq!(with_version("demo:2.0"), ("demo", Some("2.0")));
        assert_eq!(with_version("arn:aws:x"), ("arn:aws:x", None));
    }
}
