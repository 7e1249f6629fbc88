"""How many lines a stream has, found while it passes."""


class LineCount:
    """Counts lines, blank ones too; the last one need not end."""

    def __init__(self) -> None:
        self.newlines = 0
        self._ended = True

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if chunk:
            self.newlines += chunk.count(b"\n")
            self._ended = chunk.endswith(b"\n")

    @property
    def lines(self) -> int:
        """The lines so far."""
        return self.newlines + (not self._ended)
