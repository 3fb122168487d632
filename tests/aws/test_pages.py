"""Every paginator, at one item on a page and at 50."""

import pytest

from conftest import BASE, Stand, name

COUNT = 5


@pytest.fixture(scope="module")
def full():
    """An account of its own, with several of everything."""
    stand = Stand("default", "other")
    images = [stand.arn(f"page-{number}") for number in range(COUNT)]
    for arn in images:
        stand.create(arn.rsplit(":", 1)[1])
        stand.until("CREATED", lambda: stand.client.get_microvm_image(imageIdentifier=arn)["state"])
    for _ in range(COUNT):
        stand.client.run_microvm(imageIdentifier=images[0])
    for number in range(COUNT - 1):
        stand.client.update_microvm_image(
            imageIdentifier=images[0], baseImageArn=BASE, buildRoleArn=stand.role, codeArtifact={"uri": "s3://bucket/a"}
        )
        stand.until("UPDATED", lambda: stand.client.get_microvm_image(imageIdentifier=images[0])["state"])
    return stand, images


def of(operation, images):
    return {
        "list_microvm_image_versions": {"imageIdentifier": images[0]},
        "list_microvm_image_builds": {"imageIdentifier": images[0], "imageVersion": "1.0"},
        "list_managed_microvm_image_versions": {"imageIdentifier": BASE},
    }.get(operation, {})


@pytest.mark.parametrize("size", [1, 50])
@pytest.mark.parametrize(
    ("operation", "count"),
    [
        ("list_microvms", COUNT),
        ("list_microvm_images", COUNT),
        ("list_microvm_image_versions", COUNT),
        ("list_microvm_image_builds", 1),
        ("list_managed_microvm_images", 1),
        ("list_managed_microvm_image_versions", 3),
    ],
)
def test_pages(full, operation, count, size):
    stand, images = full
    pages = list(stand.client.get_paginator(operation).paginate(PaginationConfig={"PageSize": size}, **of(operation, images)))
    items = [item for page in pages for item in page["items"]]
    assert len(items) == count
    assert all(len(page["items"]) <= size for page in pages)
    assert len(pages) >= count if size == 1 else len(pages) == 1
    whole = getattr(stand.client, operation)(**of(operation, images))["items"]
    assert items == whole


def test_all_paginators_are_above(full):
    source = open(__file__, encoding="utf-8").read()
    from botocore import xform_name

    for operation in full[0].client.meta.service_model.operation_names:
        python = xform_name(operation)
        if full[0].client.can_paginate(python):
            assert f'("{python}", ' in source, operation


def test_a_filter_can_leave_a_page_empty(full):
    stand, images = full
    pages = stand.client.get_paginator("list_microvm_images").paginate(nameFilter="page-3", PaginationConfig={"PageSize": 1})
    pages = list(pages)
    assert [item["imageArn"] for page in pages for item in page["items"]] == [images[3]]
    assert any(page["items"] == [] for page in pages)


def test_a_start_in_the_middle(full):
    stand, _ = full
    paginator = stand.client.get_paginator("list_microvm_images")
    first = paginator.paginate(PaginationConfig={"MaxItems": 2, "PageSize": 1}).build_full_result()
    rest = paginator.paginate(PaginationConfig={"StartingToken": first["NextToken"]}).build_full_result()
    assert len(first["items"]) == 2 and len(rest["items"]) == COUNT - 2
