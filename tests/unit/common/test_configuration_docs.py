"""The reference and the example say what the code does."""

from pathlib import Path

from batchyard.common.config import load_config
from support.configuration_docs import DOCUMENT, SECTIONS, SERVICES, tables, written

EXAMPLE = DOCUMENT.parents[1] / "config.example.yaml"


def test_the_tables_are_as_the_code_has_them() -> None:
    text = DOCUMENT.read_text()
    assert tables(text) == [*SECTIONS, *SERVICES]
    assert written(text) == text, "run `make docs`"


def test_every_key_and_every_variable_is_explained() -> None:
    for model in (*SECTIONS.values(), *SERVICES.values()):
        assert [name for name, field in model.model_fields.items() if not field.description] == [], model


def test_the_example_names_every_key(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    for section, model in SECTIONS.items():
        for name in model.model_fields:
            assert f"{name}:" in text, f"{section}: {name}"


def test_the_example_is_read_without_a_warning_with_all_that_is_commented_out(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    everything = "\n".join(uncommented(line) for line in text.splitlines())
    for content in (text, everything):
        path = tmp_path / "config.yaml"
        path.write_text(content)
        config = load_config(path, {"HOSTED_VLLM_API_KEY": "k", "BATCHYARD_MASTER_KEY": "m"})
        assert config.warnings == ()
        assert config.pool_for("my-vllm-model") == "my-vllm-model"
    assert config.pool_for("fast") == "my-vllm-model"
    assert config.pool_for("team-qwen") == "team-*"


def uncommented(line: str) -> str:
    """A line of the example in force: a key that is commented out begins with `# ` and has a colon before any space."""
    body = line.lstrip()
    key, colon, _ = body.removeprefix("# ").partition(":")
    is_key = body.startswith("# ") and colon and " " not in key.removeprefix("- ")
    return line.replace("# ", "", 1) if is_key else line
