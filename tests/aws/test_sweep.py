"""A sweep that is made from botocore's model: for each constraint of a request, a value just inside and one just outside.

What is outside has to be refused by its name and in AWS's words; what is inside must not be refused for that member. Differences that
docs/aws.md states are in DIFFERENCES.
"""

import copy
import re

import pytest
from botocore.exceptions import ClientError

from conftest import BASE, ROLE, Stand

PROFILES = ["default", "strict"]
# What has another bound than in the model: the greatest value that is accepted.
DIFFERENCES = {
    ("default", "runHookPayload"): 16384,
    ("default", "environmentVariables"): 50,
    ("strict", "environmentVariables"): 50,
}
ARN = "arn:aws:lambda:us-east-1:123456789012:microvm-image:sweep"
# Members that are needed for a request to be whole.
WHOLE = {
    "imageIdentifier": ARN,
    "microvmIdentifier": "microvm-1",
    "imageVersion": "1.0",
    "buildId": "b",
    "baseImageArn": BASE,
    "buildRoleArn": ROLE,
    "codeArtifact": {"uri": "s3://bucket/key"},
    "name": "sweep",
    "expirationInMinutes": 5,
    "allowedPorts": [{"port": 1}],
    "status": "ACTIVE",
    "Resource": ARN,
    "Tags": {"a": "b"},
    "TagKeys": ["a"],
    "minimumMemoryInMiB": 512,
    "architecture": "ARM_64",
    "maxIdleDurationSeconds": 60,
    "suspendedDurationSeconds": 0,
    "autoResumeEnabled": True,
    "startPort": 1,
    "endPort": 2,
}


def text(shape, length):
    """A text of this length that the shape's pattern accepts."""
    pattern = shape.metadata.get("pattern", "")
    if pattern.startswith("arn:aws[a-z\\-]*:iam"):
        return (ROLE + "a" * length)[:length]
    if pattern.startswith("arn:(aws"):
        return (ARN + "a" * length)[:length]
    return "a" * length


def cases(shape):
    """Values of a shape: (value, whether it is inside, its size)."""
    bounds = shape.metadata
    low, high = bounds.get("min"), bounds.get("max")
    if shape.type_name == "string" and shape.enum:
        yield shape.enum[0], True, None
        yield "NO_SUCH_VALUE", False, None
    elif shape.type_name == "string":
        pattern = bounds.get("pattern", "")
        least = len(ROLE) if "iam" in pattern else len(ARN) if pattern.startswith("arn:(aws") else low
        if low is not None:
            yield text(shape, max(low, least)), True, max(low, least)
            if low > 0:
                yield text(shape, low - 1), False, low - 1
        if high is not None:
            yield text(shape, high), True, high
            yield text(shape, high + 1), False, high + 1
        if pattern and not re.fullmatch(pattern.replace(r"\p{L}\p{Z}\p{N}", r"\w\s"), "a\t#*:b"):
            yield "a\t#*:b", False, None
    elif shape.type_name in ("integer", "long"):
        if low is not None:
            yield low, True, low
            yield low - 1, False, low - 1
        if high is not None:
            yield high, True, high
            yield high + 1, False, high + 1
    elif shape.type_name == "list":
        element = next((value for value, inside, _ in cases(shape.member) if inside), None)
        element = structure(shape.member) if shape.member.type_name == "structure" else element if element is not None else "a"
        if high is not None:
            yield [element] * high, True, high
            yield [element] * (high + 1), False, high + 1
        if shape.member.type_name == "string":
            for value, inside, _ in cases(shape.member):
                yield [value], inside, None
    elif shape.type_name == "map":
        if high is not None:
            for count, inside in [(high, True), (high + 1, False)]:
                yield {f"k{number}": "v" for number in range(count)}, inside, count
        for part, wrap in [(shape.key, lambda value: {value: "v"}), (shape.value, lambda value: {"k": value})]:
            for value, inside, _ in cases(part):
                yield wrap(value), inside, None


def structure(shape):
    """The smallest whole structure."""
    if getattr(shape, "is_tagged_union", False):
        member = next(iter(shape.members))
        return {member: WHOLE.get(member, 1)}
    return {member: WHOLE[member] for member in shape.required_members}


def paths(shape, prefix=()):
    """Every member of a request, with its path."""
    for member, inner in shape.members.items():
        yield (*prefix, member), inner
        if inner.type_name == "structure":
            yield from paths(inner, (*prefix, member))
        if inner.type_name == "list" and inner.member.type_name == "structure":
            yield from paths(inner.member, (*prefix, member, 0))


def with_value(request, shape, path, value):
    """The request with a value at a path; structures on the way are made whole."""
    request, at = copy.deepcopy(request), None
    at, inner = request, shape
    for index, part in enumerate(path[:-1]):
        if isinstance(part, int):
            at, inner = at[part], inner.member
            continue
        inner = inner.members[part]
        following = path[index + 1]
        whole = structure(inner.member if isinstance(following, int) else inner)
        union = getattr(inner.member if isinstance(following, int) else inner, "is_tagged_union", False)
        at[part] = [{} if union else whole] if isinstance(following, int) else ({} if union else whole)
        at = at[part]
    at[path[-1]] = value
    return request


def shown(path):
    """A path as it stands in messages."""
    parts = [f"{part + 1}.member" if isinstance(part, int) else part for part in path]
    return ".".join(parts)


def collect():
    client = Stand("default").client
    model = client.meta.service_model
    for operation in model.operation_names:
        shape = model.operation_model(operation).input_shape
        for path, inner in paths(shape):
            for number, (value, inside, size) in enumerate(cases(inner)):
                yield operation, path, value, inside, size


CASES = list(collect())


def refusal(client, operation, request):
    """The message of a violation, if there is one."""
    from botocore import xform_name

    try:
        getattr(client, xform_name(operation))(**request)
    except ClientError as error:
        message = error.response["Error"]["Message"] or ""
        return message if "validation error" in message else ""
    return ""


@pytest.mark.parametrize("profile", PROFILES)
def test_sweep(profile):
    # An account without images, so that requests that are whole find nothing.
    client = Stand(profile, "third", parameter_validation=False).client
    model = client.meta.service_model
    wrong, swept = [], 0
    for operation, path, value, inside, size in CASES:
        shape = model.operation_model(operation).input_shape
        member = path[-1]
        # An empty identifier in a path leaves no path to the operation.
        if member in ("imageIdentifier", "microvmIdentifier", "Resource", "imageVersion", "buildId") and value == "":
            continue
        # Identifiers of other forms are refused with a sentence of their own.
        if member == "Resource" and not inside and size is None:
            continue
        bound = DIFFERENCES.get((profile, member))
        if bound is not None and size is not None:
            inside = size <= bound
        whole = {name: WHOLE[name] for name in shape.required_members}
        request = with_value(whole, shape, path, value)
        message = refusal(client, operation, request)
        named = f"'{shown(path)}' failed to satisfy constraint: " in message
        if named == inside:
            wrong.append((operation, shown(path), str(value)[:60], size, inside, message[:300]))
        swept += 1
    assert wrong == []
    assert swept > 250


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_required(profile):
    """Each required member that is no part of the path, left out."""
    client = Stand(profile, "third", parameter_validation=False).client
    model = client.meta.service_model
    seen = 0
    for operation in model.operation_names:
        shape = model.operation_model(operation).input_shape
        if shape is None:
            continue
        whole = {name: WHOLE[name] for name in shape.required_members}
        for member in shape.required_members:
            if shape.members[member].serialization.get("location") == "uri":
                continue
            message = refusal(client, operation, {name: value for name, value in whole.items() if name != member})
            assert f"Value null at '{member}' failed to satisfy constraint: Member must not be null" in message, (operation, member)
            seen += 1
    assert seen > 10
