//! Checksums of uploads: those in headers, and those that follow a body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::Checksum;
use s3s::{S3Result, TrailingHeaders, s3_error};

use crate::service::host::artifacts::error::ArtifactError;
use crate::service::host::artifacts::upload::Verify;

/// The header that names the checksum that follows the body.
const TRAILER: &str = "x-amz-trailer";

/// The checksums that this host knows: name in messages, and in headers.
const KNOWN: [(&str, &str); 5] = [
    ("CRC32", "x-amz-checksum-crc32"),
    ("CRC32C", "x-amz-checksum-crc32c"),
    ("CRC64NVME", "x-amz-checksum-crc64nvme"),
    ("SHA1", "x-amz-checksum-sha1"),
    ("SHA256", "x-amz-checksum-sha256"),
];

/// The checksums of a body.
pub(super) struct Checksums {
    hasher: ChecksumHasher,
    md5: Option<(Md5, String)>,
    /// What the head says, in the order of [`KNOWN`].
    expected: [Option<String>; 5],
    /// Which of them follow the body.
    promised: [bool; 5],
    trailers: Option<TrailingHeaders>,
}

impl Checksums {
    /// The checksums that a request's head announces; none if it announces none. `expected` is in the order of [`KNOWN`].
    ///
    /// # Errors
    /// A checksum is of a kind that this host does not know.
    pub(super) fn of(
        headers: &HeaderMap,
        trailers: Option<TrailingHeaders>,
        expected: [Option<String>; 5],
        md5: Option<String>,
    ) -> S3Result<Option<Box<dyn Verify>>> {
        let mut promised = [false; 5];
        for value in headers.get_all(TRAILER) {
            for name in value.to_str().unwrap_or_default().split(',').map(str::trim) {
                let known = KNOWN.iter().position(|(_, header)| name.eq_ignore_ascii_case(header));
                match known.and_then(|index| promised.get_mut(index)) {
                    Some(promised) => *promised = true,
                    None => {
                        return Err(s3_error!(
                            NotImplemented,
                            "The trailer {name} is not supported by this host"
                        ));
                    }
                }
            }
        }
        let unknown = headers.keys().map(hyper::header::HeaderName::as_str).find(|name| {
            let of_value = name.strip_prefix("x-amz-checksum-");
            of_value.is_some_and(|name| !["algorithm", "type", "mode"].contains(&name))
                && !KNOWN.iter().any(|(_, known)| known == name)
        });
        if let Some(unknown) = unknown {
            return Err(s3_error!(NotImplemented, "The checksum {unknown} is not supported by this host"));
        }
        let [crc32, crc32c, crc64nvme, sha1, sha256] = &expected;
        let [trailing_crc32, trailing_crc32c, trailing_crc64nvme, trailing_sha1, trailing_sha256] = promised;
        let hasher = ChecksumHasher {
            crc32: wanted(crc32, trailing_crc32),
            crc32c: wanted(crc32c, trailing_crc32c),
            crc64nvme: wanted(crc64nvme, trailing_crc64nvme),
            sha1: wanted(sha1, trailing_sha1),
            sha256: wanted(sha256, trailing_sha256),
        };
        if md5.is_none() && expected.iter().all(Option::is_none) && !promised.contains(&true) {
            return Ok(None);
        }
        let md5 = md5.map(|expected| (Md5::new(), expected));
        Ok(Some(Box::new(Self { hasher, md5, expected, promised, trailers })))
    }
}

fn wanted<H: s3s::crypto::Checksum>(expected: &Option<String>, promised: bool) -> Option<H> {
    (expected.is_some() || promised).then(H::new)
}

impl Verify for Checksums {
    fn update(&mut self, data: &[u8]) {
        self.hasher.update(data);
        if let Some((md5, _)) = &mut self.md5 {
            md5.update(data);
        }
    }

    fn finish(self: Box<Self>) -> Result<(), ArtifactError> {
        if let Some((md5, expected)) = self.md5
            && STANDARD.encode(md5.finalize()) != expected
        {
            return Err(ArtifactError::Digest("Content-MD5"));
        }
        let trailers = self.trailers.and_then(|trailers| trailers.take()).unwrap_or_default();
        let Checksum {
            checksum_crc32,
            checksum_crc32c,
            checksum_crc64nvme,
            checksum_sha1,
            checksum_sha256,
            ..
        } = self.hasher.finalize();
        let computed = [checksum_crc32, checksum_crc32c, checksum_crc64nvme, checksum_sha1, checksum_sha256];
        let all = KNOWN.into_iter().zip(self.expected).zip(self.promised).zip(computed);
        for ((((name, header), expected), promised), computed) in all {
            let trailing = trailers.get(header).and_then(|value| value.to_str().ok());
            let fits = |given: &str| computed.as_deref() == Some(given);
            let is_wrong = expected.as_deref().is_some_and(|given| !fits(given))
                || (promised && !trailing.is_some_and(fits));
            if is_wrong {
                return Err(ArtifactError::Digest(name));
            }
        }
        Ok(())
    }
}
