"""Reading the fields of a request body, with vLLM's refusals."""

from typing import Any

from batchyard.vllm_sim.errors import BadValueError, SchemaError, UnknownModelError
from batchyard.vllm_sim.prompts import Prompt, chat_prompt, token_ids_prompt
from batchyard.vllm_sim.settings import SimSettings

Body = dict[str, Any]


def required(body: Body, name: str) -> Any:
    """Return a field that must be there.

    Raises:
        SchemaError: if it is missing or null.
    """
    value = body.get(name)
    if value is None:
        raise schema_error(name, "Field required")
    return value


def integer(body: Body, name: str, default: int, minimum: int) -> int:
    """Return a whole number that may be missing or null.

    Raises:
        SchemaError: if it is not a whole number.
        BadValueError: if it is below the minimum.
    """
    return default if body.get(name) is None else _whole(body, name, minimum)


def optional_integer(body: Body, name: str, minimum: int) -> int | None:
    """Return a whole number or None; errors as of `integer`."""
    return None if body.get(name) is None else _whole(body, name, minimum)


def priority(body: Body) -> int:
    """Return the request's priority: any whole number; unlike other fields it may not be null.

    Raises:
        SchemaError: if it is anything else.
    """
    value = body.get("priority", 0)
    if not isinstance(value, int):
        raise schema_error("priority", "Input should be a valid integer")
    return value


def served_model(body: Body, settings: SimSettings) -> str:
    """Return the model that answers: the one asked for, or the first one if none is.

    Raises:
        SchemaError: if the name is no string.
        UnknownModelError: if it is not served.
    """
    model = body.get("model")
    if not model:
        return settings.models[0]
    if not isinstance(model, str):
        raise schema_error("model", "Input should be a valid string")
    if model not in settings.models:
        raise UnknownModelError(model)
    return model


def messages_prompt(body: Body) -> Prompt:
    """Return the prompt of `messages`.

    Raises:
        SchemaError: unless they are a list of objects.
    """
    messages = required(body, "messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise schema_error("messages", "Input should be a valid list of messages")
    return chat_prompt(messages)


def text_prompts(body: Body, name: str) -> list[Prompt]:
    """Return the prompts of a field that is a text, texts, token ids, or lists of token ids.

    Raises:
        SchemaError: if it is anything else.
        BadValueError: if it is an empty list.
    """
    value = required(body, name)
    if isinstance(value, str):
        return [Prompt(value)]
    if not isinstance(value, list):
        raise schema_error(name, "Input should be a valid string or list")
    if not value:
        raise BadValueError(f"Please provide at least one {name}", name)
    if all(isinstance(item, str) for item in value):
        return [Prompt(item) for item in value]
    if _are_token_ids(value):
        return [token_ids_prompt(value)]
    if all(isinstance(item, list) and item and _are_token_ids(item) for item in value):
        return [token_ids_prompt(item) for item in value]
    raise schema_error(name, "Input should be a valid string or list")


def check_length(prompts: list[Prompt], settings: SimSettings, reserved: int = 0) -> None:
    """Refuse prompts that leave no room for `reserved` tokens within the model's context.

    Raises:
        BadValueError: naming the limit and the length found, in tokens.
    """
    for prompt in prompts:
        if len(prompt.tokens) + reserved > settings.max_model_len:
            raise BadValueError(
                f"This model's maximum context length is {settings.max_model_len} tokens. However, your request "
                f"has {len(prompt.tokens)} input tokens. Please reduce the length of the input messages.",
                "input_tokens",
            )


def schema_error(name: str, message: str) -> SchemaError:
    """Return the refusal of a field that is not of the schema."""
    return SchemaError(f"1 validation error:\n  {{'loc': ('body', '{name}'), 'msg': '{message}'}}", name)


def _whole(body: Body, name: str, minimum: int) -> int:
    value = body[name]
    if not isinstance(value, int):
        raise schema_error(name, "Input should be a valid integer")
    if value < minimum:
        raise BadValueError(f"{name} must be at least {minimum}, got {value}.", name)
    return value


def _are_token_ids(value: list[Any]) -> bool:
    return all(isinstance(item, int) for item in value)
