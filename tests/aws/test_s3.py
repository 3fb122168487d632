"""S3 for artifacts: the bucket `hearth-local` of the stand `default`, whose artifacts have at most 64 MiB."""

import hashlib
import io
import os
import zipfile

import pytest
import urllib3
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from conftest import BASE, REGION, ROLE, client, name

BUCKET = "hearth-local"
MIB = 1 << 20


@pytest.fixture(scope="module")
def s3():
    return client("s3")


def code(call, **parameters):
    with pytest.raises(ClientError) as raised:
        call(**parameters)
    response = raised.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def keys(s3, **parameters):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, **parameters)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def app():
    """A zip that an image can be built from."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("Dockerfile", "FROM scratch\nCOPY app /\n")
        archive.writestr("app", "an app")
    return data.getvalue()


def test_an_object_is_put_read_and_removed(s3):
    put = s3.put_object(Bucket=BUCKET, Key="one/ä b.zip", Body=b"hello", ContentType="application/zip", Metadata={"who": "me"})
    assert put["ETag"] == '"5d41402abc4b2a76b9719d911017c592"'
    head = s3.head_object(Bucket=BUCKET, Key="one/ä b.zip")
    assert (head["ContentLength"], head["ContentType"], head["Metadata"]) == (5, "application/zip", {"who": "me"})
    assert s3.get_object(Bucket=BUCKET, Key="one/ä b.zip")["Body"].read() == b"hello"
    part = s3.get_object(Bucket=BUCKET, Key="one/ä b.zip", Range="bytes=1-3")
    assert (part["Body"].read(), part["ContentRange"]) == (b"ell", "bytes 1-3/5")
    assert keys(s3, Prefix="one/") == ["one/ä b.zip"]
    s3.delete_object(Bucket=BUCKET, Key="one/ä b.zip")
    assert code(s3.get_object, Bucket=BUCKET, Key="one/ä b.zip") == ("NoSuchKey", 404)
    assert code(s3.head_object, Bucket=BUCKET, Key="one/ä b.zip") == ("404", 404)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums(s3, algorithm):
    try:
        s3.put_object(Bucket=BUCKET, Key="sums", Body=b"hello", ChecksumAlgorithm=algorithm)
    except Exception as error:  # botocore computes some only with an extension that is not installed here
        if type(error).__name__ == "MissingDependencyException":
            return
        raise
    assert s3.get_object(Bucket=BUCKET, Key="sums")["Body"].read() == b"hello"
    s3.delete_object(Bucket=BUCKET, Key="sums")


def test_the_bucket(s3):
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == [BUCKET]
    assert s3.head_bucket(Bucket=BUCKET)["BucketRegion"] == REGION
    assert code(s3.head_bucket, Bucket="another") == ("404", 404)
    assert code(s3.create_bucket, Bucket="another") == ("NotImplemented", 501)
    assert code(s3.list_object_versions, Bucket=BUCKET) == ("NotImplemented", 501)
    assert code(s3.put_object, Bucket=BUCKET, Key="k", Body=b"x", ACL="public-read") == ("NotImplemented", 501)


def test_pages(s3):
    for number in range(7):
        s3.put_object(Bucket=BUCKET, Key=f"page/{number}/x", Body=b"x")
    everything = [f"page/{number}/x" for number in range(7)]
    for size in [1, 3, 50]:
        assert keys(s3, Prefix="page/", PaginationConfig={"PageSize": size}) == everything
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix="page/", Delimiter="/", PaginationConfig={"PageSize": size}
        )
        prefixes = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]
        assert prefixes == [f"page/{number}/" for number in range(7)]
    assert keys(s3, Prefix="page/", StartAfter="page/4/x") == everything[5:]


def test_an_upload_in_parts(s3):
    data = os.urandom(17 * MIB)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=2)
    s3.upload_fileobj(io.BytesIO(data), BUCKET, "big", Config=config)
    head = s3.head_object(Bucket=BUCKET, Key="big")
    assert head["ContentLength"] == len(data) and head["ETag"].endswith('-4"')
    back = io.BytesIO()
    s3.download_fileobj(BUCKET, "big", back, Config=config)
    assert hashlib.sha256(back.getvalue()).digest() == hashlib.sha256(data).digest()
    s3.delete_object(Bucket=BUCKET, Key="big")


def test_an_upload_that_is_given_up(s3):
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="given-up")["UploadId"]
    part = s3.upload_part(Bucket=BUCKET, Key="given-up", UploadId=upload, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"PartNumber": 2, "ETag": part["ETag"]}]}
    of = {"Bucket": BUCKET, "Key": "given-up", "UploadId": upload}
    assert code(s3.complete_multipart_upload, MultipartUpload=parts, **of) == ("InvalidPart", 400)
    s3.abort_multipart_upload(**of)
    assert code(s3.abort_multipart_upload, **of) == ("NoSuchUpload", 404)
    assert keys(s3, Prefix="given-up") == []


def test_what_is_too_large_is_refused(s3):
    assert code(s3.put_object, Bucket=BUCKET, Key="huge", Body=b"\0" * (64 * MIB + 1)) == ("EntityTooLarge", 400)


def test_conditions(s3):
    s3.put_object(Bucket=BUCKET, Key="once", Body=b"1", IfNoneMatch="*")
    assert code(s3.put_object, Bucket=BUCKET, Key="once", Body=b"2", IfNoneMatch="*") == ("PreconditionFailed", 412)
    s3.delete_object(Bucket=BUCKET, Key="once")


def test_presigned_urls(s3):
    s3.put_object(Bucket=BUCKET, Key="signed", Body=b"hello")
    v4 = client("s3", signature_version="s3v4")
    url = v4.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "signed"}, ExpiresIn=60)
    assert urllib3.request("GET", url).data == b"hello"
    changed = urllib3.request("GET", url.replace("signed?", "other?"))
    assert changed.status == 403 and b"SignatureDoesNotMatch" in changed.data
    s3.delete_object(Bucket=BUCKET, Key="signed")


def test_accounts_are_apart(s3):
    s3.put_object(Bucket=BUCKET, Key="private", Body=b"mine")
    other = client("s3", who="other")
    assert keys(other) == []
    assert code(other.get_object, Bucket=BUCKET, Key="private") == ("NoSuchKey", 404)
    other.put_object(Bucket=BUCKET, Key="private", Body=b"theirs")
    other.delete_object(Bucket=BUCKET, Key="private")
    assert s3.get_object(Bucket=BUCKET, Key="private")["Body"].read() == b"mine"
    s3.delete_object(Bucket=BUCKET, Key="private")
    assert code(client("s3", who="reader").put_object, Bucket=BUCKET, Key="k", Body=b"x") == ("AccessDenied", 403)


def test_wrong_secrets():
    wrong = client("s3", secret="wrong" * 5)
    assert code(wrong.get_object, Bucket=BUCKET, Key="k") == ("SignatureDoesNotMatch", 403)


def test_the_command_line_and_an_image(cli):
    data = app()
    (cli.folder / "app.zip").write_bytes(data)
    cli("s3", "cp", "app.zip", f"s3://{BUCKET}/cli/app.zip")
    assert "cli/" in cli("s3", "ls", f"s3://{BUCKET}")
    assert "app.zip" in cli("s3", "ls", f"s3://{BUCKET}/cli/")
    assert BUCKET in cli("s3", "ls")
    cli("s3", "cp", f"s3://{BUCKET}/cli/app.zip", "back.zip")
    assert (cli.folder / "back.zip").read_bytes() == data
    image = name("from-s3")
    created = cli(
        "lambda-microvms", "create-microvm-image", "--name", image, "--code-artifact", f"uri=s3://{BUCKET}/cli/app.zip",
        "--base-image-arn", BASE, "--build-role-arn", ROLE,
    )
    assert created["codeArtifact"]["uri"] == f"s3://{BUCKET}/cli/app.zip"
    (cli.folder / "folder").mkdir()
    for number in range(3):
        (cli.folder / "folder" / str(number)).write_text(str(number))
    cli("s3", "sync", "folder", f"s3://{BUCKET}/folder")
    cli("s3", "rm", "--recursive", f"s3://{BUCKET}/folder")
    assert keys(client("s3"), Prefix="folder") == []


def test_the_command_line_and_parts(cli):
    """More than 8 MiB go up in parts, and come down in ranges."""
    data = os.urandom(17 * MIB)
    (cli.folder / "big").write_bytes(data)
    cli("s3", "cp", "big", f"s3://{BUCKET}/cli/big")
    assert client("s3").head_object(Bucket=BUCKET, Key="cli/big")["ETag"].endswith('-3"')
    cli("s3", "cp", f"s3://{BUCKET}/cli/big", "back")
    assert (cli.folder / "back").read_bytes() == data
    cli("s3", "rm", f"s3://{BUCKET}/cli/big")
    assert "404" in cli.run(1, ["s3", "cp", f"s3://{BUCKET}/cli/big", "none"]).stderr


@pytest.mark.parametrize("algorithm", ["CRC32C", "CRC64NVME"])
def test_checksums_that_boto3_does_not_compute(cli2, algorithm):
    (cli2.folder / "file").write_bytes(b"hello")
    cli2("s3", "cp", "file", f"s3://{BUCKET}/cli/sum", "--checksum-algorithm", algorithm)
    cli2("s3", "cp", f"s3://{BUCKET}/cli/sum", "back")
    assert (cli2.folder / "back").read_bytes() == b"hello"
    cli2("s3", "rm", f"s3://{BUCKET}/cli/sum")
