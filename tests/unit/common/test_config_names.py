"""Which pool serves a name, and what it is called where: aliases, wildcards, LiteLLM's prefix."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.config import ANY_MODEL, Alias, Config, load_config
from batchyard.common.errors import ConfigurationError


def config_of(tmp_path: Path, models: dict[str, str], aliases: object = None) -> Config:
    """A configuration with a server for each `model_name: litellm_params.model`."""
    entries = [
        {"model_name": name, "litellm_params": {"model": model, "api_base": f"http://{index}"}}
        for index, (name, model) in enumerate(models.items())
    ]
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"model_list": entries, "router_settings": {"model_group_alias": aliases}}, indent=1))
    return load_config(path, {"TARGET": "llama", "HIDE": "true"})


PATTERNS = {
    "llama": "hosted_vllm/meta/llama",
    "team-*": "hosted_vllm/*",
    "team-red-*": "hosted_vllm/red/*",
    "hosted_vllm/*": "hosted_vllm/*",
    "*-v*": "hosted_vllm/v*/*",
    "fixed-*": "hosted_vllm/one",
    "a-*-*": "hosted_vllm/x-*",
}


@pytest.mark.parametrize(
    ("said", "pool", "public", "served"),
    [
        ("llama", "llama", "llama", "meta/llama"),
        ("hosted_vllm/llama", "llama", "llama", "meta/llama"),
        ("meta/llama", "llama", "llama", "meta/llama"),
        ("hosted_vllm/meta/llama", "llama", "llama", "meta/llama"),
        ("team-x", "team-*", "team-x", "x"),
        ("hosted_vllm/team-x", "hosted_vllm/*", "hosted_vllm/team-x", "team-x"),
        ("team-red-x", "team-red-*", "team-red-x", "red/x"),
        ("team-", "hosted_vllm/*", "hosted_vllm/team-", "team-"),
        ("hosted_vllm/qwen", "hosted_vllm/*", "hosted_vllm/qwen", "qwen"),
        ("qwen", "hosted_vllm/*", "hosted_vllm/qwen", "qwen"),
        ("one-v2", "*-v*", "one-v2", "vone/2"),
        ("fixed-anything", "fixed-*", "fixed-anything", "one"),
        ("a-b-c", "a-*-*", "a-b-c", "a-b-c"),
        ("模型", "hosted_vllm/*", "hosted_vllm/模型", "模型"),
        ("Team-x", "hosted_vllm/*", "hosted_vllm/Team-x", "Team-x"),
    ],
)
def test_a_name_has_a_pool_a_public_name_and_a_name_at_the_server(
    tmp_path: Path, said: str, pool: str, public: str, served: str
) -> None:
    config = config_of(tmp_path, PATTERNS)
    assert config.pool_for(said) == pool
    assert config.public_name(said) == public
    assert config.pools[pool][0].name_for(public) == served
    assert config.pools[pool][0].name_for(said) == served


@given(
    said=st.lists(
        st.sampled_from(["team-", "red-", "hosted_vllm/", "-v", "a-", "fixed-", "llama", "x"]), max_size=6
    ).map("".join)
)
def test_the_public_name_is_a_name_of_the_same_model(tmp_path_factory: pytest.TempPathFactory, said: str) -> None:
    for models in (PATTERNS, {**PATTERNS, "*": "hosted_vllm/*"}):
        config = config_of(tmp_path_factory.getbasetemp(), models)
        pool, public = config.pool_for(said), config.public_name(said)
        assert (config.pool_for(public), config.public_name(public)) == (pool, public)
        for deployment in config.pools.get(pool or "", ()):
            assert deployment.name_for(said) == deployment.name_for(public)


@pytest.mark.parametrize("said", ["", "*", "team-*", "hosted_vllm/", "hosted_vllm/*"])
def test_no_pattern_takes_a_name_that_is_none(tmp_path: Path, said: str) -> None:
    assert config_of(tmp_path, PATTERNS).pool_for(said) is None


@pytest.mark.parametrize("said", ["qwen", "hosted_vllm/qwen"])
def test_the_pattern_that_takes_all_takes_it_with_and_without_the_prefix(tmp_path: Path, said: str) -> None:
    config = config_of(tmp_path, {"*": "hosted_vllm/*"})
    assert (config.pool_for(said), config.public_name(said)) == (ANY_MODEL, "qwen")


def test_a_pattern_as_it_stands_goes_before_one_that_needs_the_prefix_taken_off(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"hosted_vllm/*": "hosted_vllm/*", "*": "hosted_vllm/*"})
    assert (config.pool_for("qwen"), config.pool_for("hosted_vllm/qwen")) == ("*", "hosted_vllm/*")


@pytest.mark.parametrize(
    ("name", "model", "served", "public"),
    [
        ("hosted_vllm/*", "hosted_vllm/*", "qwen", "hosted_vllm/qwen"),
        ("*", "hosted_vllm/*", "qwen", "qwen"),
        ("team-*", "hosted_vllm/*", "qwen", "team-qwen"),
        ("team-*", "hosted_vllm/red/*", "red/qwen", "team-qwen"),
        ("team-*", "hosted_vllm/red/*", "qwen", None),
        ("team-*", "hosted_vllm/one", "one", None),
        ("llama", "hosted_vllm/meta/llama", "meta/llama", "llama"),
        ("llama", "hosted_vllm/meta/llama", "qwen", None),
        ("llama", "hosted_vllm/*", "llama", "llama"),
    ],
)
def test_what_a_server_serves_has_a_name_for_clients(
    tmp_path: Path, name: str, model: str, served: str, public: str | None
) -> None:
    (deployment,) = config_of(tmp_path, {name: model}).deployments
    assert deployment.public_name(served) == public


def test_a_model_with_more_wildcards_than_its_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model_list\[0\]\.litellm_params\.model: has more '\*'"):
        config_of(tmp_path, {"team-*": "hosted_vllm/*/*"})


# --- aliases


ALIASES = {
    "fast": "llama",
    "gpt-4": {"model": "llama"},
    "secret": {"model": "llama", "hidden": True},
    "also-secret": {"model": "llama", "hidden": "os.environ/HIDE"},
    "chained": "fast",
    "red": "team-red-x",
    "by-served-name": "hosted_vllm/meta/llama",
    "from-environment": "os.environ/TARGET",
    "hosted_vllm/own": "llama",
}


@pytest.mark.parametrize(
    ("said", "pool", "public"),
    [
        ("fast", "llama", "llama"),
        ("hosted_vllm/fast", "llama", "llama"),
        ("gpt-4", "llama", "llama"),
        ("secret", "llama", "llama"),
        ("chained", "llama", "llama"),
        ("red", "team-red-*", "team-red-x"),
        ("by-served-name", "llama", "llama"),
        ("from-environment", "llama", "llama"),
        ("hosted_vllm/own", "llama", "llama"),
        ("Fast", "hosted_vllm/*", "hosted_vllm/Fast"),
    ],
)
def test_an_alias_is_the_model_it_stands_for(tmp_path: Path, said: str, pool: str, public: str) -> None:
    config = config_of(tmp_path, PATTERNS, ALIASES)
    assert (config.pool_for(said), config.public_name(said)) == (pool, public)
    (deployment, *_) = config.pools[pool]
    assert deployment.name_for(public) in {"meta/llama", "red/x", "Fast"}


def test_an_alias_says_whether_it_is_hidden(tmp_path: Path) -> None:
    aliases = config_of(tmp_path, PATTERNS, ALIASES).aliases
    assert {name for name, alias in aliases.items() if alias.hidden} == {"secret", "also-secret"}
    assert aliases["gpt-4"] == Alias("llama")


@pytest.mark.parametrize(
    ("aliases", "problem"),
    [
        ({"a": "ghost"}, "{key}.a: stands for 'ghost', which no entry of model_list serves"),
        ({"llama": "llama"}, "{key}.llama: is the model_name of an entry of model_list"),
        ({"a": "a"}, "{key}.a: leads back to itself by way of 'a'"),
        ({"a": "b", "b": "a"}, "{key}.b: leads back to itself by way of 'a'"),
        ({"a": "b", "b": "c", "c": "b"}, "{key}.c: leads back to itself by way of 'b'"),
        ({"a": "team-*"}, "{key}.a.model: must be the name of one model"),
        ({"a": 7}, "{key}.a: must be a mapping, not a int"),
        ({"a": {"hidden": True}}, "{key}.a.model: Field required"),
        ({"a": {"model": "llama", "hidden": "perhaps"}}, "{key}.a.hidden: Input should be a valid boolean"),
        ({"a": "os.environ/NOT_SET"}, "{key}.a: refers to the environment variable NOT_SET, which is not set"),
        (["a"], "{key}: Input should be a valid dictionary"),
    ],
)
def test_a_broken_alias_is_named(tmp_path: Path, aliases: object, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config_of(tmp_path, {"llama": "hosted_vllm/llama"}, aliases)
    assert problem.format(key="router_settings.model_group_alias") in str(caught.value)
    assert all(line.startswith(f"{tmp_path}/config.yaml:") for line in str(caught.value).splitlines())


def test_an_unknown_key_of_an_alias_is_named(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"llama": "llama"}, {"a": {"model": "llama", "hiden": True}})
    (warning,) = config.warnings
    assert "'router_settings.model_group_alias.a.hiden' is ignored; did you mean 'hidden'?" in warning


GRANTS_ALIASES = {"fast": "llama", "red": "team-red-x", "own-1": "llama"}


@pytest.mark.parametrize(
    ("granted", "said", "is_granted"),
    [
        ("llama", "llama", True),
        ("llama", "hosted_vllm/llama", True),
        ("hosted_vllm/llama", "meta/llama", True),
        ("llama", "fast", True),
        ("fast", "llama", True),
        ("fast", "own-1", True),
        ("own-*", "own-1", True),
        ("own-*", "llama", True),  # an alias of the same model: who may say the one may say the other
        ("team-red-*", "red", True),
        ("red", "team-red-x", True),
        ("red", "team-red-y", False),
        ("team-*", "team-red-x", True),
        ("*", "anything", True),
        ("llam", "llama", False),
        ("llama-*", "llama", False),
        ("team-*", "llama", False),
        ("nobody-serves-this", "nobody-serves-this", True),
        ("", "llama", False),
    ],
)
def test_an_entry_grants_the_models_that_it_stands_for(
    tmp_path: Path, granted: str, said: str, is_granted: bool
) -> None:
    config = config_of(tmp_path, PATTERNS, GRANTS_ALIASES)
    assert config.grants([granted], said) is is_granted
    assert config.grants(["other", granted], said) is is_granted
    assert not config.grants([], said)
