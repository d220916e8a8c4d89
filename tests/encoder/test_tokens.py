"""simpair.encoder.tokens: prompts, truncation, padding, packing and the plan of batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from simpair.checkpoint.settings import Settings
from simpair.encoder.batches import TokenBudget, pack, plan_batches
from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.tokens import Tokens, TokensByRole, check_texts
from simpair.errors import InputError


@pytest.fixture
def tokens(tiny_encoder: TwinTowerEncoder) -> TokensByRole:
    return tiny_encoder.tokenizer


@pytest.fixture
def tokenizer(tokens: TokensByRole) -> Tokenizer:
    return tokens.plain()


def _tokens(tokenizer: Tokenizer, *, pad_token_id: int = 0, **options: Any) -> TokensByRole:
    """Return the tokens of a tied encoder."""
    tokens = Tokens(tokenizer, Settings(**options), pad_token_id)
    return TokensByRole({"query": tokens, "document": tokens})


def test_ids_are_those_of_the_tokenizer_alone(tokens: TokensByRole, tokenizer: Tokenizer) -> None:
    texts = ["the cat sits", "今天天气 很好", "", "a1b2"]
    assert tokens.ids(texts) == [tokenizer.encode(text).ids for text in texts]


def test_a_long_text_is_truncated_before_its_closing_token(tokens: TokensByRole, tokenizer: Tokenizer) -> None:
    text = "cat " * 500
    (ids,) = tokens.ids([text])
    whole = tokenizer.encode(text).ids
    assert len(ids) == tokens.max_seq_length == 64
    assert ids == [*whole[:63], whole[-1]]


@pytest.mark.parametrize(
    ("role", "prompt"), [("query", "query: "), ("document", ""), (None, "text: ")], ids=["query", "document", "none"]
)
def test_each_role_has_its_prompt(tokenizer: Tokenizer, role: str, prompt: str) -> None:
    prompts = {"query": "query: ", "document": "", "plain": "text: "}
    tokens = _tokens(tokenizer, max_seq_length=64, prompts=prompts, default_prompt_name="plain")
    assert tokens.prompt(role) == prompt
    assert tokens.ids(["cat"], role=role) == [tokenizer.encode(f"{prompt}cat").ids]


def test_without_a_default_prompt_a_text_without_a_role_stands_alone(tokenizer: Tokenizer) -> None:
    tokens = _tokens(tokenizer, max_seq_length=64, prompts={"query": "query: "})
    assert tokens.ids(["cat"]) == tokens.ids(["cat"], role="document") == [tokenizer.encode("cat").ids]


def test_the_prompt_counts_towards_the_maximum_length(tokenizer: Tokenizer) -> None:
    tokens = _tokens(tokenizer, max_seq_length=5, prompts={"query": "the dog "})
    assert tokens.ids(["cat sits red"], role="query") == tokens.ids(["the dog cat"])


def test_the_tokenizer_given_is_left_as_it_was(tokenizer: Tokenizer) -> None:
    tokenizer.enable_padding(length=9)
    before = tokenizer.to_str()
    _tokens(tokenizer, max_seq_length=4, prompts={}).ids(["the cat sits on the mat"])
    assert tokenizer.to_str() == before


def test_plain_is_a_copy_without_truncation(tokens: TokensByRole) -> None:
    plain = tokens.plain()
    assert plain.truncation is None
    assert len(plain.encode("cat " * 500).ids) == 502
    plain.add_special_tokens(["[NEW]"])
    assert tokens.plain().token_to_id("[NEW]") is None


def test_pad_is_a_right_padded_rectangle(tokenizer: Tokenizer) -> None:
    tokens = _tokens(tokenizer, max_seq_length=64, prompts={}, pad_token_id=7)
    ids, mask = tokens.pad(["cat", "the cat sits"])
    short, long = tokens.ids(["cat", "the cat sits"])
    assert ids.dtype == mask.dtype == torch.int64
    assert ids.tolist() == [[*short, 7, 7], long]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_pad_of_nothing_has_no_rows(tokens: TokensByRole) -> None:
    batch = tokens.pad([])
    assert batch.input_ids.shape == batch.attention_mask.shape == (0, 0)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", 3], "text 1 is a int"),
        (["a", "b", None], "text 2 is a NoneType"),
        ([b"a"], "text 0 is a bytes"),
        (["ok", "a\ud800b"], "text 1 has a lone surrogate at character 1"),
    ],
)
def test_an_entry_that_is_no_text_is_refused_with_its_position(
    tokens: TokensByRole, texts: list[str], message: str
) -> None:
    for refusing in (check_texts, tokens.ids, tokens.pad):
        with pytest.raises(InputError, match=message):
            refusing(texts)


def test_the_replacement_that_the_error_names_is_accepted(tokens: TokensByRole) -> None:
    check_texts(["a\ud800b".encode("utf-8", "replace").decode()])


def test_pack_keeps_the_real_tokens_shortest_first() -> None:
    ids = torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0], [9, 10, 0, 0]])
    batch = pack(ids, (ids > 0).long())
    assert batch.input_ids.tolist() == [8, 9, 10, 5, 6, 7]
    assert batch.lengths == (1, 2, 3)
    assert batch.places.tolist() == [2, 0, 1]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_pack_keeps_every_token_with_padding_on_either_side(lengths: list[int], data: st.DataObject) -> None:
    rows = [[100 * row + column + 1 for column in range(length)] for row, length in enumerate(lengths)]
    width = max(lengths) + data.draw(st.integers(0, 2))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for row, tokens in enumerate(rows):
        start = data.draw(st.integers(0, width - len(tokens)))
        ids[row, start : start + len(tokens)] = torch.tensor(tokens)
        mask[row, start : start + len(tokens)] = 1
    batch = pack(ids, mask)
    parts = [part.tolist() for part in batch.input_ids.split(batch.lengths)]
    assert list(batch.lengths) == sorted(lengths)
    assert [parts[place] for place in batch.places] == rows


def test_pack_takes_masks_of_any_number_type() -> None:
    ids = torch.tensor([[3, 4, 0]])
    for mask in (torch.tensor([[True, True, False]]), torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[2, 1, 0]])):
        assert pack(ids, mask).input_ids.tolist() == [3, 4]


def test_pack_refuses_other_shapes() -> None:
    ids = torch.ones(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"must both be \(B, T\); got \(2, 3\) and \(2, 2\)"):
        pack(ids, ids[:, :2])
    with pytest.raises(ValueError, match=r"must both be \(B, T\)"):
        pack(ids[0], ids[0])
    with pytest.raises(ValueError, match="no real token"):
        pack(ids, torch.tensor([[1, 1, 0], [0, 0, 0]]))


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 50))
def test_a_plan_holds_every_row_once_within_its_budget(lengths: list[int], budget: int) -> None:
    sequences = [[row] * length for row, length in enumerate(lengths)]
    seen: list[int] = []
    for rows, batch in plan_batches(sequences, TokenBudget(budget)):
        assert sum(batch.lengths) <= budget or len(rows) == 1
        assert list(batch.lengths) == sorted(batch.lengths)
        parts = [part.tolist() for part in batch.input_ids.split(batch.lengths)]
        assert [parts[place] for place in batch.places] == [sequences[row] for row in rows]
        seen += rows
    assert sorted(seen) == list(range(len(lengths)))


def test_a_plan_starts_with_the_longest_and_is_drawn_lazily() -> None:
    sequences = [[0], [1] * 5, [2] * 9, [3] * 3]
    plan = plan_batches(sequences, TokenBudget(9))
    assert iter(plan) is plan
    assert [rows for rows, _ in plan] == [[2], [1], [0, 3]]


def test_a_plan_is_one_batch_where_all_fits() -> None:
    (batch,) = plan_batches([[1] * 4, [1] * 3, [1] * 3], TokenBudget(10))
    assert batch[0] == [2, 1, 0]


@given(st.integers(20, 4096), st.integers(0, 9))
def test_a_plan_distributes_tokens_evenly(texts: int, seed: int) -> None:
    """Filled one after the other, batches would leave a small rest for the last one."""
    sequences = [[1] * (12 + (row * 7 + seed) % 6) for row in range(texts)]
    sizes = [len(batch.input_ids) for _, batch in plan_batches(sequences, TokenBudget(512))]
    assert max(sizes) - min(sizes) <= 3 * 17


@given(st.lists(st.integers(5, 300), min_size=1, max_size=200))
def test_no_batch_of_a_plan_is_a_small_rest(lengths: list[int]) -> None:
    """Each number of tokens that the products meet costs memory for ever, and a small rest may have any."""
    sizes = [len(batch.input_ids) for _, batch in plan_batches([[1] * length for length in lengths], TokenBudget(512))]
    assert sum(sizes) == sum(lengths)
    assert max(sizes) <= 512
    assert min(sizes) >= 100 or sum(lengths) <= 512


# Long texts, of which only the start is read


def _whole(tokenizer: Tokenizer, text: str, length: int) -> list[int]:
    """The ids of the whole text, cut: what reading the start alone must give."""
    ids = tokenizer.encode(text).ids
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            ["cat", "dogs", "今", "天气。", "，", " ", "\n", "x" * 90, "é", "e\u0301", "\u00a0", "😀", "\0", "[SEP]"]
        )
        | st.text(max_size=12),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 60),
)
def test_reading_the_start_of_a_long_text_changes_no_token(tokenizer: Tokenizer, parts: list[str], times: int) -> None:
    text = ("".join(parts) + " ") * times
    tokens = _tokens(tokenizer, max_seq_length=6, prompts={})
    found = tokens.tokenize([text, "cat"])
    assert found.ids[0] == _whole(tokenizer, text, 6)
    assert found.truncated == ([0] if len(tokenizer.encode(text).ids) > 6 else [])


def test_of_a_long_text_only_the_start_is_read(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above, which reading everything would pass too."""
    tokens = _tokens(tokenizer, max_seq_length=6, prompts={})
    for text in ("cat dog " * 10_000, "今天" * 10_000, "今天，" * 10_000, "cat\n" * 10_000):
        assert 60 <= len(tokens.of(None)._start(text)) <= 120
    assert tokens.of(None)._start("x" * 10_000) == "x" * 10_000


def test_a_start_without_enough_tokens_is_not_trusted(tokenizer: Tokenizer) -> None:
    text = " " * 500 + "cat dog the"
    assert _tokens(tokenizer, max_seq_length=6, prompts={}).ids([text]) == [tokenizer.encode("cat dog the").ids]


@pytest.mark.parametrize("change", ["normalizer", "pre_tokenizer", "added_tokens"])
def test_a_tokenizer_that_may_join_words_reads_everything(tokenizer: Tokenizer, change: str) -> None:
    other = Tokenizer.from_str(tokenizer.to_str())
    if change == "normalizer":
        other.normalizer = normalizers.Replace("cat dog", "mat")
    elif change == "pre_tokenizer":
        other.pre_tokenizer = pre_tokenizers.Split("the", "removed")
    else:
        other.add_tokens(["cat dog"])
    text = "cat dog " * 1_000
    assert _tokens(other, max_seq_length=6, prompts={}).of(None)._start(text) == text
