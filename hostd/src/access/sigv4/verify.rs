//! The steps of the verification.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hearth_host::roles::Secret;
use hyper::http::request::Parts;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

use super::claim::Claim;
use super::error::SignatureError;
use super::signing::{SigningKey, SigningKeys};
use super::stamp::{Stamp, words};
use super::{ALGORITHM, S3, TERMINATOR, canonical};
use crate::access::{Access, AssumedRole, Caller, Principal, hex};

/// Greatest difference between the clocks of a client and this host.
const SKEW: Duration = Duration::from_secs(5 * 60);
/// What stands for the hash of a body that is not signed.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// Beginning of what stands for the hash of a body that is signed piece by piece.
const STREAMING: &str = "STREAMING-";
/// The services whose requests this host answers.
const SERVICES: &[&str] = &["lambda", "lambda-core", "logs", "sts", S3];

/// What signatures have to be scoped to.
#[derive(Debug, Clone)]
pub(in crate::access) struct Scope {
    pub(in crate::access) region: String,
    pub(in crate::access) services: &'static [&'static str],
}

impl Scope {
    pub(in crate::access) fn of(region: &str) -> Self {
        Self { region: region.to_owned(), services: SERVICES }
    }
}

/// A key that this host knows, and whose it is. Nothing proves yet that the request was signed with it.
#[derive(Clone)]
pub struct KnownKey {
    /// Name of the caller.
    name: String,
    secret: Secret,
    /// Signing keys that are kept; a session has none.
    signing: Option<Arc<SigningKeys>>,
    principal: Principal,
    role: Option<Arc<AssumedRole>>,
}

impl fmt::Debug for KnownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownKey").field("name", &self.name).finish_non_exhaustive()
    }
}

impl KnownKey {
    /// The secret with which requests have to be signed: for the S3 front end, which verifies by itself.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The owner of the key, as the caller of the call with this id. Only who has verified the signature may use it.
    #[must_use]
    pub fn caller(&self, request_id: String) -> Caller {
        Caller {
            account: self.principal.account.clone(),
            principal: self.name.clone(),
            policies: Arc::clone(&self.principal.policies),
            role: self.role.clone(),
            request_id,
        }
    }
}

impl Access {
    /// Checks everything that the head of a request tells: the scope, the time, the kind of signature, and that the key
    /// is known. Requests to S3 may sign their body in any way, since its front end verifies them.
    ///
    /// # Errors
    /// [`SignatureError`]
    pub fn known(&self, claim: &Claim, now: SystemTime) -> Result<KnownKey, SignatureError> {
        self.check_scope(claim)?;
        let key = self.key(claim, now)?;
        check_time(claim, now)?;
        let payload = claim.payload.as_deref().unwrap_or_default();
        if payload.starts_with(STREAMING) && claim.service != S3 {
            let payload = payload.chars().take(64).collect();
            return Err(SignatureError::Streaming { payload, service: claim.service.clone() });
        }
        Ok(key)
    }

    /// Checks the signature of a request, whose body is complete now. `tls` says whether the connection is encrypted.
    ///
    /// # Errors
    /// [`SignatureError`]
    pub fn verified(
        &self,
        key: &KnownKey,
        claim: &Claim,
        parts: &Parts,
        body: &[u8],
        tls: bool,
        request_id: String,
    ) -> Result<Caller, SignatureError> {
        check_signed_headers(claim, parts)?;
        let computed = hex(digest(&SHA256, body).as_ref());
        let payload = match claim.payload.as_deref() {
            None => computed.as_str(),
            Some(UNSIGNED) if tls => UNSIGNED,
            Some(UNSIGNED) => return Err(SignatureError::UnsignedBody),
            Some(given) if bool::from(given.as_bytes().ct_eq(computed.as_bytes())) => computed.as_str(),
            Some(_) => return Err(SignatureError::Body),
        };
        let request = canonical::request(claim, parts, payload)?;
        let kept = key.signing.as_deref().and_then(|keys| keys.last(claim));
        let is_kept = kept.is_some();
        let signing = kept.unwrap_or_else(|| Arc::new(SigningKey::derive(&key.secret, claim)));
        let expected = signature(&signing, claim, &request);
        if !bool::from(claim.signature.as_bytes().ct_eq(expected.as_bytes())) {
            return Err(SignatureError::Mismatch);
        }
        if let Some(keys) = key.signing.as_deref().filter(|_| !is_kept) {
            keys.keep(claim, &signing);
        }
        Ok(key.caller(request_id))
    }

    fn check_scope(&self, claim: &Claim) -> Result<(), SignatureError> {
        let Scope { region, services } = &self.scope;
        let shown = |text: &str| text.chars().take(64).collect::<String>();
        if !services.contains(&claim.service.as_str()) {
            let services: Vec<String> = services.iter().map(|service| format!("'{service}'")).collect();
            return Err(SignatureError::Service {
                given: shown(&claim.service),
                services: services.join(", "),
            });
        }
        if claim.region != *region {
            return Err(SignatureError::Region { given: shown(&claim.region), region: region.clone() });
        }
        if claim.date != claim.stamp.date() {
            return Err(SignatureError::Date {
                scope: shown(&claim.date),
                date: claim.stamp.date().to_owned(),
                stamp: claim.stamp.text.clone(),
            });
        }
        Ok(())
    }

    fn key(&self, claim: &Claim, now: SystemTime) -> Result<KnownKey, SignatureError> {
        let unknown = SignatureError::UnknownKey;
        let Some(token) = &claim.token else {
            let key = self.keys.get(&claim.access_key).ok_or(unknown)?;
            return Ok(KnownKey {
                name: claim.access_key.clone(),
                secret: key.secret.clone(),
                signing: Some(Arc::clone(&key.signing)),
                principal: key.principal.clone(),
                role: None,
            });
        };
        let sessions = self.sessions.as_ref().ok_or_else(|| unknown.clone())?;
        let session = sessions.open(token, now)?;
        let maker = self.keys.get(&session.maker).map(|key| &key.principal);
        // The account of a key may have been changed since.
        let maker = maker
            .filter(|maker| maker.account == session.account && session.access_key_id == claim.access_key);
        let principal = maker.ok_or_else(|| unknown.clone())?.clone();
        let policies = sessions.assumable(&session.account, &principal.policies, &session.role_arn);
        let role = AssumedRole {
            policies: policies.map_err(|_| unknown)?,
            role_arn: session.role_arn,
            session_name: session.session_name,
            access_key_id: session.access_key_id,
            maker: session.maker,
        };
        let name = AssumedRole::arn(&session.account, &role.role_arn, &role.session_name);
        let (secret, role) = (session.secret, Some(Arc::new(role)));
        Ok(KnownKey { name, secret, signing: None, principal, role })
    }
}

fn check_time(claim: &Claim, now: SystemTime) -> Result<(), SignatureError> {
    let stamp = &claim.stamp;
    let text = || stamp.text.clone();
    let at = |time: Option<SystemTime>| time.map(|time| Stamp::at(time).text).unwrap_or_default();
    if stamp.time.duration_since(now).is_ok_and(|ahead| ahead > SKEW) {
        let (latest, now) = (at(now.checked_add(SKEW)), at(Some(now)));
        return Err(SignatureError::NotYetCurrent { stamp: text(), latest, now, allowed: words(SKEW) });
    }
    let allowed = claim.expires.unwrap_or(SKEW);
    if now.duration_since(stamp.time).is_ok_and(|age| age > allowed) {
        let (earliest, now) = (at(now.checked_sub(allowed)), at(Some(now)));
        return Err(SignatureError::Expired { stamp: text(), earliest, now, allowed: words(allowed) });
    }
    Ok(())
}

/// What must be signed: the host, and every header `x-amz-…`. Clients leave `x-amz-user-agent` out of presigned URLs.
fn check_signed_headers(claim: &Claim, parts: &Parts) -> Result<(), SignatureError> {
    let is_signed = |name: &str| claim.signed_headers.split(';').any(|signed| signed == name);
    if !is_signed("host") {
        return Err(SignatureError::NotSigned("'Host' or ':authority'".to_owned()));
    }
    let names = parts.headers.keys().map(hyper::header::HeaderName::as_str);
    let exempt = |name: &str| claim.expires.is_some() && name == "x-amz-user-agent";
    let dated = claim.expires.is_some() || parts.headers.contains_key("x-amz-date") || is_signed("date");
    let mut unsigned = names.filter(|name| name.starts_with("x-amz-") && !is_signed(name) && !exempt(name));
    match unsigned.next() {
        Some(name) => Err(SignatureError::NotSigned(format!("'{name}'"))),
        None if !dated => Err(SignatureError::NotSigned("'date'".to_owned())),
        None => Ok(()),
    }
}

/// The signature of a canonical request, in hexadecimal.
fn signature(key: &SigningKey, claim: &Claim, request: &[u8]) -> String {
    let Claim { date, region, service, stamp, .. } = claim;
    let hash = hex(digest(&SHA256, request).as_ref());
    let text = format!("{ALGORITHM}\n{}\n{date}/{region}/{service}/{TERMINATOR}\n{hash}", stamp.text);
    hex(&key.sign(&text))
}
