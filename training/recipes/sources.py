"""Folder of ``.jsonl.gz`` files → texts, distillation targets and pairs by source.

Every function is deterministic: the same folder and seed give the same records in the same order.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from simpair.errors import DataError

from ..data.pairs import INFERENCE_LABELS, RetrievalPair, ScoredPair

__all__ = [
    "Target",
    "dev_pairs",
    "distillation_texts",
    "iter_rows",
    "lexicon",
    "retrieval_sources",
    "scored_sources",
    "vocabulary_texts",
]

_VOCABULARY_CHARACTERS = 300
_TARGET_CHARACTERS = 600
_PASSAGE_CHARACTERS = 400
_RAW_TEXTS = 120_000
_MIN_CROPPED_CHARACTERS = 100  # in a shorter passage, a span would be most of it
_CHARACTERS_PER_CROP, _MAX_CROPS = 150, 8


class Target(NamedTuple):
    """A text to distil.

    Attributes:
        text: Text for the student, Chinese or English.
        key: English text whose teacher embedding is the target; equal to ``text`` if that is English.
    """

    text: str
    key: str


def iter_rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the records of ``folder/name.jsonl.gz``.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = folder / f"{name}.jsonl.gz"
    line = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for text in file:
                line += 1
                yield json.loads(text)
    except FileNotFoundError:
        raise DataError("no such file; give the folder of the training data", path=path) from None
    except json.JSONDecodeError as error:
        raise DataError(f"is not JSON ({error}); download the file again", path=path, line=line) from None
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            f"is damaged after this line ({error}); download the file again", path=path, line=line
        ) from None


def lexicon(folder: Path) -> list[tuple[str, str]]:
    """Return the bilingual dictionary as pairs of an English and a Chinese word."""
    return [
        (en, zh) for row in iter_rows(folder, "lexicon_muse") if (en := _clean(row["en"])) and (zh := _clean(row["zh"]))
    ]


def vocabulary_texts(folder: Path, *, seed: int = 0) -> Iterator[str]:
    """Yield the texts for training the vocabulary, in both languages; long texts are truncated."""
    for name, fields in (
        ("parallel", ("en", "zh")),
        ("zh_pairs", ("text1", "text2")),
        ("en_pairs", ("text1", "text2")),
        ("en_nli", ("premise", "hypothesis")),
        ("qa_pairs", ("query", "passage")),
        ("lexicon_muse", ("en", "zh")),
    ):
        for row in iter_rows(folder, name):
            yield from (row[field][:_VOCABULARY_CHARACTERS] for field in fields)
    for row in iter_rows(folder, "caption_groups"):
        yield from (*row["en"], *row["zh"])
    raw = [row["text"] for row in iter_rows(folder, "raw_zh")]
    yield from random.Random(seed).sample(raw, min(_RAW_TEXTS, len(raw)))


def distillation_texts(folder: Path, *, limit: int = 320_000, seed: int = 0) -> list[Target]:
    """Return the distinct texts to distil, in an order drawn with ``seed``.

    At most ``limit`` distinct keys are kept, since the teacher encodes each of them: first the texts with a
    translation, which serve two languages, then a random sample of the English texts.
    """
    pairs = [*_translations(folder), *lexicon(folder)]
    keys = dict.fromkeys(en for en, _ in pairs)
    rest = list(dict.fromkeys(text for text in _english_texts(folder) if text not in keys))
    draw = random.Random(seed)
    draw.shuffle(rest)
    kept = set([*keys, *rest][:limit])
    targets = [Target(key, key) for key in [*keys, *rest] if key in kept]
    seen = set(kept)
    for en, zh in pairs:
        if en in kept and zh not in seen:  # the first translation of a Chinese text is its target
            seen.add(zh)
            targets.append(Target(zh, en))
    draw.shuffle(targets)
    return targets


def scored_sources(folder: Path) -> dict[str, list[ScoredPair]]:
    """Return scored pairs by ``language/source``, with labels from 0 to 1; sources with a single label are left out.

    Inference data is named ``nli-language/source``: entailment 1, neutral 0.5, contradiction 0.
    """
    sources: defaultdict[str, list[ScoredPair]] = defaultdict(list)
    for language in ("zh", "en"):
        for name, pair in _labeled(folder, f"{language}_pairs"):
            sources[f"{language}/{name}"].append(pair)
        for row in iter_rows(folder, f"{language}_nli"):
            premise, hypothesis = _clean(row["premise"]), _clean(row["hypothesis"])
            if premise and hypothesis and row["label"] in INFERENCE_LABELS:
                pair = ScoredPair(premise, hypothesis, INFERENCE_LABELS[row["label"]])
                sources[f"nli-{language}/{row['source']}"].append(pair)
    unique = {name: list(dict.fromkeys(pairs)) for name, pairs in sources.items()}
    return {name: pairs for name, pairs in unique.items() if len({pair.label for pair in pairs}) > 1}


def retrieval_sources(folder: Path) -> dict[str, list[RetrievalPair]]:
    """Return retrieval pairs by source; within a source all have the same number of negatives (0 or 1).

    ``qa-language/source`` (query, passage), ``paraphrase-language/source`` (sources with positives only),
    ``triplet-zh/source`` and ``nli-language/source`` (with one negative), ``bitext`` (Chinese, English),
    ``caption-en``, ``caption-zh`` and ``caption-zh-en`` (two captions of one image), ``crop-en`` and ``crop-zh``
    (a span of a passage, the passage).
    """
    sources: defaultdict[str, list[RetrievalPair]] = defaultdict(list)
    for row in iter_rows(folder, "qa_pairs"):
        pair = RetrievalPair(_clean(row["query"]), _clean(row["passage"], _PASSAGE_CHARACTERS))
        sources[f"qa-{row['lang']}/{row['source']}"].append(pair)
    for row in iter_rows(folder, "zh_triplets"):
        triplet = RetrievalPair(_clean(row["anchor"]), _clean(row["positive"]), (_clean(row["negative"]),))
        sources[f"triplet-zh/{row['source']}"].append(triplet)
    for language in ("zh", "en"):
        sources.update(_paraphrases(folder, language))
        for name, triplet in _inference_triplets(folder, f"{language}_nli"):
            sources[f"nli-{language}/{name}"].append(triplet)
    sources["bitext"] = [RetrievalPair(zh, en) for en, zh in _translations(folder)]
    sources.update(_caption_pairs(folder))
    sources.update(_crops(folder))
    return {name: kept for name, pairs in sources.items() if (kept := [p for p in dict.fromkeys(pairs) if _useful(p)])}


def dev_pairs(folder: Path) -> dict[str, list[ScoredPair]]:
    """Return the scored pairs for comparing checkpoints, by source; they are never trained on."""
    sources: defaultdict[str, list[ScoredPair]] = defaultdict(list)
    for name, pair in _labeled(folder, "tune_zh_pairs"):
        sources[name].append(pair)
    return dict(sources)


def _clean(text: str, characters: int | None = None) -> str:
    """Return the text without outer white space, truncated to at most ``characters``."""
    return text.strip()[:characters].strip()


def _useful(pair: RetrievalPair) -> bool:
    """Return whether all texts of a pair are non-empty and different."""
    texts = (pair.anchor, pair.positive, *pair.negatives)
    return all(texts) and len(set(texts)) == len(texts)


def _labeled(folder: Path, name: str) -> Iterator[tuple[str, ScoredPair]]:
    """Yield (source, pair) of a file of pairs.

    Raises:
        DataError: A label is outside 0..1.
    """
    for line, row in enumerate(iter_rows(folder, name), start=1):
        label = float(row["label"] if "label" in row else row["score"])
        if not 0.0 <= label <= 1.0:
            raise DataError(f"label {label}, expected 0 to 1", path=folder / f"{name}.jsonl.gz", line=line)
        pair = ScoredPair(_clean(row["text1"]), _clean(row["text2"]), label)
        if pair.text1 and pair.text2:
            yield row["source"], pair


def _translations(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (English, Chinese) without texts too long for the teacher: truncated texts do not match."""
    for row in iter_rows(folder, "parallel"):
        en, zh = _clean(row["en"]), _clean(row["zh"])
        if en and zh and en != zh and len(en) <= _TARGET_CHARACTERS:
            yield en, zh


def _english_texts(folder: Path) -> Iterator[str]:
    """Yield English texts without a translation, truncated to what the teacher reads."""
    for name, fields in (("en_pairs", ("text1", "text2")), ("en_nli", ("premise", "hypothesis"))):
        for row in iter_rows(folder, name):
            yield from filter(None, (_clean(row[field], _TARGET_CHARACTERS) for field in fields))
    for row in iter_rows(folder, "qa_pairs"):
        if row["lang"] == "en":
            yield from filter(None, (_clean(row[field], _TARGET_CHARACTERS) for field in ("query", "passage")))
    for row in iter_rows(folder, "caption_groups"):
        yield from filter(None, map(_clean, row["en"]))


def _paraphrases(folder: Path, language: str) -> dict[str, list[RetrievalPair]]:
    """Return the sources of a file of pairs in which all pairs are positive."""
    sources: defaultdict[str, list[ScoredPair]] = defaultdict(list)
    for name, pair in _labeled(folder, f"{language}_pairs"):
        sources[name].append(pair)
    return {
        f"paraphrase-{language}/{name}": [RetrievalPair(pair.text1, pair.text2) for pair in pairs]
        for name, pairs in sources.items()
        if all(pair.label == 1.0 for pair in pairs)
    }


def _inference_triplets(folder: Path, name: str) -> Iterator[tuple[str, RetrievalPair]]:
    """Yield (source, triplet): a premise, a hypothesis that it entails, and one that it contradicts."""
    premises: defaultdict[tuple[str, str], defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in iter_rows(folder, name):
        premises[row["source"], _clean(row["premise"])][row["label"]].append(_clean(row["hypothesis"]))
    for (source, premise), hypotheses in premises.items():
        for entailed, contradicted in zip(hypotheses["entailment"], hypotheses["contradiction"], strict=False):
            yield source, RetrievalPair(premise, entailed, (contradicted,))


def _caption_pairs(folder: Path) -> dict[str, list[RetrievalPair]]:
    """Return pairs of captions of one image, in the order of the file; each caption is used once per language."""
    sources: dict[str, list[RetrievalPair]] = {"caption-en": [], "caption-zh": [], "caption-zh-en": []}
    for row in iter_rows(folder, "caption_groups"):
        en, zh = [_clean(text) for text in row["en"]], [_clean(text) for text in row["zh"]]
        sources["caption-en"] += map(RetrievalPair, en[::2], en[1::2])
        sources["caption-zh"] += map(RetrievalPair, zh[::2], zh[1::2])
        sources["caption-zh-en"] += map(RetrievalPair, zh, en)
    return sources


def _crops(folder: Path, *, seed: int = 0) -> dict[str, list[RetrievalPair]]:
    """Return pairs of a span of a passage and the passage, which need no labels and teach matching by common words.

    Every second span is removed from its passage, as in Lee, Chang & Toutanova 2019, "Latent Retrieval for Weakly
    Supervised Open Domain Question Answering" (arXiv 1906.00300); Izacard et al. 2022 (arXiv 2112.09118) keep all.
    """
    sources: dict[str, list[RetrievalPair]] = {"crop-en": [], "crop-zh": []}
    draw = random.Random(seed)
    passages = dict.fromkeys((row["lang"][:2], _clean(row["passage"])) for row in iter_rows(folder, "qa_pairs"))
    for language, passage in passages:
        if len(passage) < _MIN_CROPPED_CHARACTERS:
            continue
        for number in range(min(_MAX_CROPS, 1 + len(passage) // _CHARACTERS_PER_CROP)):
            pair = _crop(passage, draw, words=language == "en", kept=number % 2 == 0)
            if pair.positive not in pair.anchor:  # true for a passage of one word
                sources[f"crop-{language}"].append(pair)
    return sources


def _crop(passage: str, draw: random.Random, *, words: bool, kept: bool) -> RetrievalPair:
    """Return a span of 4 to 16 words, or 6 to 30 characters, and the part of the passage around it.

    Args:
        passage: The passage.
        draw: Source of random numbers.
        words: Whether the span is made of words; else of characters.
        kept: Whether the span stays in the passage.
    """
    separator = " " if words else ""
    parts = passage.split() if words else list(passage)
    length = _PASSAGE_CHARACTERS // 6 if words else _PASSAGE_CHARACTERS
    start = draw.randrange(max(1, len(parts) - length + 1))
    stretch = parts[start : start + length]
    size = min(draw.randint(4, 16) if words else draw.randint(6, 30), len(stretch))
    first = draw.randrange(len(stretch) - size + 1)
    rest = stretch if kept else stretch[:first] + stretch[first + size :]
    query, shown = (separator.join(found) for found in (stretch[first : first + size], rest))
    return RetrievalPair(_clean(query), _clean(shown, _PASSAGE_CHARACTERS))
