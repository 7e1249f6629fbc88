"""What ends a command with a sentence instead of a traceback."""

EXIT_FAILED = 1
EXIT_MISCONFIGURED = 2
EXIT_INTERRUPTED = 130


class Failure(Exception):
    """An expected end: the message is for the person at the terminal.

    Args:
        message: What was wrong and what to do about it, in plain text.
        exit_code: 1 failed, 2 misconfigured.
    """

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
