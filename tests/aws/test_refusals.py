"""Refused signatures: each protocol's clients find the name of the exception and its sentence."""

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from conftest import REGION, STANDS

# The name of the exception for a key that is unknown, a wrong secret and another region.
SERVICES = {
    "lambda-microvms": ("UnrecognizedClientException", "InvalidSignatureException", "InvalidSignatureException"),
    "logs": ("UnrecognizedClientException", "InvalidSignatureException", "InvalidSignatureException"),
    "sts": ("InvalidClientTokenId", "SignatureDoesNotMatch", "SignatureDoesNotMatch"),
    "s3": ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"),
}
CALLS = {
    "lambda-microvms": lambda client: client.list_microvms(),
    "logs": lambda client: client.describe_log_groups(),
    "sts": lambda client: client.get_caller_identity(),
    "s3": lambda client: client.list_objects_v2(Bucket="hearth-local"),
}


def refused(service, key, secret, region):
    client = boto3.client(
        service,
        endpoint_url=STANDS["default"],
        region_name=region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, inject_host_prefix=False),
    )
    with pytest.raises(ClientError) as raised:
        CALLS[service](client)
    return raised.value.response["Error"]


@pytest.mark.parametrize("service", SERVICES)
def test_refused_signatures_have_names_and_sentences(service):
    key = STANDS["keys"]["everything"]
    unknown, mismatch, region = SERVICES[service]
    error = refused(service, "AKUNKNOWN", key["secret"], REGION)
    assert error["Code"] == unknown and "invalid" in error["Message"], error
    assert refused(service, key["id"], "wrong" * 5, REGION)["Code"] == mismatch
    error = refused(service, key["id"], key["secret"], "eu-west-1")
    assert error["Code"] == region and f"The region of this host is '{REGION}'" in error["Message"], error


@pytest.mark.parametrize("service", SERVICES)
def test_a_signature_that_cannot_be_read_is_refused_in_the_same_way(service):
    key = STANDS["keys"]["everything"]
    client = boto3.client(
        service,
        endpoint_url=STANDS["default"],
        region_name=REGION,
        aws_access_key_id=key["id"],
        aws_secret_access_key=key["secret"],
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, inject_host_prefix=False),
    )

    def spoil(request, **_):
        header = request.headers["Authorization"]
        header = header.decode() if isinstance(header, bytes) else header
        del request.headers["Authorization"]
        request.headers["Authorization"] = header.replace("SignedHeaders=", "Signed=")

    client.meta.events.register("before-send.*", spoil)
    with pytest.raises(ClientError) as raised:
        CALLS[service](client)
    assert raised.value.response["Error"]["Code"] in (
        "IncompleteSignatureException", "IncompleteSignature", "AuthorizationHeaderMalformed"
    )
