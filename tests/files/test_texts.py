"""files.texts: lone surrogates are found, and blocks keep their limits and the order of their items."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpair.files import texts
from simpair.files.texts import cut_into_blocks, lone_surrogate


@pytest.mark.parametrize(
    ("text", "position"), [("", None), ("猫😀", None), ("\ud83d", 0), ("ab\udc00c", 2), ("\ud83d\ude00", 0)]
)
def test_a_lone_surrogate_is_found(text: str, position: int | None) -> None:
    assert lone_surrogate(text) == position


@given(st.lists(st.text(max_size=8), max_size=40))
def test_blocks_hold_all_items_in_order_within_the_limits(items: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "BLOCK_TEXTS", 5)
        patch.setattr(texts, "BLOCK_CHARACTERS", 12)
        blocks = list(cut_into_blocks(iter(items), lambda item: item))
    assert [item for block in blocks for item in block] == items
    for block in blocks:
        assert 1 <= len(block) <= 5
        assert sum(map(len, block[:-1])) < 12


def test_items_are_drawn_as_they_are_needed() -> None:
    drawn = []

    def stream() -> object:
        for number in range(3 * texts.BLOCK_TEXTS):
            drawn.append(number)
            yield ""

    next(cut_into_blocks(stream(), str))  # type: ignore[arg-type]
    assert len(drawn) == texts.BLOCK_TEXTS
