"""Texts and a role → packed token batches; a padded batch → the same packed batch.

Knows the tokenizer, the prompts and the maximum length of a checkpoint. Knows no model.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain
from typing import Any, Literal, NamedTuple, get_args

import torch
from tokenizers import Encoding, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from simpair.encoder.workers import is_forked
from simpair.errors import InputError

__all__ = [
    "ROLE_NUMBERS",
    "PaddedBatch",
    "Role",
    "Tokenized",
    "Tokens",
    "check_role",
    "check_texts",
    "draw_texts",
    "list_texts",
]

Role = Literal["query", "document"]
ROLE_NUMBERS: Mapping[Role | None, int] = {None: 0, "query": 1, "document": 2}
"""How a batch tells the role of each text."""

_LOG = logging.getLogger("simpair")
_TOKENIZED_AT_ONCE = 1_024
"""Texts; what tokenizers tells of each beside its ids takes some kilobytes."""
_WORD_ENDS = re.compile(r"[ \t\n\r!-/:;=?@\\^`{-~\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f\u4e00-\u9fff]")
"""Characters before which BERT's tokenizers always start a new word: white space, ideographs, marks but ``[<_>]``."""


class PaddedBatch(NamedTuple):
    """B texts as a rectangle: ``input_ids`` and ``attention_mask``, each (B, T) int64; the mask is 1 on real tokens."""

    input_ids: Tensor
    attention_mask: Tensor


class Tokenized(NamedTuple):
    """The token ids of each text, and the rows of those that were longer than the maximum and lost their end."""

    ids: list[list[int]]
    truncated: list[int]


def list_texts(texts: Iterable[str]) -> list[str]:
    """The entries of a sequence by position, whatever labels it gives them; none of them is looked at.

    Raises:
        InputError: It is no sequence, or has no order.
    """
    wrong = f"texts is a {type(texts).__name__}; expected a str or a sequence of them (a stream goes to encode_stream)"
    if not _has_order(texts) or not hasattr(texts, "__len__"):
        raise InputError(wrong)
    try:
        return list(texts)
    except TypeError:  # a class
        raise InputError(wrong) from None


def draw_texts(texts: Iterable[str]) -> Iterator[str]:
    """What draws the texts of a stream.

    Raises:
        InputError: It is one text, has no order, or cannot be drawn from.
    """
    try:
        if not isinstance(texts, str) and _has_order(texts):
            return iter(texts)
    except TypeError:
        pass
    raise InputError(f"texts is a {type(texts).__name__}; expected an iterable of str; put a single text in a list")


def _has_order(texts: object) -> bool:
    """Whether drawing from it gives its entries in an order of theirs: a table would give the names of its columns."""
    return not isinstance(texts, bytes | bytearray | Mapping | Set) and getattr(texts, "ndim", 1) == 1


def check_role(role: Role | None) -> None:
    """Raise ``InputError`` for what is no role."""
    if role is not None and role not in get_args(Role):
        raise InputError(f"role is {role!r}; expected 'query', 'document' or None")


def check_texts(texts: Sequence[str], *, first: int = 0) -> None:
    """Raise ``InputError`` with the position of the first entry that is not a well-formed string.

    Args:
        texts: What a caller gave.
        first: The position of the first of them.
    """
    for position, text in enumerate(texts, first):
        if not isinstance(text, str):
            raise InputError(f"text {position} is a {type(text).__name__}; expected a str")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {position} has a lone surrogate at character {error.start}; decode the source as UTF-8, or use "
                'text.encode("utf-8", "replace").decode()'
            ) from None


class Tokens:
    """The tokenizer of a checkpoint, with its prompts and its maximum length.

    Args:
        tokenizer: A tokenizer of the ``tokenizers`` library; it is copied.
        max_seq_length: Longest sequence in tokens, special tokens included; longer texts lose their end.
        prompts: Prompt by name; ``query`` and ``document`` are those of the two roles.
        default_prompt_name: The prompt of texts without a role, or None for no prompt.
        pad_token_id: The id that fills the rectangle of a padded batch.
        include_prompt: Whether the prompt's tokens are pooled too.
        query: That of the queries' own tower, where there is one; the rest is then for documents.
        default_role: Which of the two takes the texts that have no role.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_seq_length: int,
        prompts: Mapping[str, str],
        default_prompt_name: str | None = None,
        pad_token_id: int = 0,
        include_prompt: bool = True,
        query: Tokens | None = None,
        default_role: Role = "document",
    ) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_seq_length)
        self._longest_read = _longest_read(tokenizer, max_seq_length)
        self._prompts = dict(prompts)
        self._default_prompt_name = default_prompt_name
        self.max_seq_length = max_seq_length
        self.pad_token_id = pad_token_id
        self.query, self.default_role = query, default_role
        names: list[Role | None] = [] if include_prompt else [None, "query", "document"]
        self._skipped = {role: self._prompt_tokens(role) for role in names if self.prompt(role)}

    @property
    def tied(self) -> bool:
        """Whether both roles share one tower."""
        return self.query is None

    @property
    def asks_for_roles(self) -> bool:
        """Whether an embedding needs the role of its text, beside the tokens."""
        return bool(self._skipped) or (self.query is not None)

    def skipped(self, role: Role | None) -> int:
        """How many tokens, from the first, are left out of the pooling: those of a prompt that is not included."""
        return self._skipped.get(role, 0)

    def _prompt_tokens(self, role: Role | None) -> int:
        """The length of a prompt in tokens, the special one behind it aside, as sentence-transformers counts them."""
        ids = self._tokenizer.encode(self.prompt(role)).ids
        added = self._tokenizer.get_added_tokens_decoder()
        return len(ids) - bool(ids and ids[-1] in added and added[ids[-1]].special)

    def prompt(self, role: Role | None) -> str:
        """The prompt set before every text of a role; ``""`` where the checkpoint declares none."""
        name = self._default_prompt_name if role is None else role
        return "" if name is None else self._prompts.get(name, "")

    def ids(self, texts: Sequence[str], *, role: Role | None = None) -> list[list[int]]:
        """The ids of :meth:`tokenize`."""
        return self.tokenize(texts, role=role).ids

    def tokenize(self, texts: Sequence[str], *, role: Role | None = None) -> Tokenized:
        """Token ids of each text, prompt and special tokens included, cut at ``max_seq_length``.

        Raises:
            InputError: An entry is not a string, has a lone surrogate, or has no tokens at all.
        """
        check_texts(texts)
        if self.query is not None and (role or self.default_role) == "query":
            return self.query.tokenize(texts, role=role)
        prompt, found = self.prompt(role), Tokenized([], [])
        for first in range(0, len(texts), _TOKENIZED_AT_ONCE):
            some = texts[first : first + _TOKENIZED_AT_ONCE]
            self._tokenize([prompt + text for text in some] if prompt else list(some), first, found, self.skipped(role))
        return found

    def _tokenize(self, texts: list[str], first: int, found: Tokenized, skipped: int) -> None:
        """Add these texts, prompts of ``skipped`` tokens included, to what was found of the ``first`` ones before."""
        starts = [self._start(text) for text in texts]
        encodings = self._encode_all(starts)
        for row, text in enumerate(texts):
            while not encodings[row].overflowing and len(starts[row]) < len(text):  # too few tokens
                starts[row] = self._start(text, 8 * len(starts[row]))
                encodings[row] = self._tokenizer.encode(starts[row])
            if not encodings[row].ids:
                raise InputError(f"the text {text[:40]!r} has no tokens in this checkpoint's tokenizer; leave it out")
            if len(encodings[row].ids) <= skipped:
                raise InputError(f"the text {text[:40]!r} has no tokens beside its prompt; leave it out")
            if len(encodings[row].ids) == self.max_seq_length and encodings[row].overflowing:
                found.truncated.append(first + row)
        found.ids.extend(encoding.ids for encoding in encodings)

    def _encode_all(self, texts: list[str]) -> list[Encoding]:
        if is_forked():  # the threads of tokenizers are those of the parent, and are waited for in vain
            return [self._tokenizer.encode(text) for text in texts]
        return self._tokenizer.encode_batch_fast(texts)

    def _start(self, text: str, longest: int | None = None) -> str:
        """The first words of a text that is far longer than what is read of it; cut where a word starts."""
        longest = longest or self._longest_read
        if longest is None or self._longest_read is None or len(text) <= longest:
            return text
        ends = [match.start() for match in _WORD_ENDS.finditer(text, longest // 2, longest)]
        return text[: ends[-1]] if ends else text

    def pad(self, texts: Sequence[str], *, role: Role | None = None) -> PaddedBatch:
        """The texts as a padded batch, right-padded to the longest: two (B, T) int64 tensors.

        Raises:
            InputError: An entry is not a string, or has a lone surrogate.
        """
        return self.pad_ids(self.ids(texts, role=role))

    def pad_ids(self, sequences: Sequence[Sequence[int]]) -> PaddedBatch:
        """Token ids of texts as a padded batch, right-padded to the longest: two (B, T) int64 tensors."""
        lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
        real = torch.arange(max(map(len, sequences), default=0)) < lengths[:, None]
        input_ids = torch.full(real.shape, self.pad_token_id, dtype=torch.int64)
        input_ids[real] = torch.tensor(list(chain.from_iterable(sequences)), dtype=torch.int64)
        return PaddedBatch(input_ids, real.to(torch.int64))

    def plain(self) -> Tokenizer:
        """A copy of the tokenizer without truncation or padding, as ``tokenizer.json`` holds it."""
        copy = Tokenizer.from_str(self._tokenizer.to_str())
        copy.no_truncation()
        return copy


def _longest_read(tokenizer: Tokenizer, max_seq_length: int) -> int | None:
    """Characters that are certainly enough for so many tokens of usual text; None where a cut could change tokens.

    BERT's normaliser and pre-tokenizer look at one character at a time and never join words, so a text that is cut
    where a word starts has the tokens of the whole text, as far as it goes.
    """
    normalizer: Any = tokenizer.normalizer
    steps = (normalizer, tokenizer.pre_tokenizer, tokenizer.model)
    if not all(map(isinstance, steps, (BertNormalizer, BertPreTokenizer, WordPiece))):
        return None
    names = "".join(token.content for token in tokenizer.get_added_tokens_decoder().values())
    if not normalizer.handle_chinese_chars or _WORD_ENDS.search(names):
        return None
    return 20 * max_seq_length
