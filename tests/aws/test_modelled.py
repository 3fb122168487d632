"""Every error that botocore's model has for an operation is provoked, or stands in NEVER with the reason why it cannot be.

The stand `troubled` has a store that fails for the account of the key `other`, an image `contended` that others are always faster to
change, launches that do not end, and small limits: three images, three versions of each, 4 GiB of memory. In the stand `throttled` each
operation can be called once a second.
"""

import time

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from conftest import Stand, name
from test_sweep import CASES, WHOLE, with_value

TAGS = ("ListTags", "TagResource", "UntagResource")
TOKENS = ("CreateMicrovmAuthToken", "CreateMicrovmShellAuthToken")
MANAGED = ("ListManagedMicrovmImages", "ListManagedMicrovmImageVersions")
SERVICE = Stand("default").client.meta.service_model
MODELLED = {
    (operation, error.name) for operation in SERVICE.operation_names for error in SERVICE.operation_model(operation).error_shapes
}

NEVER = {
    **{(operation, "ValidationException"): "it is InvalidParameterValueException for tags" for operation in TAGS},
    **{(operation, "ThrottlingException"): "it is TooManyRequestsException for tags" for operation in TAGS},
    **{(operation, "InternalServerException"): "it is ServiceException for tags" for operation in TAGS},
    **{(operation, "InternalServerException"): "base images are in memory, where no read fails" for operation in MANAGED},
    **{
        (operation, "ConflictException"): "tokens are for microVMs in every state but the last, which is ValidationException"
        for operation in TOKENS
    },
    ("ResumeMicrovm", "ConflictException"): "it has a meaning in every state but the last, which is ValidationException",
    ("TerminateMicrovm", "ConflictException"): "it has a meaning in every state, and none in the last",
    ("CreateMicrovmImage", "ResourceNotFoundException"): "a base image that is not there is ValidationException",
    ("ListMicrovms", "ResourceNotFoundException"): "an image that is not there has no microVMs",
}


def refused(stand, operation, members):
    """The response to a call that is refused; none if it succeeds."""
    try:
        getattr(stand.client, xform_name(operation))(**members)
    except ClientError as error:
        return error.response
    return None


def whole(operation, **members):
    """The members that the operation needs, those that are given with these values."""
    shape = SERVICE.operation_model(operation).input_shape
    return {name: members.get(name, WHOLE[name]) for name in shape.required_members}


def invalid(operation):
    """Members of which the model refuses one."""
    for other, path, value, inside, _ in CASES:
        # An empty text in a path leaves no path to the operation.
        if other == operation and not inside and value != "":
            return with_value(whole(operation), SERVICE.operation_model(operation).input_shape, path, value)
    raise AssertionError(f"the model refuses nothing of {operation}")


class Trouble:
    """The stand `troubled`, in which an image is built that fits into its limits, and one microVM is launched for ever."""

    def __init__(self):
        self.stand, self.third = Stand("troubled"), Stand("troubled", "third")
        self.contended = self.stand.arn("contended")
        self.plain = self.stand.image(resources=[{"minimumMemoryInMiB": 2048}])
        self.large = self.stand.image(resources=[{"minimumMemoryInMiB": 4096}])
        self.others = self.third.image(resources=[{"minimumMemoryInMiB": 4096}])
        self.microvm = self.stand.client.run_microvm(imageIdentifier=self.plain)["microvmId"]
        for version in ("2.0", "3.0"):
            members = whole("UpdateMicrovmImage", imageIdentifier=self.plain)
            assert self.stand.client.update_microvm_image(**members)["imageVersion"] == version
            self.stand.until("UPDATED", lambda: self.stand.client.get_microvm_image(imageIdentifier=self.plain)["state"])

    def conflict(self, operation):
        stand, members = self.stand, whole(operation, imageIdentifier=self.contended, Resource=self.contended)
        if operation == "CreateMicrovmImage":
            stand, members = self.third, whole(operation, name=name("contended"), buildRoleArn=self.third.role)
        if operation == "SuspendMicrovm":
            members = {"microvmIdentifier": self.microvm}
        return refused(stand, operation, members)

    def quota(self, operation):
        full = {"RunMicrovm": self.large, "UpdateMicrovmImage": self.plain}.get(operation)
        return refused(self.stand, operation, whole(operation, imageIdentifier=full, name=name()))

    def capacity(self, operation):
        return refused(self.third, operation, whole(operation, imageIdentifier=self.others))


@pytest.fixture(scope="module")
def trouble():
    return Trouble()


def throttled(operation):
    """Calls until the second call within a second."""
    stand, deadline = Stand("throttled"), time.monotonic() + 60
    while time.monotonic() < deadline:
        response = refused(stand, operation, whole(operation))
        if response is not None and response["Error"]["Message"] == "Rate exceeded":
            return response
    raise AssertionError("it is never refused for its rate")


@pytest.fixture(scope="module")
def provocations(stand, trouble):
    """For each error, what provokes it: a call of an operation, which returns the response."""
    arn = stand.image()
    there = {"imageIdentifier": arn, "Resource": arn, "microvmIdentifier": stand.running(arn)}
    gone = {"imageIdentifier": stand.arn("gone"), "Resource": stand.arn("gone")}
    nothing, loose, broken = Stand("default", "nothing"), Stand("default", parameter_validation=False), Stand("troubled", "other")
    unreadable = {"imageIdentifier": broken.arn("a"), "Resource": broken.arn("a"), "buildRoleArn": broken.role}

    def call(stand, members):
        return lambda operation: refused(stand, operation, members(operation))

    wrong = call(loose, invalid)
    fault = call(broken, lambda operation: whole(operation, **unreadable))
    return {
        "AccessDeniedException": call(nothing, lambda operation: whole(operation, **there)),
        "ResourceNotFoundException": call(stand, lambda operation: whole(operation, **gone)),
        "ValidationException": wrong,
        "InvalidParameterValueException": wrong,
        "ThrottlingException": throttled,
        "TooManyRequestsException": throttled,
        "InternalServerException": fault,
        "ServiceException": fault,
        "ConflictException": trouble.conflict,
        "ResourceConflictException": trouble.conflict,
        "ServiceQuotaExceededException": trouble.quota,
        "InsufficientCapacityException": trouble.capacity,
    }


def test_nothing_is_excused_that_the_model_does_not_have():
    assert set(NEVER) <= MODELLED


@pytest.mark.parametrize(("operation", "expected"), sorted(MODELLED - set(NEVER)))
def test_a_modelled_error(provocations, operation, expected):
    assert expected in provocations, f"nothing provokes {expected}: write what does, or a reason into NEVER"
    response = provocations[expected](operation)
    assert response is not None, "the call succeeds"
    shape = SERVICE.shape_for(expected)
    assert response["Error"]["Code"] == expected, response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == shape.metadata["error"]["httpStatusCode"]
    # boto3 puts the members of the model beside these.
    members = set(response) - {"Error", "ResponseMetadata"}
    assert set(shape.required_members) <= members <= set(shape.members), response


@pytest.mark.parametrize(
    ("operation", "sentence"),
    [
        ("RunMicrovm", "The base maximum allocated memory limit has been reached for this account."),
        ("CreateMicrovmImage", "You have exceeded the maximum number of MicroVM images in this account: 3"),
        ("UpdateMicrovmImage", "You have exceeded the maximum number of versions of a MicroVM image: 3"),
    ],
)
def test_the_sentences_of_quotas(trouble, operation, sentence):
    assert trouble.quota(operation)["Error"]["Message"] == sentence
