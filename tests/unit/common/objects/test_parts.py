from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.objects.parts import (
    MAX_COPY_BYTES,
    MIN_PART_BYTES,
    CopiedPart,
    Piece,
    plan_parts,
)

PACK = 8 * 1024 * 1024
SIZES = st.lists(
    st.integers(0, 100)
    | st.integers(MIN_PART_BYTES - 50, MIN_PART_BYTES + 50)
    | st.integers(0, 3 * PACK)
    | st.integers(2 * MIN_PART_BYTES - 50, 2 * MIN_PART_BYTES + 50)
    | st.integers(MAX_COPY_BYTES - 5, 5 * MAX_COPY_BYTES),
    max_size=20,
)


@given(SIZES)
def test_parts_cover_the_sources_in_order_within_the_limits_of_s3(sizes: list[int]) -> None:
    parts = list(plan_parts([(str(number), size) for number, size in enumerate(sizes)], PACK))
    pieces: list[Piece] = []
    for number, part in enumerate(parts, 1):
        own = [part.piece] if isinstance(part, CopiedPart) else list(part.pieces)
        length = sum(piece.length for piece in own)
        assert 0 < length <= (MAX_COPY_BYTES if isinstance(part, CopiedPart) else PACK)
        assert length >= MIN_PART_BYTES or number == len(parts)
        pieces += own
    expected = [(str(number), offset) for number, size in enumerate(sizes) if size for offset in (0, size)]
    bounds: list[tuple[str, int]] = []
    for piece in pieces:
        if bounds and bounds[-1] == (piece.key, piece.start):
            bounds.pop()
        else:
            bounds.append((piece.key, piece.start))
        bounds.append((piece.key, piece.start + piece.length))
    assert bounds == expected


@given(st.lists(st.integers(MIN_PART_BYTES, MAX_COPY_BYTES), max_size=20))
def test_large_sources_are_never_read(sizes: list[int]) -> None:
    parts = list(plan_parts([(str(number), size) for number, size in enumerate(sizes)], PACK))
    assert parts == [CopiedPart(Piece(str(number), 0, size)) for number, size in enumerate(sizes)]
