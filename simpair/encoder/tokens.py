"""Texts and a role → token ids, with the role's prompt and truncated; token ids → a padded batch. Imports no model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple

import torch
from tokenizers import Encoding, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from simpair.checkpoint.layout import Role
from simpair.checkpoint.settings import Settings
from simpair.encoder.workers import is_forked
from simpair.errors import InputError
from simpair.files.texts import lone_surrogate

__all__ = [
    "ROLE_NUMBERS",
    "PaddedBatch",
    "Role",
    "Tokenized",
    "Tokens",
    "TokensByRole",
    "are_texts",
    "check_texts",
    "draw_texts",
    "list_texts",
]

ROLE_NUMBERS: Mapping[Role | None, int] = {None: 0, "query": 1, "document": 2}
"""The numbers of the roles in a batch."""

_TOKENIZED_AT_ONCE = 1_024
"""Texts; an ``Encoding`` of the tokenizers library takes some kilobytes besides its ids."""
_WORD_ENDS = re.compile(r"[ \t\n\r!-/:;=?@\\^`{-~\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f\u4e00-\u9fff]")
"""Characters before which BERT's tokenizers always start a new word: white space, ideographs, most punctuation."""


class PaddedBatch(NamedTuple):
    """B texts as a rectangle: ``input_ids`` and ``attention_mask``, each (B, T) int64; the mask is 1 on real tokens."""

    input_ids: Tensor
    attention_mask: Tensor


class Tokenized(NamedTuple):
    """The token ids of each text, and the rows of those that were truncated."""

    ids: list[list[int]]
    truncated: list[int]


def are_texts(given: Any) -> bool:
    """Return whether an object is a text or a sequence of texts, by its first entry, rather than embeddings."""
    if isinstance(given, str):
        return True
    is_sequence = hasattr(given, "__len__") and hasattr(given, "__iter__") and _has_order(given)
    return is_sequence and isinstance(next(iter(given), None), str)


def list_texts(texts: Iterable[str]) -> list[str]:
    """Return the entries of a sequence by position, also if it labels them otherwise; they are not checked.

    Raises:
        InputError: It is not a sequence, or has no order.
    """
    with suppress(TypeError):  # a class cannot be iterated over
        if _has_order(texts) and hasattr(texts, "__len__"):
            return list(texts)
    expected = "expected a str or a sequence of them (a stream goes to encode_stream)"
    raise InputError(f"texts is a {type(texts).__name__}; {expected}")


def draw_texts(texts: Iterable[str]) -> Iterator[str]:
    """Return an iterator over the texts of a stream, each of which is checked when it is drawn.

    Raises:
        InputError: The texts are a single one, have no order, or are not iterable; or, later, one is not a text.
    """
    with suppress(TypeError):
        if not isinstance(texts, str) and _has_order(texts):
            return _checked(iter(texts))
    raise InputError(f"texts is a {type(texts).__name__}; expected an iterable of str; put a single text in a list")


def _checked(texts: Iterator[str]) -> Iterator[str]:
    for position, text in enumerate(texts):
        _check_text(text, position)
        yield text


def _has_order(texts: object) -> bool:
    """Return whether iterating over an object gives its entries in order; a table gives the names of its columns."""
    return not isinstance(texts, bytes | bytearray | Mapping | Set) and getattr(texts, "ndim", 1) == 1


def check_texts(texts: Sequence[str]) -> None:
    """Raise ``InputError`` with the position of the first entry that is not a well-formed string."""
    for position, text in enumerate(texts):
        _check_text(text, position)


def _check_text(text: object, position: int) -> None:
    if not isinstance(text, str):
        raise InputError(f"text {position} is a {type(text).__name__}; expected a str")
    if (place := lone_surrogate(text)) is not None:
        advice = 'decode the source as UTF-8, or use text.encode("utf-8", "replace").decode()'
        raise InputError(f"text {position} has a lone surrogate at character {place}; {advice}")


class Tokens:
    """The tokenizer of one tower, with its prompts and its maximum length.

    Args:
        tokenizer: A tokenizer of the ``tokenizers`` library; it is copied.
        settings: The maximum length, the prompts, and whether the prompt's tokens are pooled too.
        pad_token_id: The id that pads a batch.

    Attributes:
        max_seq_length: Maximum length in tokens, special tokens included; longer texts are truncated.
        pools_all: Whether all tokens are pooled, those of every prompt included.
    """

    def __init__(self, tokenizer: Tokenizer, settings: Settings, pad_token_id: int = 0) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(settings.max_seq_length)
        self._longest_read = _longest_read(tokenizer, settings.max_seq_length)
        names = {None: settings.default_prompt_name, "query": "query", "document": "document"}
        self._prompts = {role: "" if name is None else settings.prompts.get(name, "") for role, name in names.items()}
        self.max_seq_length = settings.max_seq_length
        self.pad_token_id = pad_token_id
        roles = () if settings.include_prompt else ROLE_NUMBERS
        self._skipped = {role: self._prompt_tokens(role) for role in roles if self.prompt(role)}
        self.pools_all = not self._skipped

    def skipped(self, role: Role | None) -> int:
        """Return how many leading tokens are left out of the pooling: those of a prompt that is not included."""
        return self._skipped.get(role, 0)

    def _prompt_tokens(self, role: Role | None) -> int:
        """Return the length of a prompt in tokens, without a closing special token as in sentence-transformers."""
        ids = self._tokenizer.encode(self.prompt(role)).ids
        added = self._tokenizer.get_added_tokens_decoder()
        return len(ids) - bool(ids and ids[-1] in added and added[ids[-1]].special)

    def prompt(self, role: Role | None) -> str:
        """Return the prompt set before every text of a role; ``""`` if the checkpoint declares none."""
        return self._prompts[role]

    def tokenize(self, texts: Sequence[str], *, role: Role | None = None) -> Tokenized:
        """Return the token ids of each text, prompt and special tokens included, truncated to ``max_seq_length``.

        The texts are trusted: :func:`check_texts` checks those of a stranger.

        Raises:
            InputError: A text has no tokens at all.
        """
        prompt, found = self.prompt(role), Tokenized([], [])
        for first in range(0, len(texts), _TOKENIZED_AT_ONCE):
            some = texts[first : first + _TOKENIZED_AT_ONCE]
            self._tokenize([prompt + text for text in some] if prompt else list(some), first, found, self.skipped(role))
        return found

    def _tokenize(self, texts: list[str], first: int, found: Tokenized, skipped: int) -> None:
        """Append the tokens of texts with a prompt of ``skipped`` tokens; ``first`` is the row of the first text."""
        starts = [self._start(text) for text in texts]
        encodings = self._encode_all(starts)
        for row, text in enumerate(texts):
            while not encodings[row].overflowing and len(starts[row]) < len(text):  # too few tokens
                starts[row] = self._start(text, 8 * len(starts[row]))
                encodings[row] = self._tokenizer.encode(starts[row])
            if not encodings[row].ids:
                raise InputError(f"the text {text[:40]!r} has no tokens in this checkpoint's tokenizer; leave it out")
            if len(encodings[row].ids) <= skipped:
                raise InputError(f"the text {text[:40]!r} has no tokens besides its prompt; leave it out")
            if len(encodings[row].ids) == self.max_seq_length and encodings[row].overflowing:
                found.truncated.append(first + row)
        found.ids.extend(encoding.ids for encoding in encodings)

    def _encode_all(self, texts: list[str]) -> list[Encoding]:
        if is_forked():  # the threads of tokenizers stayed in the parent process
            return [self._tokenizer.encode(text) for text in texts]
        return self._tokenizer.encode_batch_fast(texts)

    def _start(self, text: str, longest: int | None = None) -> str:
        """Return the first words of a text that is far longer than the maximum, cut where a word starts."""
        longest = longest or self._longest_read
        if longest is None or self._longest_read is None or len(text) <= longest:
            return text
        ends = [match.start() for match in _WORD_ENDS.finditer(text, longest // 2, longest)]
        return text[: ends[-1]] if ends else text

    def plain(self) -> Tokenizer:
        """Return a copy of the tokenizer without truncation or padding, as in ``tokenizer.json``."""
        copy = Tokenizer.from_str(self._tokenizer.to_str())
        copy.no_truncation()
        return copy


class TokensByRole:
    """The tokenizers of an encoder: texts and a role → token ids and padded batches.

    Args:
        towers: The tokenizer of each role; a tied encoder has the same one under both.
        default_role: The role of texts without one, if there are two towers.

    Attributes:
        tied: Whether both roles share one tower.
        needs_roles: Whether an embedding depends on the role of its text, besides the tokens.
        max_seq_length: Maximum length in tokens; with untied towers the default role's.
        pad_token_id: The id that pads a batch.
    """

    def __init__(self, towers: Mapping[Role, Tokens], default_role: Role = "document") -> None:
        self._towers = dict(towers)
        self._default_role = default_role
        self.tied = towers["query"] is towers["document"]
        self.needs_roles = not (self.tied and self.of(None).pools_all)
        self.max_seq_length = self.of(None).max_seq_length
        self.pad_token_id = towers["document"].pad_token_id

    def of(self, role: Role | None) -> Tokens:
        """Return the tokenizer of a role."""
        return self._towers[role or self._default_role]

    def prompt(self, role: Role | None) -> str:
        """Return the prompt set before every text of a role; ``""`` if there is none."""
        return self.of(role).prompt(role)

    def ids(self, texts: Sequence[str], *, role: Role | None = None) -> list[list[int]]:
        """Return the token ids of each text, prompt and special tokens included, truncated.

        Raises:
            InputError: A text is not a string, has a lone surrogate, or has no tokens.
        """
        check_texts(texts)
        return self.tokenize(texts, role=role).ids

    def tokenize(self, texts: Sequence[str], *, role: Role | None = None) -> Tokenized:
        """Return the token ids of checked texts, and which of them were truncated."""
        return self.of(role).tokenize(texts, role=role)

    def pad(self, texts: Sequence[str], *, role: Role | None = None) -> PaddedBatch:
        """Return the texts as a batch padded on the right: ``input_ids`` and ``attention_mask``, (B, T) int64.

        Example::

            embeddings = encoder(*encoder.tokenizer.pad(["a cat", "a dog"]))

        Raises:
            InputError: A text is not a string, has a lone surrogate, or has no tokens.
        """
        return self.pad_ids(self.ids(texts, role=role))

    def pad_ids(self, sequences: Sequence[Sequence[int]]) -> PaddedBatch:
        """Return token ids of texts as a batch padded on the right: two (B, T) int64 tensors."""
        lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
        real = torch.arange(max(map(len, sequences), default=0)) < lengths[:, None]
        input_ids = torch.full(real.shape, self.pad_token_id, dtype=torch.int64)
        input_ids[real] = torch.tensor(list(chain.from_iterable(sequences)), dtype=torch.int64)
        return PaddedBatch(input_ids, real.to(torch.int64))

    def plain(self) -> Tokenizer:
        """Return a copy of the document tower's tokenizer, without truncation or padding."""
        return self._towers["document"].plain()


def _longest_read(tokenizer: Tokenizer, max_seq_length: int) -> int | None:
    """Return how many characters are enough for the maximum length in usual text; None if a cut could change tokens.

    BERT's normalizer and pre-tokenizer look at one character at a time and never join words, so a text that is cut
    where a word starts has the first tokens of the whole text.
    """
    normalizer: Any = tokenizer.normalizer
    steps = (normalizer, tokenizer.pre_tokenizer, tokenizer.model)
    if not all(map(isinstance, steps, (BertNormalizer, BertPreTokenizer, WordPiece))):
        return None
    names = "".join(token.content for token in tokenizer.get_added_tokens_decoder().values())
    if not normalizer.handle_chinese_chars or _WORD_ENDS.search(names):
        return None
    return 20 * max_seq_length
