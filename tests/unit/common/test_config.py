"""`config.yaml` as LiteLLM's users write it, and a clear word on what is wrong with one."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from batchyard.common.config import ANY_MODEL, BatchMode, Config, load_config
from batchyard.common.errors import ConfigurationError

Load = Callable[..., Config]

ONE_MODEL = """
model_list:
  - model_name: gpt-oss
    litellm_params:
      model: hosted_vllm/openai/gpt-oss-20b
      api_base: http://gpu-1:8000/v1
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str, **environ: str) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, environ)

    return load


def with_params(*lines: str) -> str:
    return ONE_MODEL + "".join(f"      {line}\n" for line in lines)


def refusal(load: Load, text: str, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(text, **environ)
    assert "config.yaml" in str(caught.value)
    return str(caught.value)


def test_an_entry_is_a_deployment_in_the_pool_of_its_model_name(load: Load) -> None:
    (deployment,) = load(ONE_MODEL).deployments
    assert deployment.pool == "gpt-oss"
    assert deployment.model == "openai/gpt-oss-20b"
    assert deployment.base_url == "http://gpu-1:8000"


def test_every_param_is_understood(load: Load) -> None:
    config = load(
        with_params("api_key: sk-1", "timeout: 90", "max_parallel_requests: 8", "rpm: 10", "tpm: 1000", "weight: 2.5")
    )
    (deployment,) = config.deployments
    assert deployment.api_key is not None
    assert deployment.api_key.get_secret_value() == "sk-1"
    assert deployment.timeout == 90
    assert deployment.max_parallel_requests == 8
    assert (deployment.rpm, deployment.tpm, deployment.weight) == (10, 1000, 2.5)
    assert config.warnings == ()


@pytest.mark.parametrize(
    "api_base", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "http://h:1/v1//"]
)
def test_api_base_with_and_without_v1_is_one_server(load: Load, api_base: str) -> None:
    (deployment,) = load(ONE_MODEL.replace("http://gpu-1:8000/v1", api_base)).deployments
    assert deployment.base_url == "http://h:1"


def test_a_path_before_v1_is_kept(load: Load) -> None:
    (deployment,) = load(ONE_MODEL.replace("gpu-1:8000", "h/team-v1")).deployments
    assert deployment.base_url == "http://h/team-v1"


def test_entries_of_one_model_name_share_a_pool(load: Load) -> None:
    config = load(
        ONE_MODEL + ONE_MODEL.replace("model_list:\n", "").replace("gpu-1", "gpu-2") + "  - model_name: other\n"
        "    litellm_params: {model: hosted_vllm/other, api_base: 'http://gpu-3:8000'}\n"
    )
    assert {name: [d.base_url for d in pool] for name, pool in config.pools.items()} == {
        "gpt-oss": ["http://gpu-1:8000", "http://gpu-2:8000"],
        "other": ["http://gpu-3:8000"],
    }


def test_an_entrys_id_outlives_a_restart_and_other_entries(load: Load) -> None:
    (alone,) = load(ONE_MODEL).deployments
    other = "  - {model_name: b, litellm_params: {model: b, api_base: 'http://b'}}\n"
    beside = load(ONE_MODEL.replace("model_list:\n", "model_list:\n" + other)).deployments
    assert alone.id in [deployment.id for deployment in beside]


def test_model_info_may_name_the_id(load: Load) -> None:
    (deployment,) = load(ONE_MODEL + "    model_info: {id: left}\n").deployments
    assert deployment.id == "left"


@pytest.mark.parametrize(
    ("entry", "mode"),
    [
        ("", BatchMode.REQUESTS),
        ("      batch_mode: native\n", BatchMode.NATIVE),
        ("    model_info: {batch_mode: auto}\n", BatchMode.AUTO),
        ("      batch_mode: requests\n    model_info: {batch_mode: auto}\n", BatchMode.REQUESTS),
    ],
)
def test_how_a_server_runs_batches_is_said_by_either_section(load: Load, entry: str, mode: BatchMode) -> None:
    config = load(ONE_MODEL + entry)
    assert config.deployments[0].batch_mode is mode
    assert config.warnings == ()


# --- what the environment holds


def test_a_reference_is_replaced_by_the_variable(load: Load) -> None:
    text = with_params("api_key: os.environ/KEY", "rpm: os.environ/RPM").replace(
        "http://gpu-1:8000/v1", "os.environ/URL"
    )
    (deployment,) = load(text, KEY="sk-2", RPM="7", URL="http://h:1/v1").deployments
    assert deployment.api_key is not None
    assert deployment.api_key.get_secret_value() == "sk-2"
    assert deployment.rpm == 7
    assert deployment.base_url == "http://h:1"


def test_a_variable_that_is_not_set_is_named_with_the_key_that_wants_it(load: Load) -> None:
    message = refusal(load, with_params("api_key: os.environ/VLLM_KEY"))
    assert "model_list[0].litellm_params.api_key" in message
    assert "VLLM_KEY" in message


def test_hosted_vllm_alone_is_a_fleet_of_one_that_takes_any_model() -> None:
    environ = {"HOSTED_VLLM_API_BASE": "http://h:1/v1/", "HOSTED_VLLM_API_KEY": "sk-3"}
    config = load_config(None, environ)
    (deployment,) = config.deployments
    assert deployment.pool == ANY_MODEL
    assert deployment.name_for("whatever") == "whatever"
    assert deployment.base_url == "http://h:1"
    assert deployment.api_key is not None
    assert deployment.api_key.get_secret_value() == "sk-3"
    assert config.pool_for("whatever") == ANY_MODEL


def test_without_anything_there_is_no_fleet() -> None:
    config = load_config(None, {})
    assert config.deployments == ()
    assert config.pool_for("m") is None


def test_hosted_vllm_fills_in_what_an_entry_leaves_out(load: Load) -> None:
    text = ONE_MODEL.replace("      api_base: http://gpu-1:8000/v1\n", "")
    (deployment,) = load(text, HOSTED_VLLM_API_BASE="http://h:1/v1", HOSTED_VLLM_API_KEY="sk-4").deployments
    assert deployment.base_url == "http://h:1"
    assert deployment.api_key is not None
    assert deployment.api_key.get_secret_value() == "sk-4"


def test_an_entry_without_any_server_is_refused(load: Load) -> None:
    message = refusal(load, ONE_MODEL.replace("      api_base: http://gpu-1:8000/v1\n", ""))
    assert "model_list[0].litellm_params.api_base" in message
    assert "HOSTED_VLLM_API_BASE" in message


@pytest.mark.parametrize("base", ["localhost:8000", "http://", "http:///v1", "ftp://h"])
def test_an_environment_that_names_no_http_server_is_refused(base: str) -> None:
    with pytest.raises(ConfigurationError, match="HOSTED_VLLM_API_BASE must be an http"):
        load_config(None, {"HOSTED_VLLM_API_BASE": base})


@pytest.mark.parametrize("base", ["http://h:99999", "http://h:0/v1", "http://[::1", "http://user:secret", "http://:80"])
def test_a_server_that_nothing_can_connect_to_is_refused(load: Load, base: str) -> None:
    message = refusal(load, ONE_MODEL.replace("http://gpu-1:8000/v1", f"'{base}'"))
    assert "model_list[0].litellm_params.api_base: must be a URL whose host and port" in message
    assert "secret" not in message
    with pytest.raises(ConfigurationError, match="HOSTED_VLLM_API_BASE must be a URL whose host and port"):
        load_config(None, {"HOSTED_VLLM_API_BASE": base})


def test_the_line_break_at_the_end_of_a_file_is_no_part_of_a_key(load: Load) -> None:
    text = ONE_MODEL + "general_settings:\n  master_key: |\n    sk-m\n"
    config = load(text, HOSTED_VLLM_API_KEY="sk-4\n")
    for key, expected in ((config.deployments[0].api_key, "sk-4"), (config.master_key, "sk-m")):
        assert key is not None
        assert key.get_secret_value() == expected


def test_a_key_that_no_header_can_carry_is_refused_and_not_told(load: Load) -> None:
    message = refusal(load, with_params('api_key: "sk-\\x00secret"'))
    assert "model_list[0].litellm_params.api_key: has a character that no HTTP header can carry" in message
    assert "secret" not in message
    with pytest.raises(ConfigurationError, match="HOSTED_VLLM_API_KEY has a character") as refused:
        load_config(None, {"HOSTED_VLLM_API_BASE": "http://h", "HOSTED_VLLM_API_KEY": "sk-\nsecret"})
    assert "secret" not in str(refused.value)


# --- the master key


def test_the_master_key_is_general_settings(load: Load) -> None:
    config = load(ONE_MODEL + "general_settings: {master_key: sk-m}\n", BATCHYARD_MASTER_KEY="sk-other")
    assert config.master_key is not None
    assert config.master_key.get_secret_value() == "sk-m"


@pytest.mark.parametrize("section", ["", "general_settings:\n", "general_settings: {master_key: os.environ/EMPTY}\n"])
def test_the_master_key_may_come_from_the_environment_alone(load: Load, section: str) -> None:
    config = load(ONE_MODEL + section, BATCHYARD_MASTER_KEY="sk-m", EMPTY="")
    assert config.master_key is not None
    assert config.master_key.get_secret_value() == "sk-m"


def test_the_master_key_of_litellms_environment_is_taken_where_there_is_no_other(load: Load) -> None:
    def key(section: str = "", **environ: str) -> str | None:
        found = load(ONE_MODEL + section, LITELLM_MASTER_KEY="sk-litellm", **environ).master_key
        return None if found is None else found.get_secret_value()

    assert key() == "sk-litellm"
    assert key(BATCHYARD_MASTER_KEY="sk-m") == "sk-m"
    assert key("general_settings: {master_key: sk-file}\n") == "sk-file"
    found = load_config(None, {"LITELLM_MASTER_KEY": "sk-litellm"}).master_key
    assert found is not None
    assert found.get_secret_value() == "sk-litellm"


def test_an_empty_master_key_is_none(load: Load) -> None:
    assert not load(ONE_MODEL + 'general_settings: {master_key: ""}\n', BATCHYARD_MASTER_KEY="").master_key


# --- prices


@pytest.mark.parametrize("written", ["1.5e-7", "0.00000015", "'0.00000015'", "15e-8", "1.5E-7"])
def test_a_price_is_the_decimal_that_was_written(load: Load, written: str) -> None:
    (deployment,) = load(with_params(f"input_cost_per_token: {written}")).deployments
    assert deployment.price.input == Decimal("0.00000015")


def test_every_price_has_its_key(load: Load) -> None:
    (deployment,) = load(
        with_params(
            "input_cost_per_token: 0.1",
            "output_cost_per_token: 0.2",
            "cache_read_input_token_cost: 0.3",
            "input_cost_per_token_batches: 0.4",
            "output_cost_per_token_batches: 0.5",
            "cache_read_input_token_cost_batches: 0.6",
            "input_cost_per_second: 0.25",
            "output_cost_per_second: 0.5",
        )
        + "    model_info: {cost_per_gpu_hour: 2.5, gpus: 4}\n"
    ).deployments
    price = deployment.price
    assert (price.input, price.output, price.cached) == (Decimal("0.1"), Decimal("0.2"), Decimal("0.3"))
    assert (price.batch_input, price.batch_output) == (Decimal("0.4"), Decimal("0.5"))
    assert (price.batch_cached, price.second) == (Decimal("0.6"), Decimal("0.75"))
    assert (price.gpu_hour, price.gpus) == (Decimal("2.5"), 4)


def test_currency_and_discount_are_batchyards_own_settings(load: Load) -> None:
    config = load(ONE_MODEL + "batchyard_settings: {currency: EUR, batch_discount: 0.35}\n")
    assert (config.currency, config.batch_discount) == ("EUR", Decimal("0.35"))


@pytest.mark.parametrize("price", ["-1.0", ".nan", ".inf", "free"])
def test_a_price_is_a_number_of_money(load: Load, price: str) -> None:
    assert "litellm_params.input_cost_per_token" in refusal(load, with_params(f"input_cost_per_token: {price}"))


# --- what is not understood


def test_unknown_keys_are_named_by_their_path(load: Load) -> None:
    config = load(
        with_params("tenperature: 0")
        + "    model_info: {colour: red}\n"
        + "general_settings: {alerting: [slack]}\nlitellm_settings: {drop_params: true}\nempty:\n"
    )
    for path in (
        "model_list[0].litellm_params.tenperature",
        "model_list[0].model_info.colour",
        "general_settings.alerting",
        "litellm_settings",
        "empty",
    ):
        assert [warning for warning in config.warnings if f"'{path}'" in warning], path
    assert len(config.warnings) == 5


def test_a_warning_says_where_the_key_stands_and_what_it_may_have_meant(load: Load, tmp_path: Path) -> None:
    config = load(with_params("api_kee: 1") + "router_settings: {num_retries: 2, model_group_alia: {}}\n")
    assert [warning.removeprefix(str(tmp_path)) for warning in config.warnings] == [
        ("/config.yaml:7:7: unknown key 'model_list[0].litellm_params.api_kee' is ignored; did you mean 'api_key'?"),
        "/config.yaml:8:19: LiteLLM's key 'router_settings.num_retries' has no meaning in Batchyard and is ignored",
        (
            "/config.yaml:8:35: unknown key 'router_settings.model_group_alia' is ignored; "
            "did you mean 'model_group_alias'?"
        ),
    ]


def test_what_only_litellm_reads_may_name_variables_that_only_litellm_has(load: Load) -> None:
    config = load(
        with_params("organization: os.environ/ORG")
        + "general_settings: {database_url: os.environ/DATABASE_URL}\nlitellm_settings: {a: [os.environ/B]}\n"
    )
    assert len(config.warnings) == 3


def test_a_warning_does_not_show_the_value(load: Load) -> None:
    assert "sk-s" not in str(load(with_params("api_kee: sk-s")).warnings)


def test_a_section_whose_lines_are_all_commented_out_is_an_empty_one(load: Load) -> None:
    text = ONE_MODEL + "    model_info:\ngeneral_settings:\n  # master_key: x\nbatchyard_settings:\n"
    assert load(text) == load(ONE_MODEL)


def test_an_empty_file_is_an_empty_fleet(load: Load) -> None:
    assert load("") == Config()
    assert load("model_list:\n") == Config()


# --- what is wrong


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("rpm: many", "model_list[0].litellm_params.rpm"),
        ("rpm: 0", "model_list[0].litellm_params.rpm"),
        ("timeout: -1", "model_list[0].litellm_params.timeout"),
        ("timeout: .inf", "model_list[0].litellm_params.timeout"),
        ("weight: 0", "model_list[0].litellm_params.weight"),
        ("weight: .inf", "model_list[0].litellm_params.weight"),
        ("api_key: [1]", "model_list[0].litellm_params.api_key"),
        ("batch_mode: sometimes", "model_list[0].litellm_params.batch_mode"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(load: Load, line: str, path: str) -> None:
    assert f"{path}: " in refusal(load, with_params(line))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("model_list: {a: 1}", "model_list"),
        ("model_list: [gpt]", "model_list[0]"),
        ("model_list: [{model_name: m}]", "model_list[0].litellm_params"),
        ("model_list: [{model_name: '', litellm_params: {model: m}}]", "model_list[0].model_name"),
        ("model_list: [{model_name: m, litellm_params: {model: hosted_vllm/}}]", "model_list[0].litellm_params.model"),
        (
            "model_list: [{model_name: m, litellm_params: {model: m, api_base: 'h:1'}}]",
            "model_list[0].litellm_params.api_base",
        ),
        (f"model_list: [{{model_name: {'模' * 500}, litellm_params: {{model: m}}}}]", "model_list[0].model_name"),
        ("general_settings: [1]", "general_settings"),
        ("batchyard_settings: {batch_discount: 2}", "batchyard_settings.batch_discount"),
    ],
)
def test_a_wrong_shape_is_named_by_its_path(load: Load, text: str, path: str) -> None:
    assert f"{path}: " in refusal(load, text)


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_the_file(load: Load, tmp_path: Path) -> None:
    text = with_params("rpm: many", "rpm: 1", "api_key: os.environ/NOT_SET", "weight: 0") + (
        "general_settings:\n  master_key: [1]\n"
    )
    entry = "model_list[0].litellm_params"
    assert refusal(load, text).replace(str(tmp_path), "").splitlines() == [
        f"/config.yaml:8:7: {entry}.rpm: stands twice",
        f"/config.yaml:9:7: {entry}.api_key: refers to the environment variable NOT_SET, which is not set",
        f"/config.yaml:10:7: {entry}.weight: Input should be greater than 0",
        "/config.yaml:12:3: general_settings.master_key: Input should be a valid string",
    ]


def test_what_is_wrong_between_entries_is_told_at_once_too(load: Load, tmp_path: Path) -> None:
    entry = ONE_MODEL.replace("model_list:\n", "").lstrip("\n")
    text = "model_list:\n" + entry + entry.replace("gpt-oss\n", "a-*\n").replace("openai/gpt-oss-20b", "*/*") + entry
    text += "router_settings:\n  model_group_alias:\n    gpt-oss: a-1\n    gone: nothing\n"
    assert [line.split(" ")[0].rpartition(".yaml")[2] for line in refusal(load, text).splitlines()] == [
        ":8:7:",
        ":10:5:",
        ":16:5:",
        ":17:5:",
    ]


def test_a_key_that_is_missing_is_told_where_it_is_missing(load: Load) -> None:
    assert "config.yaml:2:5: model_list[0].litellm_params: Field required" in refusal(
        load, "model_list:\n  - model_name: m\n"
    )


def test_a_wrong_value_in_a_merged_mapping_is_told_where_it_stands(load: Load) -> None:
    text = (
        "model_list:\n"
        "  - {model_name: a, litellm_params: &shared {model: m, api_base: 'http://a'}}\n"
        "  - {model_name: b, litellm_params: {<<: *shared, rpm: many}}\n"
        "  - {model_name: c, litellm_params: {<<: *shared, api_base: 'h'}}\n"
    )
    message = refusal(load, text)
    assert "config.yaml:3:51: model_list[1].litellm_params.rpm" in message
    assert "config.yaml:4:51: model_list[2].litellm_params.api_base" in message


@pytest.mark.parametrize("text", ["model_list: &a [*a]", "a: &a {b: *a}", "[" * 5000])
def test_a_value_that_holds_itself_or_has_no_end_is_refused(load: Load, text: str) -> None:
    assert "holds itself" in refusal(load, text)


@pytest.mark.parametrize(
    "text",
    [
        with_params("api_key: {sk-hidden: 1}"),
        with_params("api_key: [sk-hidden]"),
        with_params("rpm: sk-hidden"),
        with_params("api_key: *sk-hidden"),
        with_params("api_key: !sk-hidden"),
        with_params("api_key: 'sk-hidden"),
        ONE_MODEL.replace("http://gpu-1:8000", "sk-hidden@gpu"),
        "general_settings: {master_key: [sk-hidden]}",
        "general_settings: sk-hidden",
        "sk-hidden",
    ],
)
def test_what_is_wrong_is_told_without_the_value(load: Load, text: str) -> None:
    assert "hidden" not in refusal(load, text)


def test_secrets_do_not_show_in_what_is_printed(load: Load) -> None:
    config = load(with_params("api_key: sk-hidden") + "general_settings: {master_key: sk-hidden}\n")
    assert "hidden" not in repr(config)


@pytest.mark.parametrize(
    ("text", "place"),
    [("a: 1\nb: [1\n", "3:1"), ("a: 1\n\tb: 2\n", "2:1"), ("a:\n  - 1\n b: 2\n", "3:2")],
    ids=["open", "tab", "indent"],
)
def test_broken_yaml_is_told_with_its_place(load: Load, text: str, place: str) -> None:
    assert f"config.yaml:{place}: not valid YAML" in refusal(load, text)


def test_a_key_that_stands_twice_is_refused(load: Load) -> None:
    assert "config.yaml:7:1: model_list: stands twice" in refusal(load, ONE_MODEL + ONE_MODEL.lstrip())
    assert "config.yaml:7:7: model_list[0].litellm_params.model: stands twice" in refusal(
        load, with_params("model: again")
    )


def test_a_merged_mapping_may_be_overridden(load: Load) -> None:
    config = load(
        "model_list:\n"
        "  - {model_name: a, litellm_params: &shared {model: m, api_base: 'http://a', rpm: 5}}\n"
        "  - {model_name: b, litellm_params: {<<: *shared, api_base: 'http://b'}}\n"
    )
    assert [(d.pool, d.base_url, d.rpm) for d in config.deployments] == [("a", "http://a", 5), ("b", "http://b", 5)]


@pytest.mark.parametrize("content", [b"\n\xff\xfe", b"\na: \x00", b"\na: \xed\xa0\x80"])
def test_a_file_that_is_not_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"config\.yaml:2:1: not valid YAML"):
        load_config(path, {})


@pytest.mark.parametrize(("name", "reason"), [("missing.yaml", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path / name}: cannot be read: {reason}"):
        load_config(tmp_path / name, {})


@pytest.mark.parametrize("info", ["", "    model_info: {id: one}\n"])
def test_an_entry_that_repeats_another_is_refused(load: Load, info: str) -> None:
    entry = ONE_MODEL.replace("model_list:\n", "").lstrip("\n") + info
    assert "model_list[1]: repeats" in refusal(load, "model_list:\n" + entry + entry)


def test_equal_entries_with_ids_of_their_own_are_two_deployments(load: Load) -> None:
    entry = ONE_MODEL.replace("model_list:\n", "").lstrip("\n") + "    model_info: {id: ID}\n"
    config = load("model_list:\n" + entry.replace("ID", "one") + entry.replace("ID", "two"))
    assert [deployment.id for deployment in config.deployments] == ["one", "two"]


# --- which pool serves a model


@pytest.mark.parametrize(
    "model", ["gpt-oss", "openai/gpt-oss-20b", "hosted_vllm/openai/gpt-oss-20b", "hosted_vllm/gpt-oss"]
)
def test_a_pool_is_found_by_any_name_of_its_model(load: Load, model: str) -> None:
    assert load(ONE_MODEL).pool_for(model) == "gpt-oss"


@pytest.mark.parametrize("model", ["", "*", "gpt", "hosted_vllm/", "openai/gpt-oss"])
def test_no_other_name_finds_it(load: Load, model: str) -> None:
    assert load(ONE_MODEL).pool_for(model) is None


def test_a_model_name_goes_before_what_servers_call_theirs(load: Load) -> None:
    config = load(
        "model_list:\n"
        "  - {model_name: a, litellm_params: {model: hosted_vllm/b, api_base: 'http://a'}}\n"
        "  - {model_name: b, litellm_params: {model: hosted_vllm/c, api_base: 'http://b'}}\n"
    )
    assert config.pool_for("b") == "b"


def test_a_wildcard_entry_takes_what_no_other_does_under_the_clients_name(load: Load) -> None:
    config = load(ONE_MODEL + "  - {model_name: '*', litellm_params: {model: hosted_vllm/*, api_base: 'http://any'}}\n")
    assert config.pool_for("gpt-oss") == "gpt-oss"
    assert config.pool_for("anything") == ANY_MODEL
    assert config.pools[ANY_MODEL][0].name_for("anything") == "anything"
