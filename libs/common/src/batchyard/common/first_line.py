"""A look at the first line of a file for a batch, while it streams by."""

from codecs import BOM_UTF8

from pydantic_core import from_json

from batchyard.common.errors import InvalidRequest

DEFAULT_MAX_BYTES = 1024 * 1024

_BLANK = b" \t\r\n"


class FirstLine:
    """Judges the first line that is not blank, keeping no more than it and one chunk.

    `is_settled` once nothing that follows can change the judgement.

    Args:
        max_bytes: A longer first line is not judged: the batch's own validation will read it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pending = bytearray()
        self._at_start = True
        self._number = 1
        self._searched = 0
        self.is_settled = False
        self._problem: InvalidRequest | None = None

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes of the file."""
        if self.is_settled:
            return
        self._pending += chunk
        if self._at_start:
            if len(self._pending) < len(BOM_UTF8):
                return
            self._skip_bom()
        self._skip_blank_lines()
        end = self._pending.find(b"\n", self._searched)
        self._searched = len(self._pending)
        if end >= 0:
            self._judge(bytes(self._pending[:end]))
        elif len(self._pending) > self._max_bytes:
            self._settle()

    def end(self) -> None:
        """The file has ended: judge what there was."""
        if self.is_settled:
            return
        self._skip_bom()
        self._skip_blank_lines()
        if self._pending:
            self._judge(bytes(self._pending))
        else:
            self._settle(
                "empty_file", "The input file is empty. Please ensure that the batch contains at least one request."
            )

    def check(self) -> None:
        """Raises InvalidRequest if what was seen cannot be the file of a batch."""
        if self._problem is not None:
            raise self._problem

    def _skip_bom(self) -> None:
        if self._at_start and self._pending.startswith(BOM_UTF8):
            del self._pending[: len(BOM_UTF8)]
        self._at_start = False

    def _skip_blank_lines(self) -> None:
        if self._pending[:1].strip(_BLANK):
            return
        rest = self._pending.lstrip(_BLANK)
        self._number += self._pending.count(b"\n", 0, len(self._pending) - len(rest))
        self._pending = rest
        self._searched = 0

    def _judge(self, line: bytes) -> None:
        try:
            from_json(line)
        except ValueError:
            self._settle(
                "invalid_json_line",
                f"Invalid file format for the Batch API: line {self._number} is not valid JSON. "
                "Every line must be one JSON object (JSONL).",
            )
        else:
            self._settle()

    def _settle(self, code: str | None = None, message: str = "") -> None:
        self.is_settled = True
        self._pending = bytearray()
        self._problem = None if code is None else InvalidRequest(message, param="file", code=code)
