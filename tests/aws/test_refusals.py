"""Refused signatures: each protocol's clients find the name of the exception and its sentence."""

import pytest
from botocore.exceptions import ClientError
from conftest import REGION, client

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


def refused(service, **more):
    with pytest.raises(ClientError) as raised:
        CALLS[service](client(service, **more))
    return raised.value.response["Error"]


@pytest.mark.parametrize("service", SERVICES)
def test_refused_signatures_have_names_and_sentences(service):
    unknown, mismatch, region = SERVICES[service]
    error = refused(service, id="AKUNKNOWN")
    assert error["Code"] == unknown and "invalid" in error["Message"], error
    assert refused(service, secret="wrong" * 5)["Code"] == mismatch
    error = refused(service, region="eu-west-1")
    assert error["Code"] == region and f"The region of this host is '{REGION}'" in error["Message"], error


@pytest.mark.parametrize("service", SERVICES)
def test_a_signature_that_cannot_be_read_is_refused_in_the_same_way(service):
    spoiled = client(service)

    def spoil(request, **_):
        header = request.headers["Authorization"]
        header = header.decode() if isinstance(header, bytes) else header
        del request.headers["Authorization"]
        request.headers["Authorization"] = header.replace("SignedHeaders=", "Signed=")

    spoiled.meta.events.register("before-send.*", spoil)
    with pytest.raises(ClientError) as raised:
        CALLS[service](spoiled)
    assert raised.value.response["Error"]["Code"] in (
        "IncompleteSignatureException", "IncompleteSignature", "AuthorizationHeaderMalformed"
    )
