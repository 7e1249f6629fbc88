"""Which prompts of a shard begin alike. A server with a prefix cache computes a common beginning once for all of them,
if they come while it still holds it: so they are sent one after another, and to the same server.

https://docs.vllm.ai/en/latest/design/prefix_caching.html
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

import msgspec

_KEY_BYTES = 32 * 1024
_WORTHWHILE = 256  # bytes: about four of the blocks of 16 tokens in which vLLM caches
_SAMPLE = 64
_NONE = msgspec.Raw(b"")
Piece = bytes | msgspec.Raw


class _Message(msgspec.Struct):
    role: msgspec.Raw = _NONE
    content: msgspec.Raw = _NONE
    tool_calls: msgspec.Raw = _NONE


class _Part(msgspec.Struct):
    text: msgspec.Raw = _NONE


class _Chat(msgspec.Struct):
    model: msgspec.Raw = _NONE
    cache_salt: msgspec.Raw = _NONE
    tools: msgspec.Raw = _NONE
    messages: list[_Message] = []


class _Completion(msgspec.Struct):
    model: msgspec.Raw = _NONE
    cache_salt: msgspec.Raw = _NONE
    prompt: msgspec.Raw = _NONE


class _Response(msgspec.Struct):
    model: msgspec.Raw = _NONE
    cache_salt: msgspec.Raw = _NONE
    tools: msgspec.Raw = _NONE
    instructions: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE


_parts_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_part_decoder = msgspec.json.Decoder(_Part)
_messages_decoder = msgspec.json.Decoder(list[_Message])
_chat_decoder = msgspec.json.Decoder(_Chat)
_completion_decoder = msgspec.json.Decoder(_Completion)
_response_decoder = msgspec.json.Decoder(_Response)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How to send the prompts of a shard that begin alike.

    Attributes:
        order: The prompts' indices in the order of sending.
        groups: For each prompt by its index, a digest of the beginning that it shares with others; None for one that
            begins like no other. Shards of one batch come to the same digest for the same beginning.
    """

    order: tuple[int, ...]
    groups: tuple[bytes | None, ...]


def can_share(path: str) -> bool:
    """Whether requests to this route have prompts that a server may find in its cache."""
    return path in _PIECES


def arrangement(path: str, bodies: Sequence[Piece]) -> Arrangement | None:
    """How to send requests to this route with these bodies; None when their order does not matter.

    A look at 64 of them tells whether it may: where no prompt begins like another one, that is all the cost.
    """
    if not can_share(path):
        return None
    if len(bodies) > 2 * _SAMPLE:
        sample = random.Random(len(bodies)).sample(bodies, _SAMPLE)  # noqa: S311  no regularity of a file escapes it
        if not _any_shared([prompt_key(path, body) for body in sample]):
            return None
    return arrange([prompt_key(path, body) for body in bodies])


def prompt_key(path: str, body: Piece) -> bytes:
    """The beginning of a request's prompt, at most 32 KiB, in the order in which chat templates write it.

    Prompts with a common beginning have keys with a common beginning; texts stay as the client has escaped them. Parts
    that are no text, such as images, stand as a digest. A body of an unknown shape has some key: whether it can be
    answered is the server's affair.
    """
    key = bytearray()
    try:
        for piece in _PIECES[path](body):
            key += memoryview(piece)[: _KEY_BYTES - len(key)]
            key += b"\0"
            if len(key) >= _KEY_BYTES:
                break
    except (msgspec.DecodeError, RecursionError):
        pass
    return bytes(key)


def arrange(keys: Sequence[bytes]) -> Arrangement | None:
    """How to send prompts with these keys; None when they share too little for the order to matter.

    They are sorted if neighbours then share at least 256 bytes more, on the average, than they do as they come. All
    shards of a batch sort alike, so those that run at the same time go through the beginnings in the same order.
    """
    if len(keys) < 2:
        return None
    order = sorted(range(len(keys)), key=keys.__getitem__)
    shared = _mean_shared([keys[index] for index in order])
    if shared < _WORTHWHILE:
        return None
    if shared - _mean_shared(keys) < _WORTHWHILE:
        order = list(range(len(keys)))
    return Arrangement(tuple(order), _groups(keys, shared))


def shared_bytes(one: bytes, other: bytes) -> int:
    """How many bytes at their beginning are the same."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _any_shared(keys: Sequence[bytes]) -> bool:
    return any(shared_bytes(one, other) >= _WORTHWHILE for one, other in pairwise(sorted(keys)))


def _mean_shared(keys: Sequence[bytes]) -> float:
    return sum(shared_bytes(one, other) for one, other in pairwise(keys)) / len(keys)


def _groups(keys: Sequence[bytes], shared: float) -> tuple[bytes | None, ...]:
    """Groups by the first bytes of the keys, as many as is typical: a power of two, or no two shards would agree."""
    length = 1 << (int(shared * 0.75).bit_length() - 1)
    beginnings = [key[:length] for key in keys]
    sizes = Counter(beginnings)
    digests = {text: blake2b(text, digest_size=16).digest() for text, size in sizes.items() if size > 1}
    return tuple(digests.get(beginning) for beginning in beginnings)


def _chat_pieces(body: Piece) -> Iterator[Piece]:
    chat = _chat_decoder.decode(body)
    yield chat.model
    yield chat.cache_salt
    yield chat.tools
    yield from _message_pieces(chat.messages)


def _completion_pieces(body: Piece) -> Iterator[Piece]:
    completion = _completion_decoder.decode(body)
    yield completion.model
    yield completion.cache_salt
    yield completion.prompt


def _response_pieces(body: Piece) -> Iterator[Piece]:
    response = _response_decoder.decode(body)
    yield response.model
    yield response.cache_salt
    yield response.tools
    yield response.instructions
    if _is_list(response.input):
        yield from _message_pieces(_messages_decoder.decode(response.input))
    else:
        yield response.input


def _message_pieces(messages: list[_Message]) -> Iterator[Piece]:
    for message in messages:
        yield message.role
        if _is_list(message.content):
            yield from map(_part_piece, _parts_decoder.decode(message.content))
        else:
            yield message.content
        yield message.tool_calls


def _is_list(value: msgspec.Raw) -> bool:
    return bytes(memoryview(value)[:1]) == b"["


def _part_piece(part: msgspec.Raw) -> Piece:
    """A part's text; a digest of one that has none, such as an image, which may be megabytes long."""
    text = _part_decoder.decode(part).text
    return text if memoryview(text) else blake2b(part, digest_size=16).digest()


_PIECES: dict[str, Callable[[Piece], Iterator[Piece]]] = {
    "/v1/chat/completions": _chat_pieces,
    "/v1/completions": _completion_pieces,
    "/v1/responses": _response_pieces,
}
