"""Any object given as a text: an embedding of norm 1 in its place, or an InputError of one line."""

from __future__ import annotations

import random
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram
from tokenizers.normalizers import NFKC
from tokenizers.pre_tokenizers import ByteLevel, Metaspace
from tokenizers.processors import TemplateProcessing

from simpair.checkpoint.settings import Checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.towers import linear as products
from simpair.errors import InputError, ModelCorrupt, SimpairError

_ROLES = ("query", "document", None)
_SPECIAL = [
    "[CLS]",
    "[SEP]",
    "[PAD]",
    "[MASK]",
    "[UNK]",
    "<s>",
    "</s>",
    "##ing",
    "<unk>",
    "▁",
    "Ġ",
    "\ufffd",
    "{}",
    "%s",
]
_MARKS = [chr(code) for code in range(0x300, 0x340)]
_CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0xAD, *range(0x200B, 0x2010), 0x2028, 0xFEFF)]
_SPACES = [chr(code) for code in range(0x10000) if chr(code).isspace()]
_NO_TEXTS: tuple[Any, ...] = (
    *(None, 0, 1.5, float("nan"), True, b"bytes", bytearray(b"x"), ["a"], ("a", "b"), {"a": 1}, {"a"}, object(), str),
    *(np.int64(3), np.array(["a"]), np.bytes_(b"a"), Exception("a")),
)
_HALVES = ("\ud800", "a\udfff", "\udc80bc", "今\ud83d")


def _text(source: random.Random) -> str:
    """A text of some kind that somebody's data has."""
    length = source.choice([0, 1, 2, 8, 40, 200])
    kinds: tuple[Callable[[], str], ...] = (
        lambda: "".join(
            chr(source.choice([*range(0xD800), *range(0xE000, 0x110000)][:: 1 + length])) for _ in range(3)
        ),
        lambda: "".join(map(chr, source.choices(range(0xD800), k=length))),
        lambda: "".join(map(chr, source.choices(range(0xE000, 0x110000), k=length))),
        lambda: "".join(map(chr, source.choices(range(128), k=length))),
        lambda: "".join(map(chr, source.choices(range(0x4E00, 0xA000), k=length))),
        lambda: "".join(map(chr, source.choices(range(0x1F300, 0x1FAFF), k=length))),
        lambda: "".join(source.choices(_CONTROLS, k=length)),
        lambda: "".join(source.choices(_SPACES, k=length)),
        lambda: "e" + "".join(source.choices(_MARKS, k=length)),
        lambda: source.choice("aZ今！😀\0\u0301 ") * source.choice([1, 99, 100, 101, 5_000]),
        lambda: source.choice(["", " "]).join(source.choices([*_SPECIAL, "cat", "天"], k=length)),
        lambda: " ".join(
            source.choices(["the", "Cat", "ÉLAN", "don't", "3.14", "ﬁn", "ß", "İ", "क्षि", "ไทย"], k=length)
        ),
        lambda: source.randbytes(length).decode("latin-1"),
        lambda: source.randbytes(length).decode("utf-8", "replace"),
        lambda: unicodedata.normalize("NFD", "".join(map(chr, source.choices(range(0xAC00, 0xD7A4), k=length)))),
    )
    return source.choice(kinds)()


def _texts(seed: int, count: int) -> list[str]:
    """That many texts, a tenth of them repeated."""
    source = random.Random(seed)
    texts = [_text(source) for _ in range(count - count // 10)]
    texts += source.choices(texts, k=count // 10)
    source.shuffle(texts)
    return texts


def _bytes_tokenizer() -> Tokenizer:
    """Byte pairs, as RoBERTa has them: every byte, and no merges."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {piece: row for row, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters])}
    tokenizer = Tokenizer(BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return _with_ends(tokenizer)


def _pieces_tokenizer() -> Tokenizer:
    """Unigram tokens, as XLM-RoBERTa has them."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁the", "cat", *"abcdefghijklmnopqrstuvwxyz今天猫，。"]
    tokenizer = Tokenizer(Unigram([(piece, -float(row)) for row, piece in enumerate(pieces)], 3, byte_fallback=False))
    tokenizer.normalizer, tokenizer.pre_tokenizer = NFKC(), Metaspace()
    return _with_ends(tokenizer)


def _with_ends(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


class _Case(NamedTuple):
    encoder: TwinTowerEncoder
    tolerance: float


_CASES = ["WordPiece", "BPE", "Unigram", "WordPiece, int8", "WordPiece, bfloat16"]


@pytest.fixture(params=_CASES)
def case(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Checkpoint]) -> _Case:
    """A tiny encoder of each kind of tokenizer and dtype, with a prompt a role; what a batch may move a vector by.

    Sums of whole numbers are exact. Where floats stand in for them, a sum may be rounded otherwise in another batch,
    and an input of the next product that lies between two codes gets the other one.
    """
    kind, _, dtype = request.param.partition(", ")
    options: dict[str, Any] = {"prompts": {"query": "query: ", "document": "the "}}
    if kind != "WordPiece":
        options["tokenizer"] = {"BPE": _bytes_tokenizer, "Unigram": _pieces_tokenizer}[kind]()
        options["config"] = {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 66}
    tolerance = {"bfloat16": 0.05, "int8": 1e-6 if products._int8_works() else 0.01}.get(dtype, 1e-6)
    return _Case(TwinTowerEncoder(make_checkpoint(**options), dtype=dtype or "float32"), tolerance)


def _encode_fuzzed(case: _Case, seed: int, count: int) -> None:
    """A batch is sound and in order: each text alone, and the texts in another order, have the same vectors."""
    texts, role, source = _texts(seed, count), _ROLES[seed % 3], random.Random(seed)
    asked: dict[str, Any] = {"role": role, "on_truncation": "ignore"}
    vectors = case.encoder.encode(texts, **asked)
    assert vectors.shape == (count, 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=1e-5)
    order = source.sample(range(count), count)
    again = case.encoder.encode([texts[row] for row in order], **asked)
    np.testing.assert_allclose(again, vectors[order], rtol=0, atol=case.tolerance)
    streamed = np.concatenate(list(case.encoder.encode_stream(iter(texts), **asked)))
    np.testing.assert_allclose(streamed, vectors, rtol=0, atol=case.tolerance)
    for row in source.sample(range(count), 5):
        alone = case.encoder.encode(texts[row], **asked)
        np.testing.assert_allclose(alone, vectors[row], rtol=0, atol=case.tolerance, err_msg=repr(texts[row][:80]))
    _refuse_among(case.encoder, texts, source)


def _refuse_among(encoder: TwinTowerEncoder, texts: list[str], source: random.Random) -> None:
    """The first of two entries that are no texts is named by its position, in a batch and in a stream."""
    first, second = sorted(source.sample(range(len(texts)), 2))
    given: list[Any] = list(texts)
    given[first], given[second] = source.choice([*_NO_TEXTS, *_HALVES]), source.choice([*_NO_TEXTS, *_HALVES])
    for encode in (encoder.encode, lambda texts: list(encoder.encode_stream(iter(texts)))):
        with pytest.raises(InputError, match=rf"^text {first} (is a|has a lone surrogate)") as caught:
            encode(given)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [1, 2])
def test_fuzzed_texts_are_unit_vectors_in_their_places(case: _Case, seed: int) -> None:
    _encode_fuzzed(case, seed, 60)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ten_thousand_fuzzed_texts_are_unit_vectors_in_their_places(case: _Case) -> None:
    for seed in range(100, 110):
        _encode_fuzzed(case, seed, 10_000 // 10 // len(_CASES))


@pytest.mark.slow
def test_the_bundled_model_takes_fuzzed_texts() -> None:
    texts = _texts(7, 100)
    vectors = TwinTowerEncoder.from_pretrained(device="cpu").encode(texts, on_truncation="ignore")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_vectors_in_another_order_would_be_caught(make_checkpoint: Callable[..., Checkpoint]) -> None:
    """The control: an encoder that swaps two rows, and one that gives half a vector, fail the checks above."""

    class _Swapping(TwinTowerEncoder):
        def encode(self, texts: Any, **options: Any) -> Any:
            vectors = super().encode(texts, **options)
            return vectors if isinstance(texts, str) else np.roll(vectors, 1, axis=0)

    class _Halving(TwinTowerEncoder):
        def encode(self, texts: Any, **options: Any) -> Any:
            return super().encode(texts, **options) / 2

    for broken in (_Swapping, _Halving):
        with pytest.raises(AssertionError):
            _encode_fuzzed(_Case(broken(make_checkpoint()), 1e-6), 1, 60)


# --- what is given in place of a sequence of texts -------------------------------------------------------------------

_NO_SEQUENCES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a number": lambda: 3,
    "NaN": lambda: float("nan"),
    "a type": lambda: str,
    "bytes": lambda: b"a cat",
    "a bytearray": lambda: bytearray(b"a cat"),
    "an array without a dimension": lambda: np.array("a cat"),
    "an array of two dimensions": lambda: np.array([["a"], ["cat"]]),
    "an array of bytes": lambda: np.array([b"a cat"]),
    "a list in a list": lambda: [["a cat"]],
    "pairs": lambda: [("a cat", "a dog")],
    "numbers": lambda: range(3),
    "a missing value": lambda: np.array(["a cat", None], dtype=object),
    "half a character": lambda: "a\ud800",
}
_NO_ORDER: dict[str, Callable[[], Any]] = {
    "a generator": lambda: (text for text in ["a cat"]),
    "an iterator": lambda: iter(["a cat"]),
    "a set": lambda: {"a cat", "a dog"},
    "a mapping": lambda: {"text": "a cat"},
}
"""What ``encode`` cannot return to, or cannot put in order; the stream takes the first two."""


@pytest.mark.parametrize("given", [*_NO_SEQUENCES, *_NO_ORDER])
def test_other_objects_than_sequences_are_refused_in_one_line(tiny_encoder: TwinTowerEncoder, given: str) -> None:
    make = {**_NO_SEQUENCES, **_NO_ORDER}[given]
    for encode in (tiny_encoder.encode, tiny_encoder.encode_query, tiny_encoder.encode_document):
        with pytest.raises(InputError, match=r"expected|lone surrogate") as caught:
            encode(make())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [*_NO_SEQUENCES, "one text"])
def test_other_objects_than_streams_are_refused_in_one_line(tiny_encoder: TwinTowerEncoder, given: str) -> None:
    make = {**_NO_SEQUENCES, "one text": lambda: "a cat"}[given]
    with pytest.raises(InputError, match=r"expected|lone surrogate") as caught:
        list(tiny_encoder.encode_stream(make()))
    assert "\n" not in str(caught.value)


class _Labeled:
    """Texts by label, as a column of a filtered table has them: ``[2]`` is not the third."""

    def __init__(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        self._texts = list(texts)
        self._by_label = dict(zip(labels, texts, strict=True))

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __getitem__(self, label: int) -> str:
        return self._by_label[label]


_SEQUENCES: dict[str, Callable[[list[str]], Any]] = {
    "a tuple": tuple,
    "an array": np.array,
    "an array of objects": lambda texts: np.array(texts, dtype=object),
    "texts of a class of their own": lambda texts: [type("Text", (str,), {})(text) for text in texts],
    "texts by label": lambda texts: _Labeled(texts, range(len(texts))[::-1]),
    "texts by labels from elsewhere": lambda texts: _Labeled(texts, range(100, 100 + len(texts))),
}


@pytest.mark.parametrize("kind", _SEQUENCES)
def test_any_sequence_of_texts_is_read_by_position(tiny_encoder: TwinTowerEncoder, kind: str) -> None:
    texts = ["a cat", "a dog", "the mat", "a cat", "今天", "a dog"]
    expected = tiny_encoder.encode(texts)
    np.testing.assert_array_equal(tiny_encoder.encode(_SEQUENCES[kind](texts)), expected)
    streamed = np.concatenate(list(tiny_encoder.encode_stream(_SEQUENCES[kind](texts))))
    np.testing.assert_allclose(streamed, expected, rtol=0, atol=1e-6)  # laid out for another kernel


def test_a_column_of_a_table_is_read_by_position(tiny_encoder: TwinTowerEncoder) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": ["x", "a cat", "a dog", "a cat"]})
    column = table.text[table.text != "x"].iloc[::-1]
    np.testing.assert_array_equal(tiny_encoder.encode(column), tiny_encoder.encode(["a cat", "a dog", "a cat"]))
    with pytest.raises(InputError, match=r"^text 1 is a"):
        tiny_encoder.encode(pandas.Series(["a cat", None]))


@pytest.mark.parametrize("wrong", [{"role": "passage"}, {"role": ["query"]}, {"role": 3}, {"on_truncation": None}])
def test_an_unknown_option_is_refused(tiny_encoder: TwinTowerEncoder, wrong: dict[str, Any]) -> None:
    for encode in (tiny_encoder.encode, lambda texts, **options: list(tiny_encoder.encode_stream(texts, **options))):
        with pytest.raises(SimpairError, match="expected"):
            encode(["a cat"], **wrong)
    with pytest.raises(TypeError, match="roll"):
        tiny_encoder.encode("a cat", roll="query")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "wrong",
    [None, [[1.0, 2.0], [1.0]], [[[1.0]]], [None], {"a": 1}, {"a"}, pytest.param(object(), id="an object")],
    ids=repr,
)
def test_similarity_refuses_other_objects(tiny_encoder: TwinTowerEncoder, wrong: Any) -> None:
    vectors = tiny_encoder.encode(["a cat", "a dog"])
    for compare in (tiny_encoder.similarity, tiny_encoder.similarity_pairwise):
        with pytest.raises(InputError, match="expected embeddings"):
            compare(vectors, wrong)


def test_embeddings_on_their_way_through_a_gradient_have_a_similarity(tiny_encoder: TwinTowerEncoder) -> None:
    batch = tiny_encoder.tokenizer.pad(["a cat", "a dog"])
    vectors = tiny_encoder(*batch)
    np.testing.assert_allclose(np.diag(tiny_encoder.similarity(vectors, vectors)), 1, atol=1e-5)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_give_no_vector(tiny_encoder: TwinTowerEncoder, weight: float) -> None:
    with torch.no_grad():
        tiny_encoder.towers["document"].backbone.encoder.layer[1].output.LayerNorm.bias[3] = weight
    for encode in (tiny_encoder.encode, lambda texts: list(tiny_encoder.encode_stream(texts))):
        with pytest.raises(ModelCorrupt, match="not finite"):
            encode(["a cat"])


# --- large texts, and many -------------------------------------------------------------------------------------------

_LARGE: dict[str, str] = {
    "words": "the cat sits on mat ",
    "one word": "x",
    "Chinese": "今天天气很好",
    "emoji": "😀",
    "marks": "!?.",
    "brackets": "[]",
    "white space": " \t\r\n\u3000",
    "nothing that is kept": "\0\u200b\ufeff",
    "letters with accents": "e\u0301",
    "long words": "x" * 500 + "今天😀 \t\n",
    "special tokens": "[SEP]",
}


def _large(kind: str, size: int) -> str:
    """That many bytes of UTF-8."""
    return _LARGE[kind] * (size // len(_LARGE[kind].encode()))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", _LARGE)
@pytest.mark.parametrize("size", [400_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
def test_a_large_text_has_the_vector_of_its_beginning(tiny_encoder: TwinTowerEncoder, kind: str, size: int) -> None:
    """Its first 64 tokens, or the one unknown word that it is; in time of the processor, which others may keep busy."""
    text = _large(kind, size)
    begun = time.process_time()
    vector = tiny_encoder.encode(text, on_truncation="ignore")
    assert time.process_time() - begun < 2 + size / 250_000
    beginning = tiny_encoder.encode(_large(kind, 60_000), on_truncation="ignore")
    np.testing.assert_allclose(vector, beginning, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_million_texts_that_are_empty_are_encoded_once(tiny_encoder: TwinTowerEncoder) -> None:
    one = tiny_encoder.encode("")
    vectors = tiny_encoder.encode([""] * 1_000_000)
    assert vectors.shape == (1_000_000, 32)
    assert (vectors == one).all()
    counted = 0
    for block in tiny_encoder.encode_stream("" for _ in range(1_000_000)):
        assert (block == block[0]).all()
        np.testing.assert_allclose(block[0], one, rtol=0, atol=1e-6)  # a stream lays its products out, a call may not
        counted += len(block)
    assert counted == 1_000_000
