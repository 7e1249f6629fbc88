"""Keys of the object store: a tenant's name never reaches into another tenant's place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.object_keys import (
    BATCHES_PREFIX,
    FILES_PREFIX,
    UPLOADS_PREFIX,
    batch_prefix,
    file_key,
    parse_file_key,
    parse_part_key,
    part_key,
    parts_prefix,
)

UUID = "017f22e279b07cc398c4dc0c0c07398f"
OTHER = "017f22e279b07cc398c4dc0c0c073990"
TENANTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(tenant=TENANTS)
def test_the_tenant_and_the_uuid_come_back_from_a_files_key(tenant: str) -> None:
    assert parse_file_key(file_key(tenant, UUID)) == (tenant, UUID)


@given(tenant=TENANTS)
def test_the_tenant_and_both_uuids_come_back_from_a_parts_key(tenant: str) -> None:
    assert parse_part_key(part_key(tenant, UUID, OTHER)) == (tenant, UUID, OTHER)
    assert part_key(tenant, UUID, OTHER).startswith(parts_prefix(tenant, UUID))
    with pytest.raises(ValueError, match=r"\w"):
        parse_file_key(part_key(tenant, UUID, OTHER))


@given(tenant=TENANTS, batch_id=TENANTS)
def test_no_name_leaves_its_place(tenant: str, batch_id: str) -> None:
    assert file_key(tenant, UUID).split("/")[::2] == ["files", UUID]
    assert [part in ("", ".", "..") for part in batch_prefix(tenant, batch_id).split("/")] == [False] * 3 + [True]


def test_one_batch_is_not_the_prefix_of_another() -> None:
    assert not batch_prefix("t", "batch_10").startswith(batch_prefix("t", "batch_1"))


def test_files_uploads_and_batches_lie_apart() -> None:
    assert part_key("t", UUID, OTHER).startswith(UPLOADS_PREFIX)
    assert file_key("t", UUID).startswith(FILES_PREFIX)
    assert batch_prefix("t", "b").startswith(BATCHES_PREFIX)


@pytest.mark.parametrize(
    "key",
    [
        "",
        f"files/{UUID}",
        f"files//{UUID}",
        f"files/t/{UUID[:-1]}",
        f"files/t/{UUID.upper()}",
        f"files/t/{UUID}/x",
        f"files/t/{UUID}\n",
        f"files/../{UUID}",
        f"files/=41/{UUID}",
        f"files/=FF/{UUID}",
        f"batches/t/{UUID}",
        f"x/files/t/{UUID}",
    ],
)
def test_any_other_key_is_not_a_files(key: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_file_key(key)


@pytest.mark.parametrize(
    "key", ["", f"uploads/t/{UUID}", f"uploads/t/{UUID}/", f"uploads/t/{UUID}/x", f"files/t/{UUID}/{UUID}"]
)
def test_any_other_key_is_not_a_parts(key: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_part_key(key)
