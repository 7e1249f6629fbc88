"""A YAML file with the places of its keys, so that whatever is wrong can be pointed at."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from batchyard.common.errors import ConfigurationError

KeyPath = tuple[str, ...]
"""The keys and list indices that lead to a value, as strings."""

_CONTENT = re.compile(r"'(?!<).+'", re.DOTALL)
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands; both count from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Document:
    """What a file holds.

    Attributes:
        data: Its value, as YAML's safe loader makes it.
        places: Where each key and each item of a list begins.
        doubles: The keys that stand more than once in one mapping, with the places where they do so again.
    """

    path: Path
    data: Any = None
    places: Mapping[KeyPath, Place] = field(default_factory=dict)
    doubles: tuple[tuple[KeyPath, Place], ...] = ()

    def place(self, where: KeyPath) -> Place:
        """Where the value at `where` stands, or the nearest one around it that does."""
        for length in range(len(where), 0, -1):
            if (place := self.places.get(where[:length])) is not None:
                return place
        return Place(1, 1)


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        ConfigurationError: It cannot be read or is not YAML. The message quotes nothing of it: it may be secret.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}:1: not valid YAML: not UTF-8") from error
    try:
        loader = yaml.SafeLoader(text)
        try:
            return _document(path, loader)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        # What a problem quotes may be a secret: a key that begins with `*` or `!`.
        problem = _CONTENT.sub("'…'", str(error.problem))
        raise ConfigurationError(f"{path}:{place}: not valid YAML: {problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigurationError(f"{path}:{line}:1: not valid YAML: a character that cannot be there") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{path}: not valid YAML") from error
    except RecursionError as error:
        raise ConfigurationError(f"{path}: not valid YAML: nested too deep, or a value that holds itself") from error


def _document(path: Path, loader: yaml.SafeLoader) -> Document:
    node = loader.get_single_node()
    if node is None:
        return Document(path)
    places: dict[KeyPath, Place] = {}
    doubles: list[tuple[KeyPath, Place]] = []
    for where, place, is_double in _keys(node, ()):
        if is_double:
            doubles.append((where, place))
        else:
            places.setdefault(where, place)
    return Document(path, loader.construct_document(node), places, tuple(doubles))


def _keys(node: yaml.Node, where: KeyPath) -> Iterator[tuple[KeyPath, Place, bool]]:
    """Every key and item below `node` with its place, and whether it repeats another key of its mapping."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*where, str(index)), _place(item), False
            yield from _keys(item, (*where, str(index)))
    elif isinstance(node, yaml.MappingNode):
        yield from _keys_of_mapping(node, where)


def _keys_of_mapping(node: yaml.MappingNode, where: KeyPath) -> Iterator[tuple[KeyPath, Place, bool]]:
    seen: set[str] = set()
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        yield (*where, key.value), _place(key), key.value in seen
        seen.add(key.value)
        if key.tag == _MERGE:
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        else:
            yield from _keys(value, (*where, key.value))
    for one in merged:  # what stands in the mapping itself goes before what is merged into it
        yield from _keys(one, where)


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)
