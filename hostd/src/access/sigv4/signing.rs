//! Signing keys: what a secret becomes for a day, a region and a service. Signatures are made with it, never with the secret.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use hearth_host::roles::Secret;
use ring::digest::SHA256_OUTPUT_LEN;
use ring::hmac;
use zeroize::Zeroizing;

use super::TERMINATOR;
use super::claim::Claim;
use crate::panics::poisoned;

/// A signing key. It is overwritten with zeros when it is dropped.
pub(super) struct SigningKey {
    /// The day: `20150830`.
    date: String,
    region: String,
    key: Zeroizing<[u8; SHA256_OUTPUT_LEN]>,
}

impl SigningKey {
    /// Derives the key for the scope of a claim.
    pub(super) fn derive(secret: &Secret, claim: &Claim) -> Self {
        let Claim { date, region, service, .. } = claim;
        let secret = Zeroizing::new([b"AWS4".as_slice(), secret.expose().as_bytes()].concat());
        let key = [region.as_str(), service, TERMINATOR]
            .iter()
            .fold(mac(&secret, date), |key, text| mac(key.as_slice(), text));
        Self { date: date.clone(), region: region.clone(), key }
    }

    /// The signature of a text.
    pub(super) fn sign(&self, text: &str) -> [u8; SHA256_OUTPUT_LEN] {
        *mac(self.key.as_slice(), text)
    }

    fn is_of(&self, claim: &Claim) -> bool {
        self.date == claim.date && self.region == claim.region
    }
}

fn mac(key: &[u8], text: &str) -> Zeroizing<[u8; SHA256_OUTPUT_LEN]> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let mut bytes = Zeroizing::new([0; SHA256_OUTPUT_LEN]);
    bytes.iter_mut().zip(tag.as_ref()).for_each(|(byte, of_tag)| *byte = *of_tag);
    bytes
}

/// The signing keys of an access key with which a valid signature was made last, one for each service: a client signs with the same
/// one for a day, so that it need not be derived for each request.
#[derive(Default)]
pub(in crate::access) struct SigningKeys(Mutex<BTreeMap<String, Arc<SigningKey>>>);

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeys").finish_non_exhaustive()
    }
}

impl SigningKeys {
    /// The key for the scope of a claim, if it is the last one of its service.
    pub(super) fn last(&self, claim: &Claim) -> Option<Arc<SigningKey>> {
        let keys = self.0.lock().unwrap_or_else(poisoned);
        keys.get(&claim.service).filter(|key| key.is_of(claim)).map(Arc::clone)
    }

    /// Keeps the key for the scope of a claim whose signature is valid. The host has few services, so that there are few keys.
    pub(super) fn keep(&self, claim: &Claim, key: &Arc<SigningKey>) {
        self.0.lock().unwrap_or_else(poisoned).insert(claim.service.clone(), Arc::clone(key));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::SignatureError;
    use super::super::tests::{Signed, Signer, access, key_of};

    /// 30 August 2015, 12:36:00 UTC, and a day later.
    const TIMES: [u64; 2] = [1_440_938_160, 1_441_024_560];

    fn signed(service: &str, secret: &str, seconds: u64) -> Signed {
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        Signer { service, secret, time, ..Signer::default() }.sign("GET", "/", &[], b"")
    }

    #[test]
    fn a_key_is_used_for_its_day_and_its_service_alone() {
        let access = access();
        let secret = Signer::default().secret;
        for (service, seconds) in [
            ("lambda", TIMES[0]),
            ("lambda", TIMES[0]),
            ("logs", TIMES[0]),
            ("lambda", TIMES[1]),
            ("logs", TIMES[0]),
            ("lambda", TIMES[0]),
        ] {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            signed(service, secret, seconds).verified_by(&access, now, false).unwrap();
            let wrong = signed(service, "another", seconds).verified_by(&access, now, false);
            assert_eq!(wrong.unwrap_err(), SignatureError::Mismatch);
        }
    }

    #[test]
    fn one_key_of_a_service_is_kept_and_only_for_a_valid_signature() {
        let access = access();
        let kept =
            || key_of(&access).0.lock().unwrap().values().map(|key| key.date.clone()).collect::<Vec<_>>();
        let secret = Signer::default().secret;
        for (secret, seconds, expected) in [
            ("another", TIMES[0], None),
            (secret, TIMES[0], Some("20150830")),
            ("another", TIMES[1], Some("20150830")),
            (secret, TIMES[1], Some("20150831")),
        ] {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            let _ = signed("lambda", secret, seconds).verified_by(&access, now, false); // what it says is tested above
            assert_eq!(kept(), Vec::from_iter(expected));
        }
    }
}
