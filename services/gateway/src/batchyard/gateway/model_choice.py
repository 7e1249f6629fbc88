"""Which model a caller asks for, when an ID does not say so: body, then query, then header."""

from collections.abc import Iterable

from starlette.requests import Request

from batchyard.common.errors import InvalidRequest

MODEL_HEADER = "x-litellm-model"
MAX_MODEL_CHARACTERS = 512


def choose_model(request: Request, in_body: Iterable[str] = (), targets: Iterable[str] = ()) -> str | None:
    """The model that a request names, in LiteLLM's order of precedence; None when it names none.

    Args:
        request: Read for `?model=` and `x-litellm-model`.
        in_body: The `model` members or form fields of its body.
        targets: Its `target_model_names` fields: names separated by commas.

    Raises:
        InvalidRequest: One place names several models, or the name is too long.
    """
    choices = (
        _from_body(in_body, targets),
        _only(request.query_params.getlist("model"), "model"),
        _only(map(_as_utf8, request.headers.getlist(MODEL_HEADER)), MODEL_HEADER),
    )
    model = next((choice for choice in choices if choice is not None), None)
    if model is not None and len(model) > MAX_MODEL_CHARACTERS:
        raise InvalidRequest(f"A model's name has at most {MAX_MODEL_CHARACTERS} characters.", param="model")
    return model


def _from_body(in_body: Iterable[str], targets: Iterable[str]) -> str | None:
    model = _only(in_body, "model")
    names = {name.strip() for target in targets for name in target.split(",") if name.strip()}
    if len(names) > 1:
        raise InvalidRequest("'target_model_names' may name only one model for now.", param="target_model_names")
    target = next(iter(names), None)
    if model is not None and target is not None and model != target:
        raise InvalidRequest("'model' and 'target_model_names' name different models.", param="target_model_names")
    return model or target


def _only(values: Iterable[str], param: str) -> str | None:
    named = {value.strip() for value in values if value.strip()}
    if len(named) > 1:
        raise InvalidRequest(f"'{param}' was given several times with different values.", param=param)
    return next(iter(named), None)


def _as_utf8(value: str) -> str:
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value
