"""What it costs that lines are sorted within a shard, and not across the whole batch.

    .venv/bin/python benchmarks/prefix_shards.py [--lines 4000] [--cache 10 50]

Counts, without any server, how often the beginning of a line is still in a cache that holds so many beginnings and
forgets what was used the longest ago, for lines shuffled over some beginnings: as they come, sorted within shards of
several sizes, and sorted as a whole.
"""

import argparse
import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence


def share_of_hits(beginnings: Iterable[int], room: int) -> float:
    cache: OrderedDict[int, None] = OrderedDict()
    hits = total = 0
    for beginning in beginnings:
        total += 1
        if beginning in cache:
            hits += 1
            cache.move_to_end(beginning)
            continue
        cache[beginning] = None
        if len(cache) > room:
            cache.popitem(last=False)
    return hits / total


def sorted_within(lines: Sequence[int], size: int) -> list[int]:
    return [line for at in range(0, len(lines), size) for line in sorted(lines[at : at + size])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=4_000)
    parser.add_argument("--cache", type=int, nargs="+", default=[10, 50], help="beginnings that it holds")
    parser.add_argument("--beginnings", type=int, nargs="+", default=[20, 100, 400, 800])
    parser.add_argument("--shards", type=int, nargs="+", default=[500, 1000, 2000], help="lines in a shard")
    options = parser.parse_args()
    names = ["cache holds", "beginnings", "as they come", *(f"shards of {size}" for size in options.shards), "all"]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    rng = random.Random(1)
    for room in options.cache:
        for count in options.beginnings:
            lines = [rng.randrange(count) for _ in range(options.lines)]
            orders = [lines, *(sorted_within(lines, size) for size in options.shards), sorted(lines)]
            shares = [f"{share_of_hits(order, room):.1%}" for order in orders]
            print(f"| {room} | {count} | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
