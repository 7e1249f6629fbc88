"""The fields of an upload's form, beside the file itself."""

from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from batchyard.common.contracts.files import UPLOAD_PURPOSES, ExpiresAfter, Purpose
from batchyard.common.errors import InvalidRequest
from batchyard.gateway.validation import invalid_request, missing

_EXPIRES_AFTER = "expires_after"
_KNOWN = {
    "purpose": "purpose",
    "model": "model",
    "target_model_names": "target_model_names",
    "target_model_names[]": "target_model_names",
    f"{_EXPIRES_AFTER}[anchor]": f"{_EXPIRES_AFTER}.anchor",
    f"{_EXPIRES_AFTER}[seconds]": f"{_EXPIRES_AFTER}.seconds",
}


class _Expiry(BaseModel):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class FileForm:
    """Collects fields in whatever order they come; unknown ones are ignored."""

    def __init__(self) -> None:
        self._values: dict[str, list[str]] = {}
        self._purpose: Purpose | None = None

    def add(self, name: str, value: bytes) -> None:
        """Take one field.

        Raises:
            InvalidRequest: It is not UTF-8, is not a purpose, or contradicts an earlier one.
        """
        param = _KNOWN.get(name)
        if param is None:
            return
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"The form field '{param}' is not valid UTF-8.", param=param) from error
        self._values.setdefault(param, []).append(text)
        if param == "purpose":
            self._purpose = parse_purpose(self._single(param) or "", UPLOAD_PURPOSES)

    @property
    def known_purpose(self) -> Purpose | None:
        """The purpose, if it came already."""
        return self._purpose

    @property
    def purpose(self) -> Purpose:
        """The purpose. Raises InvalidRequest when there was none."""
        if self._purpose is None:
            raise missing("purpose")
        return self._purpose

    @property
    def models(self) -> list[str]:
        return self._values.get("model", [])

    @property
    def target_model_names(self) -> list[str]:
        return self._values.get("target_model_names", [])

    @property
    def expires_after(self) -> ExpiresAfter | None:
        """When the file is to go; None for the purpose's default. Raises InvalidRequest."""
        given = {
            key: value
            for key in ("anchor", "seconds")
            if (value := self._single(f"{_EXPIRES_AFTER}.{key}")) is not None
        }
        if not given:
            return None
        try:
            return ExpiresAfter(seconds=_Expiry.model_validate(given).seconds)
        except ValidationError as error:
            raise invalid_request(error.errors(include_url=False), prefix=_EXPIRES_AFTER) from error

    def _single(self, param: str) -> str | None:
        values = set(self._values.get(param, ()))
        if len(values) > 1:
            raise InvalidRequest(f"'{param}' was given several times with different values.", param=param)
        return next(iter(values), None)


def parse_purpose(value: str, allowed: tuple[Purpose, ...]) -> Purpose:
    """Raises InvalidRequest, in OpenAI's words, for anything that is not one of `allowed`."""
    for purpose in allowed:
        if value == purpose:
            return purpose
    raise InvalidRequest(
        f"'{value}' is not one of {[str(purpose) for purpose in allowed]} - 'purpose'", param="purpose"
    )
