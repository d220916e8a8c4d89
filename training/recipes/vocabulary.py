"""Texts → a WordPiece tokenizer for Chinese and English."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

__all__ = ["SPECIAL_TOKENS", "is_chinese", "train_vocabulary"]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MAX_CHARACTERS = 8000
_MIN_COUNT = 4
_CHINESE = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))


def is_chinese(character: str) -> bool:
    """Return whether the text is one Han character; BERT's normalizer makes each of them a word."""
    return len(character) == 1 and any(first <= ord(character) <= last for first, last in _CHINESE)


def train_vocabulary(texts: Iterable[str], *, size: int = 21128) -> Tokenizer:
    """Return a tokenizer with at most ``size`` tokens: ``[CLS] text [SEP]``, lower case, no padding, no truncation.

    The special tokens have the ids 0 to 4. The other tokens follow in the order of their code points, so the same texts
    give the same ids. Every character seen four times or more is a token, up to the 8,000 most frequent ones.
    """
    material = list(texts)
    characters = _common_characters(material)
    # The trainer numbers new continuations in the order of a hash table and breaks ties by number. Listing them here
    # fixes the order (test_the_same_texts_give_the_same_vocabulary).
    continuations = ["##" + character for character in characters if not _stands_alone(character)]
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS, *continuations],
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,
    )
    draft = _tokenizer({"[UNK]": 0})
    draft.train_from_iterator(material, trainer, length=len(material))
    tokens = sorted(set(draft.get_vocab()) - set(SPECIAL_TOKENS))
    return _tokenizer({token: row for row, token in enumerate([*SPECIAL_TOKENS, *tokens])})


def _common_characters(texts: Iterable[str]) -> list[str]:
    """Return the frequent characters that remain after normalization, in the order of their code points."""
    normalizer = _normalizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    common = [character for character, count in counts.items() if count >= _MIN_COUNT and not character.isspace()]
    common.sort(key=lambda character: (-counts[character], character))
    return sorted(common[:_MAX_CHARACTERS])


def _stands_alone(character: str) -> bool:
    """Return whether BERT splits around the character, so that it never continues a word."""
    ascii_mark = character.isascii() and not character.isalnum()
    return ascii_mark or is_chinese(character) or unicodedata.category(character).startswith("P")


def _normalizer() -> BertNormalizer:
    return BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True)


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    if "[CLS]" in vocabulary:
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
        )
    return tokenizer
