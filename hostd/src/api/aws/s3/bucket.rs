//! The operations of S3 on the local bucket.

use async_trait::async_trait;
use hearth_proto::host::v1 as proto;
use hyper::StatusCode;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, BucketLocationConstraint, CommonPrefix,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, ETag, ETagCondition,
    GetBucketLocationInput, GetBucketLocationOutput, GetObjectInput, GetObjectOutput, HeadBucketInput,
    HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput,
    ListObjectsV2Input, ListObjectsV2Output, Owner, PutObjectInput, PutObjectOutput, Timestamp,
    UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::error;
use super::members::{
    Bounds, Kept, about, blob, bounds, checksums, condition, data, described, encoding, has_grants,
    is_private, kept, output, own_coding, refuse, refuse_unkept,
};
use super::verify::Checksums;
use crate::service::Service;
use crate::service::host::artifacts::key::Key;
use crate::service::host::artifacts::multipart::PartName;
use crate::service::host::artifacts::object::Download;
use crate::service::host::objects::{Put, PutObject, PutStep};
use crate::service::pipeline::{Handler, Incoming};

/// Most keys of a page.
const PAGE: i32 = 1000;

/// The bucket, for the caller of one request.
pub(super) struct Bucket {
    service: Service,
    incoming: Incoming,
}

impl Bucket {
    pub(super) fn new(service: Service, incoming: Incoming) -> Self {
        Self { service, incoming }
    }

    /// Performs an operation.
    async fn perform<H: Handler>(&self, request: H) -> S3Result<H::Response> {
        self.service.call(&self.incoming, request).await.map_err(|error| error::of(&error))
    }

    async fn put(&self, key: &str, step: PutStep) -> S3Result<Put> {
        if matches!(step, PutStep::Whole { .. } | PutStep::Begin(_)) {
            // Before anything of the artifact is received.
            let checked = Key::new(key).and_then(|key| key.check_new());
            checked.map_err(|error| error::of(&error.into()))?;
        }
        self.perform(PutObject::new(key, step)).await
    }

    fn bucket(&self) -> &str {
        self.service.parts().host.artifacts.bucket()
    }

    /// Checks that the bucket is the one that is there.
    fn check(&self, bucket: &str) -> S3Result<()> {
        match bucket == self.bucket() {
            true => Ok(()),
            false => Err(s3_error!(
                NoSuchBucket,
                "The specified bucket does not exist: this host has {} only",
                self.bucket()
            )),
        }
    }

    /// Checks that the bucket is there and that its artifacts may be listed.
    async fn check_listing(&self, bucket: &str) -> S3Result<()> {
        self.check(bucket)?;
        self.perform(proto::ListArtifactsRequest { max_results: Some(1), ..Default::default() }).await?;
        Ok(())
    }

    /// Refuses an upload that is announced as too large, or for which there is no room, before anything of it is received.
    fn check_length(&self, length: Option<i64>) -> S3Result<()> {
        let artifacts = &self.service.parts().host.artifacts;
        let max = artifacts.max_bytes();
        let length = length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default();
        if length > max {
            return Err(s3_error!(EntityTooLarge, "The artifact has more than {max} bytes"));
        }
        match &self.incoming.caller {
            Ok(caller) => artifacts.admit(&caller.account, length).map_err(|error| error::of(&error)),
            // The operation refuses it.
            Err(_) => Ok(()),
        }
    }

    /// Opens an artifact, under the conditions of the request.
    async fn open(
        &self,
        bucket: &str,
        key: String,
        if_match: Option<&ETagCondition>,
        if_none_match: Option<&ETagCondition>,
    ) -> S3Result<Download> {
        self.check(bucket)?;
        let object = self.perform(proto::GetArtifactRequest { key: Some(key) }).await?;
        let is = |condition: &ETagCondition| match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(etag) => etag.value() == object.about.etag,
        };
        if if_match.is_some_and(|condition| !is(condition)) {
            return Err(S3ErrorCode::PreconditionFailed.into());
        }
        if if_none_match.is_some_and(is) {
            let mut error = S3Error::new(S3ErrorCode::NotModified);
            error.set_status_code(StatusCode::NOT_MODIFIED);
            return Err(error);
        }
        Ok(object)
    }
}

#[async_trait]
impl S3 for Bucket {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        self.check_listing(self.bucket()).await?;
        let bucket = s3s::dto::Bucket {
            name: Some(self.bucket().to_owned()),
            bucket_region: Some(self.service.config().region.clone()),
            creation_date: Some(Timestamp::from(std::time::UNIX_EPOCH)),
        };
        let account = self.incoming.caller.as_ref().ok().map(|caller| caller.account.clone());
        let owner = Owner { id: account, display_name: None };
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(vec![bucket]),
            owner: Some(owner),
            ..Default::default()
        }))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check_listing(&request.input.bucket).await?;
        let bucket_region = Some(self.service.config().region.clone());
        Ok(S3Response::new(HeadBucketOutput { bucket_region, ..Default::default() }))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.check_listing(&request.input.bucket).await?;
        let region = self.service.config().region.clone();
        // As AWS has it, this Region has no name here.
        let location_constraint = (region != "us-east-1").then(|| BucketLocationConstraint::from(region));
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.check(&input.bucket)?;
        let encode = encoding(input.encoding_type.as_ref())?;
        let max_keys = input.max_keys.unwrap_or(PAGE).clamp(0, PAGE);
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let wanted = proto::ListArtifactsRequest {
            prefix: given(&input.prefix),
            delimiter: given(&input.delimiter),
            start_after: given(&input.start_after),
            max_results: Some(max_keys.max(1)),
            next_token: input.continuation_token.clone(),
        };
        let mut found = self.perform(wanted).await?;
        if max_keys == 0 {
            found = proto::ListArtifactsResponse::default();
        }
        let object = |artifact: proto::Artifact| s3s::dto::Object {
            key: Some(encode(artifact.key)),
            e_tag: Some(ETag::Strong(artifact.etag)),
            size: Some(artifact.bytes),
            last_modified: artifact.modified_at.as_ref().map(|time| crate::clock::time(time).into()),
            storage_class: Some(s3s::dto::ObjectStorageClass::from_static("STANDARD")),
            ..Default::default()
        };
        let count = found.items.len().saturating_add(found.common_prefixes.len());
        let contents: Vec<_> = found.items.into_iter().map(object).collect();
        let prefix = |prefix| CommonPrefix { prefix: Some(encode(prefix)) };
        let prefixes: Vec<_> = found.common_prefixes.into_iter().map(prefix).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(encode(input.prefix.unwrap_or_default())),
            delimiter: input.delimiter.map(encode),
            start_after: input.start_after.map(encode),
            encoding_type: input.encoding_type,
            continuation_token: input.continuation_token,
            max_keys: Some(max_keys),
            key_count: i32::try_from(count).ok(),
            is_truncated: Some(found.next_token.is_some()),
            next_continuation_token: found.next_token,
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        refuse([
            (input.version_id.is_some(), "versionId"),
            (input.part_number.is_some(), "partNumber"),
            (input.sse_customer_key.is_some(), "server-side encryption"),
        ])?;
        let (if_match, if_none_match) = (input.if_match.as_ref(), input.if_none_match.as_ref());
        let object = self.open(&input.bucket, input.key, if_match, if_none_match).await?;
        let (Bounds { length, content_range, .. }, status) = bounds(input.range.as_ref(), object.bytes)?;
        let output = output!(HeadObjectOutput, object, length, content_range, {});
        Ok(S3Response { status, ..S3Response::new(output) })
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        refuse([
            (input.version_id.is_some(), "versionId"),
            (input.part_number.is_some(), "partNumber"),
            (input.sse_customer_key.is_some(), "server-side encryption"),
        ])?;
        let (if_match, if_none_match) = (input.if_match.as_ref(), input.if_none_match.as_ref());
        let object = self.open(&input.bucket, input.key, if_match, if_none_match).await?;
        let (Bounds { offset, length, content_range }, status) = bounds(input.range.as_ref(), object.bytes)?;
        let output = output!(GetObjectOutput, object, length, content_range, { body: Some(blob(object.read(offset, length))), });
        Ok(S3Response { status, ..S3Response::new(output) })
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let S3Request { input, headers, trailing_headers, .. } = request;
        self.check(&input.bucket)?;
        refuse_unkept!(input, headers)?;
        refuse([(input.write_offset_bytes.is_some(), "x-amz-write-offset-bytes")])?;
        self.check_length(input.content_length)?;
        let expected = checksums!(input);
        let verify = Checksums::of(&headers, trailing_headers, expected, input.content_md5)?;
        let about = described!(input);
        let condition = condition(input.if_match, input.if_none_match)?;
        let data = data(input.body);
        match self.put(&input.key, PutStep::Whole { about, data, verify, condition }).await? {
            Put::Stored { stored, .. } => Ok(S3Response::new(PutObjectOutput {
                e_tag: Some(ETag::Strong(stored.etag)),
                ..Default::default()
            })),
            _ => Err(S3ErrorCode::InternalError.into()),
        }
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let S3Request { input, headers, .. } = request;
        self.check(&input.bucket)?;
        refuse_unkept!(input, headers)?;
        let about = described!(input);
        match self.put(&input.key, PutStep::Begin(about)).await? {
            Put::Begun(id) => Ok(S3Response::new(CreateMultipartUploadOutput {
                bucket: Some(input.bucket),
                key: Some(input.key),
                upload_id: Some(id.to_string()),
                ..Default::default()
            })),
            _ => Err(S3ErrorCode::InternalError.into()),
        }
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let S3Request { input, headers, trailing_headers, .. } = request;
        self.check(&input.bucket)?;
        refuse([(input.sse_customer_key.is_some(), "server-side encryption")])?;
        self.check_length(input.content_length)?;
        let expected = checksums!(input);
        let step = PutStep::Part {
            upload: input.upload_id,
            number: u32::try_from(input.part_number).unwrap_or_default(),
            data: data(input.body),
            verify: Checksums::of(&headers, trailing_headers, expected, input.content_md5)?,
        };
        match self.put(&input.key, step).await? {
            Put::Part(part) => Ok(S3Response::new(UploadPartOutput {
                e_tag: Some(ETag::Strong(part.etag)),
                ..Default::default()
            })),
            _ => Err(S3ErrorCode::InternalError.into()),
        }
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let S3Request { input, headers, .. } = request;
        self.check(&input.bucket)?;
        let expected = checksums!(input);
        let is_composite = expected.iter().flatten().any(|checksum| checksum.contains('-'));
        refuse([
            (is_composite, "a checksum of checksums (COMPOSITE)"),
            (input.sse_customer_key.is_some(), "server-side encryption"),
        ])?;
        let verify = Checksums::of(&headers, None, expected, None)?;
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let part = |part: s3s::dto::CompletedPart| {
            let number = part.part_number.and_then(|number| u32::try_from(number).ok());
            let name =
                number.zip(part.e_tag).map(|(number, etag)| PartName { number, etag: etag.into_value() });
            name.ok_or_else(|| s3_error!(MalformedXML, "Each part needs PartNumber and ETag"))
        };
        let step = PutStep::Complete {
            upload: input.upload_id,
            parts: parts.into_iter().map(part).collect::<S3Result<_>>()?,
            verify,
            condition: condition(input.if_match, input.if_none_match)?,
        };
        match self.put(&input.key, step).await? {
            Put::Stored { stored, uri } => Ok(S3Response::new(CompleteMultipartUploadOutput {
                bucket: Some(input.bucket),
                key: Some(input.key),
                location: Some(uri),
                e_tag: Some(ETag::Strong(stored.etag)),
                ..Default::default()
            })),
            _ => Err(S3ErrorCode::InternalError.into()),
        }
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        self.check(&input.bucket)?;
        self.put(&input.key, PutStep::Abort { upload: input.upload_id }).await?;
        Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), StatusCode::NO_CONTENT))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        self.check(&input.bucket)?;
        refuse([
            (input.version_id.is_some(), "versionId"),
            (input.if_match.is_some(), "If-Match"),
            (input.mfa.is_some(), "x-amz-mfa"),
        ])?;
        self.perform(proto::DeleteArtifactRequest { key: Some(input.key) }).await?;
        Ok(S3Response::with_status(DeleteObjectOutput::default(), StatusCode::NO_CONTENT))
    }
}
