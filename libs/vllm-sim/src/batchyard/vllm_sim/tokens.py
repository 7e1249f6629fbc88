"""A deterministic tokenizer: words (in pieces of 16 characters at most), punctuation and template marks."""

import re

_PATTERN = r"<\|\w+\|>|\w{1,16}|[^\w\s]"
_tokens = re.compile(_PATTERN).findall
_pieces = re.compile(rf"\s*(?:{_PATTERN})").findall


def tokenize(text: str) -> list[str]:
    """Return the tokens of a text, without the white space between them."""
    return _tokens(text)


def count_tokens(text: str) -> int:
    """Return how many tokens a text has."""
    return len(_tokens(text))


def token_pieces(text: str) -> list[str]:
    """Return one piece of text per token, each with the white space before it.

    Joined they give the text back, but for white space at its very end.
    """
    return _pieces(text)
