"""Keys of the object store: a tenant's name never reaches into another tenant's place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.object_keys import BATCHES_PREFIX, FILES_PREFIX, batch_prefix, file_key, parse_file_key

UUID = "017f22e279b07cc398c4dc0c0c07398f"
TENANTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(tenant=TENANTS)
def test_the_tenant_and_the_uuid_come_back_from_a_files_key(tenant: str) -> None:
    assert parse_file_key(file_key(tenant, UUID)) == (tenant, UUID)


@given(tenant=TENANTS, batch_id=TENANTS)
def test_no_name_leaves_its_place(tenant: str, batch_id: str) -> None:
    assert file_key(tenant, UUID).split("/")[::2] == ["files", UUID]
    assert [part in ("", ".", "..") for part in batch_prefix(tenant, batch_id).split("/")] == [False] * 3 + [True]


def test_one_batch_is_not_the_prefix_of_another() -> None:
    assert not batch_prefix("t", "batch_10").startswith(batch_prefix("t", "batch_1"))


def test_files_and_batches_lie_apart() -> None:
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
