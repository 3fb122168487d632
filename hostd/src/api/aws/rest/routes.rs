//! The table of routes: for each operation its method, path, success status, and where members of its request lie.
//!
//! A member is in the path if the template names it in braces, in the query string if the route lists it, and in the
//! JSON body otherwise. Names are those of AWS's service model, which a test compares with this table.

use std::pin::Pin;

use hyper::Method;
use percent_encoding::percent_decode_str;
use prost_reflect::DynamicMessage;

use hearth_proto::microvms::v1 as api;

use super::response;
use crate::operation::{Operation, Request};
use crate::service::pipeline::{Handler, Incoming};
use crate::service::{Service, ServiceError};

/// An operation that is being performed; its result is the JSON of the response.
pub(super) type Answering<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, ServiceError>> + Send + 'a>>;

/// Performs the operation of a route. The texts are names of enumeration values that the request has and that do not
/// exist ([`super::json::Reader`]).
type Perform = for<'a> fn(&'a Service, &'a Incoming, DynamicMessage, Vec<String>) -> Answering<'a>;

/// A member in the query string: its name there, and its name in the request.
pub(super) type QueryMember = (&'static str, &'static str);

/// A route.
pub(super) struct Route {
    pub(super) operation: Operation,
    /// Full name of the request message.
    pub(super) request: &'static str,
    /// Full name of the response message; the test of the model needs it.
    #[cfg_attr(not(test), expect(dead_code, reason = "only the comparison with AWS's model reads it"))]
    pub(super) response: (&'static str, &'static str),
    pub(super) method: Method,
    /// Template of the path. A part in braces is a member.
    pub(super) path: &'static str,
    pub(super) query: &'static [QueryMember],
    /// HTTP status of success. A response with 204 has no body.
    pub(super) status: u16,
    pub(super) perform: Perform,
}

const PAGE: &[QueryMember] = &[MAX_RESULTS, NEXT_TOKEN];
const MAX_RESULTS: QueryMember = ("maxResults", "maxResults");
const NEXT_TOKEN: QueryMember = ("nextToken", "nextToken");

const fn route<R>(method: Method, path: &'static str, query: &'static [QueryMember], status: u16) -> Route
where
    R: Handler + Request + 'static,
    R::Response: prost::Name,
{
    Route {
        operation: R::OPERATION,
        request: R::MESSAGE,
        response: (<R::Response as prost::Name>::PACKAGE, <R::Response as prost::Name>::NAME),
        method,
        path,
        query,
        status,
        perform: perform::<R>,
    }
}

/// All routes.
pub(super) static ROUTES: [Route; 24] = [
    // MicroVMs
    route::<api::RunMicrovmRequest>(Method::POST, "/2025-09-09/microvms", &[], 200),
    route::<api::GetMicrovmRequest>(Method::GET, "/2025-09-09/microvms/{microvmIdentifier}", &[], 200),
    route::<api::ListMicrovmsRequest>(
        Method::GET,
        "/2025-09-09/microvms",
        &[MAX_RESULTS, NEXT_TOKEN, ("imageIdentifier", "imageIdentifier"), ("imageVersion", "imageVersion")],
        200,
    ),
    route::<api::SuspendMicrovmRequest>(
        Method::POST,
        "/2025-09-09/microvms/{microvmIdentifier}/suspend",
        &[],
        200,
    ),
    route::<api::ResumeMicrovmRequest>(
        Method::POST,
        "/2025-09-09/microvms/{microvmIdentifier}/resume",
        &[],
        200,
    ),
    route::<api::TerminateMicrovmRequest>(
        Method::DELETE,
        "/2025-09-09/microvms/{microvmIdentifier}",
        &[],
        200,
    ),
    route::<api::CreateMicrovmAuthTokenRequest>(
        Method::POST,
        "/2025-09-09/microvms/{microvmIdentifier}/auth-token",
        &[],
        200,
    ),
    route::<api::CreateMicrovmShellAuthTokenRequest>(
        Method::POST,
        "/2025-09-09/microvms/{microvmIdentifier}/shell-auth-token",
        &[],
        200,
    ),
    // Images
    route::<api::CreateMicrovmImageRequest>(Method::POST, "/2025-09-09/microvm-images", &[], 201),
    route::<api::UpdateMicrovmImageRequest>(
        Method::PUT,
        "/2025-09-09/microvm-images/{imageIdentifier}",
        &[],
        200,
    ),
    route::<api::GetMicrovmImageRequest>(
        Method::GET,
        "/2025-09-09/microvm-images/{imageIdentifier}",
        &[],
        200,
    ),
    route::<api::ListMicrovmImagesRequest>(
        Method::GET,
        "/2025-09-09/microvm-images",
        &[MAX_RESULTS, NEXT_TOKEN, ("nameFilter", "nameFilter")],
        200,
    ),
    route::<api::DeleteMicrovmImageRequest>(
        Method::DELETE,
        "/2025-09-09/microvm-images/{imageIdentifier}",
        &[],
        200,
    ),
    // Versions
    route::<api::GetMicrovmImageVersionRequest>(
        Method::GET,
        "/2025-09-09/microvm-images/{imageIdentifier}/versions/{imageVersion}",
        &[],
        200,
    ),
    route::<api::ListMicrovmImageVersionsRequest>(
        Method::GET,
        "/2025-09-09/microvm-images/{imageIdentifier}/versions",
        PAGE,
        200,
    ),
    route::<api::UpdateMicrovmImageVersionRequest>(
        Method::PATCH,
        "/2025-09-09/microvm-images/{imageIdentifier}/versions/{imageVersion}",
        &[],
        200,
    ),
    route::<api::DeleteMicrovmImageVersionRequest>(
        Method::DELETE,
        "/2025-09-09/microvm-images/{imageIdentifier}/versions/{imageVersion}",
        &[],
        200,
    ),
    // Builds
    route::<api::GetMicrovmImageBuildRequest>(
        Method::GET,
        "/2025-09-09/microvm-images/{imageIdentifier}/versions/{imageVersion}/builds/{buildId}",
        &[],
        200,
    ),
    route::<api::ListMicrovmImageBuildsRequest>(
        Method::GET,
        "/2025-09-09/microvm-images/{imageIdentifier}/versions/{imageVersion}/builds",
        &[
            MAX_RESULTS,
            NEXT_TOKEN,
            ("architecture", "architecture"),
            ("chipset", "chipset"),
            ("chipsetGeneration", "chipsetGeneration"),
        ],
        200,
    ),
    // Base images
    route::<api::ListManagedMicrovmImagesRequest>(
        Method::GET,
        "/2025-09-09/managed-microvm-images",
        PAGE,
        200,
    ),
    route::<api::ListManagedMicrovmImageVersionsRequest>(
        Method::GET,
        "/2025-09-09/managed-microvm-images/{imageIdentifier}/versions",
        PAGE,
        200,
    ),
    // Tags
    route::<api::ListTagsRequest>(Method::GET, "/2017-03-31/tags/{Resource}", &[], 200),
    route::<api::TagResourceRequest>(Method::POST, "/2017-03-31/tags/{Resource}", &[], 204),
    route::<api::UntagResourceRequest>(
        Method::DELETE,
        "/2017-03-31/tags/{Resource}",
        &[("tagKeys", "TagKeys")],
        204,
    ),
];

/// A route that a request takes, with the members in its path.
pub(super) struct Found {
    pub(super) route: &'static Route,
    /// Names and decoded values.
    pub(super) path: Vec<(&'static str, String)>,
}

/// Why a request takes no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nowhere {
    /// No operation has this path and method.
    Unknown,
    /// The path goes on below a collection where no operation is, like one with a `/` in an identifier that is not
    /// percent-encoded. At AWS such a request does not get past the gateway.
    BelowCollection,
    /// A part of the path is not UTF-8 after decoding.
    Undecodable,
}

/// Finds the route of a request; `path` is the path as it was sent.
///
/// # Errors
/// [`Nowhere`]
pub(super) fn find(method: &Method, path: &str) -> Result<Found, Nowhere> {
    let mut seen = false;
    for route in &ROUTES {
        let Some(members) = members(route.path, path) else { continue };
        seen = true;
        if route.method != *method {
            continue;
        }
        let decoded = members.into_iter().map(|(name, raw)| {
            let text = percent_decode_str(raw).decode_utf8().map_err(|_| Nowhere::Undecodable)?;
            Ok((name, text.into_owned()))
        });
        return Ok(Found { route, path: decoded.collect::<Result<_, _>>()? });
    }
    let below = |route: &Route| {
        let collection = route.path.split("/{").next().unwrap_or_default();
        path.strip_prefix(collection).is_some_and(|rest| rest.starts_with('/') && rest.len() > 1)
    };
    if !seen && ROUTES.iter().any(below) { Err(Nowhere::BelowCollection) } else { Err(Nowhere::Unknown) }
}

/// The members in a path, still encoded, if the path fits the template. A member is not empty.
fn members<'p>(template: &'static str, path: &'p str) -> Option<Vec<(&'static str, &'p str)>> {
    let mut members = Vec::new();
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(members),
            (Some(wanted), Some(given)) => {
                match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                    Some(name) if !given.is_empty() => members.push((name, given)),
                    None if wanted == given => {}
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
}

fn perform<'a, R>(
    service: &'a Service,
    incoming: &'a Incoming,
    message: DynamicMessage,
    unknown: Vec<String>,
) -> Answering<'a>
where
    R: Handler + Request + 'static,
    R::Response: prost::Name,
{
    Box::pin(async move {
        let request: R = message.transcode_to().map_err(|error| {
            ServiceError::internal(format!("{} cannot be made from JSON: {error}", R::MESSAGE))
        })?;
        let response = service.call_named(incoming, request, &unknown).await?;
        response::written(&response)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members of a path: names and values.
    type Members = Vec<(&'static str, String)>;

    fn found(method: Method, path: &str) -> Result<(Operation, Members), Nowhere> {
        find(&method, path).map(|found| (found.route.operation, found.path))
    }

    #[test]
    fn members_of_the_path_are_decoded() {
        let arn = "arn:aws:lambda:us-east-1:111122223333:microvm-image:demo";
        for encoded in [arn.to_owned(), arn.replace(':', "%3A"), arn.replace(':', "%3a")] {
            let path = format!("/2025-09-09/microvm-images/{encoded}/versions/1.0");
            let members = vec![("imageIdentifier", arn.to_owned()), ("imageVersion", "1.0".to_owned())];
            assert_eq!(found(Method::PATCH, &path), Ok((Operation::UpdateMicrovmImageVersion, members)));
        }
        let (operation, members) = found(Method::GET, "/2017-03-31/tags/a%2Fb%20c").unwrap();
        assert_eq!((operation, members), (Operation::ListTags, vec![("Resource", "a/b c".to_owned())]));
    }

    #[test]
    fn what_is_no_route_is_told_apart() {
        for (method, path, why) in [
            (Method::GET, "/", Nowhere::Unknown),
            (Method::GET, "/2025-09-09/functions", Nowhere::Unknown),
            (Method::PATCH, "/2025-09-09/microvms", Nowhere::Unknown),
            (Method::GET, "/2025-09-09/microvms/", Nowhere::Unknown),
            (Method::POST, "/2025-09-09/microvms//suspend", Nowhere::BelowCollection),
            (Method::GET, "/2025-09-09/microvm-images/arn:x:microvm-image/demo", Nowhere::BelowCollection),
            (Method::GET, "/2017-03-31/tags/a/b", Nowhere::BelowCollection),
            (Method::GET, "/2017-03-31/tags/%ff", Nowhere::Undecodable),
        ] {
            assert_eq!(found(method.clone(), path).unwrap_err(), why, "{method} {path}");
        }
    }
}
