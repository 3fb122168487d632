//! WatchEvents, WatchBuild.

use futures_util::{StreamExt as _, stream};
use hearth_model::image::ImageName;
use hearth_model::version::ImageVersion;
use hearth_proto::host::v1 as proto;

use super::super::Service;
use super::super::error::{HostError, ImageError, ServiceError};
use super::super::pipeline::{Admitted, Handler, NoImage};
use super::stream::Answers;
use crate::access::Caller;
use crate::events::Missed;

/// Changes of state in the account, from now on, until the client has missed some because it reads too slowly. The target is the resource that the request names, as events contain
/// it: the ARN of an image, or the id of a microVM.
impl Handler for proto::WatchEventsRequest {
    type Response = Answers<proto::Event>;
    type Target = NoImage<Option<String>>;

    fn target(&self, service: &Service, caller: &Caller) -> Result<Self::Target, ServiceError> {
        Ok(NoImage(match self.resource.as_deref() {
            Some(resource) if !resource.starts_with("microvm-") => {
                let image = service.image(caller, Some(resource))?;
                Some(service.config().image_arn(&image.account, &image.name))
            }
            resource => resource.map(str::to_owned),
        }))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let resource = call.target.0.take();
        let follower = call.service.parts().host.events.follow(&call.caller.account);
        let events = stream::unfold((follower, resource), |(mut follower, resource)| async move {
            loop {
                let event = match follower.next().await {
                    Ok(event) if resource.as_ref().is_some_and(|resource| *resource != event.resource) => {
                        continue;
                    }
                    Ok(event) => Ok(event),
                    Err(Missed(missed)) => Err(HostError::EventsMissed(missed).into()),
                };
                return Some((event, (follower, resource)));
            }
        });
        Answers::following(call, events).await
    }
}

/// The build of a version: what has happened so far, then what happens, until it has ended.
impl Handler for proto::WatchBuildRequest {
    type Response = Answers<proto::BuildEvent>;
    type Target = ImageName;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        Ok(service.image(caller, self.image_identifier.as_deref())?)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, image) = (call.service, &call.target);
        let arn = || service.config().image_arn(&image.account, &image.name);
        let no_version =
            |version: &String| ImageError::VersionNotFound { arn: arn(), version: version.clone() };
        let version = call.request.image_version.as_ref();
        let number = version
            .map(|version| ImageVersion::number_of(version).ok_or_else(|| no_version(version)))
            .transpose()?;
        let watch = service.images().watch(&image.account, &image.name, number)?;
        let watch = watch.ok_or_else(|| version.map_or_else(|| ImageError::NotFound(arn()), no_version))?;
        Answers::following(call, watch.into_stream().map(Ok)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Policy;
    use crate::builds::tests::double::ACCOUNT;
    use crate::service::Profile;
    use crate::service::tests::{caller, host};

    #[tokio::test]
    async fn a_client_that_has_missed_events_is_told_so_and_has_to_call_again() {
        let host = host(Profile::Default).await;
        let developer = caller(ACCOUNT, [Policy::everything()].into());
        let watch = async || {
            let request = proto::WatchEventsRequest::default();
            Box::pin(host.service.call_as(&developer, request).await.unwrap().messages())
        };
        let publish_of = |account: &str, resource: &str| {
            let event = proto::Event { resource: resource.into(), ..proto::Event::default() };
            host.service.parts().host.events.publish(account, event);
        };
        let publish = |resource: &str| publish_of(ACCOUNT, resource);
        let other = caller("999999999999", [Policy::everything()].into());
        let request = proto::WatchEventsRequest::default();
        let _of_other = host.service.call_as(&other, request).await.unwrap();
        let mut slow = watch().await;
        publish("microvm-first");
        for number in 0..10_000 {
            publish_of("999999999999", &format!("microvm-{number}"));
        }
        let first = slow.next().await.unwrap().unwrap();
        assert_eq!(first.resource, "microvm-first", "another account's events count for that account");
        for number in 0..10_000 {
            publish(&format!("microvm-{number}"));
        }
        let error = slow.next().await.unwrap().unwrap_err();
        assert!(
            matches!(error, ServiceError::Host(HostError::EventsMissed(missed)) if missed > 1000),
            "{error}"
        );
        assert!(slow.next().await.is_none(), "nothing follows an error");
        let mut again = watch().await;
        publish("microvm-1");
        assert_eq!(again.next().await.unwrap().unwrap().resource, "microvm-1");
    }
    #[tokio::test]
    async fn an_account_follows_with_a_limited_number_of_calls() {
        let host = host(Profile::Default).await;
        let developer = caller(ACCOUNT, [Policy::everything()].into());
        let watch = || host.service.call_as(&developer, proto::WatchEventsRequest::default());
        let mut open = Vec::new();
        for _ in 0..128 {
            open.push(watch().await.unwrap());
        }
        assert_eq!(watch().await.err().unwrap().exception().name, "ThrottlingException");
        open.pop();
        watch().await.unwrap();
    }
}
