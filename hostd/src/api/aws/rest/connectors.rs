//! The routes of `lambda-core`'s network connectors. This host has the connectors of AWS itself and makes no others, so
//! that these routes answer as AWS does where there is nothing.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Response};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::super::reply::{exception, json_response};

/// The collection.
const PATH: &str = "/2026-04-04/network-connectors";
/// Greatest length of a name in a message, in bytes: AWS's names of connectors have at most 140 characters.
const NAME_MAX: usize = 256;

/// The response for a request to a route of network connectors; none for other requests.
pub(super) fn answer(method: &Method, path: &str) -> Option<Response<Full<Bytes>>> {
    let rest = path.strip_prefix(PATH)?;
    match (method, rest) {
        (&Method::GET, "") => return Some(json_response(200, &json!({ "NetworkConnectors": [] }))),
        (&Method::POST, "") => {
            let message = "This host does not create network connectors: use those of the account aws, like INTERNET_EGRESS";
            let body = json!({ "Type": "User", "message": message });
            return Some(exception(400, "InvalidParameterValueException", &body));
        }
        _ => {}
    }
    let identifier = rest.strip_prefix('/').filter(|rest| !rest.is_empty())?;
    let identifier = match (identifier.strip_suffix("/versions"), identifier.contains('/')) {
        (Some(identifier), _) if *method == Method::GET && !identifier.contains('/') => identifier,
        (_, false) if [Method::GET, Method::PUT, Method::DELETE].contains(method) => identifier,
        _ => return None,
    };
    let name = percent_decode_str(identifier).decode_utf8_lossy();
    let name = name.get(..name.floor_char_boundary(NAME_MAX)).unwrap_or_default();
    let body = json!({ "Type": "User", "Message": format!("Network connector not found: {name}") });
    Some(exception(404, "ResourceNotFoundException", &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_there() {
        for (method, path, status) in [
            (Method::GET, "/2026-04-04/network-connectors", Some(200)),
            (Method::POST, "/2026-04-04/network-connectors", Some(400)),
            (Method::GET, "/2026-04-04/network-connectors/nc-1", Some(404)),
            (Method::PUT, "/2026-04-04/network-connectors/arn%3Ax", Some(404)),
            (Method::DELETE, "/2026-04-04/network-connectors/nc-1", Some(404)),
            (Method::GET, "/2026-04-04/network-connectors/nc-1/versions", Some(404)),
            (Method::PUT, "/2026-04-04/network-connectors/nc-1/versions", None),
            (Method::GET, "/2026-04-04/network-connectors/", None),
            (Method::GET, "/2026-04-04/network-connectorsx", None),
            (Method::GET, "/2025-09-09/microvms", None),
        ] {
            let answered = answer(&method, path).map(|response| response.status().as_u16());
            assert_eq!(answered, status, "{method} {path}");
        }
    }
}
