"""Automatic prefix caching without a KV cache: an LRU of block hashes, counted in tokens as vLLM counts."""

from collections import OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """Which blocks of which prompts have been seen lately.

    A block's hash covers all tokens before it, so that only a common prefix hits. A prompt's last token is always
    computed anew: a prompt that is cached as a whole hits one block less when it ends on a block's edge.

    Args:
        blocks: how many block hashes are remembered.
        block_size: tokens per block; only full blocks are cached.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        self._capacity = blocks
        self._block_size = block_size
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def admit(self, tokens: Sequence[str]) -> int:
        """Return how many leading tokens were cached already, and remember all full blocks of the prompt."""
        size, blocks = self._block_size, self._blocks
        parent, hits, hitting = 0, 0, True
        for start in range(0, len(tokens) - size + 1, size):
            parent = hash((parent, *tokens[start : start + size]))
            known = parent in blocks
            hitting = hitting and known and start + size < len(tokens)
            if hitting:
                hits += size
            if known:
                blocks.move_to_end(parent)
            else:
                blocks[parent] = None
        while len(blocks) > self._capacity:
            blocks.popitem(last=False)
        return hits

    def clear(self) -> None:
        """Forget every block."""
        self._blocks.clear()
