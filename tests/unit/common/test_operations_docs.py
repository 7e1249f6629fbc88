"""docs/operations.md names the metrics that there are."""

from support.operations_docs import DOCUMENT, families, written


def test_the_metrics_are_as_the_code_has_them() -> None:
    document = DOCUMENT.read_text()
    assert written(document) == document, "run `make docs`"
    assert len(families()) > 15
    assert all(f"`{family.name}" in document for family in families())
