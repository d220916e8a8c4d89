"""The data of the recipe of the bundled weights: vocabulary, untrained student, training data."""

from __future__ import annotations

import gzip
import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers.normalizers import BertNormalizer

from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import DataError, InputError
from simpair.training.data.pairs import RetrievalPair, ScoredPair
from simpair.training.recipes import terms
from simpair.training.recipes.sources import (
    Target,
    dev_pairs,
    distillation_texts,
    iter_rows,
    lexicon,
    retrieval_sources,
    scored_sources,
    vocabulary_texts,
)
from simpair.training.recipes.student import RowOrigins, make_student
from simpair.training.recipes.terms import keep_open
from simpair.training.recipes.vocabulary import is_chinese, train_vocabulary
from tests.training.recipes.recipe_data import ROWS, SPECIALS, scored, small_tokenizer, write_rows, write_teacher

# --- vocabulary -------------------------------------------------------------------------------------------------------


def made_up_texts(seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(1500)]
    return [" ".join(words[start : start + 8]) for start in range(0, len(words), 8)]


def test_the_same_texts_give_the_same_vocabulary() -> None:
    texts = made_up_texts()
    first = train_vocabulary(texts, size=200).to_str()
    assert all(train_vocabulary(iter(texts), size=200).to_str() == first for _ in range(4))
    assert train_vocabulary(made_up_texts(1), size=200).to_str() != first


def test_special_tokens_come_first_and_surround_a_text() -> None:
    tokenizer = train_vocabulary(["hello world, 你好世界!"] * 5, size=300)
    assert [tokenizer.token_to_id(token) for token in SPECIALS] == [0, 1, 2, 3, 4]
    assert sorted(tokenizer.get_vocab().values()) == list(range(tokenizer.get_vocab_size()))
    assert tokenizer.encode("Héllo, 你好").tokens == ["[CLS]", "hello", ",", "你", "好", "[SEP]"]
    assert tokenizer.encode("a [MASK]").tokens[-2] == "[MASK]"
    assert tokenizer.padding is None
    assert tokenizer.truncation is None


def test_a_chinese_character_seen_four_times_is_a_token() -> None:
    vocabulary = train_vocabulary(made_up_texts() + ["龘"] * 4 + ["靐"] * 3, size=60).get_vocab()
    assert "龘" in vocabulary
    assert "靐" not in vocabulary
    assert "##龘" not in vocabulary


def test_the_vocabulary_has_the_given_size() -> None:
    assert train_vocabulary(made_up_texts(), size=120).get_vocab_size() == 120


@given(st.characters(codec="utf-8"))
def test_chinese_characters_are_those_that_bert_splits_around(character: str) -> None:
    split = BertNormalizer(clean_text=False, strip_accents=False, lowercase=False).normalize_str(character)
    spaced = split != character
    # Newer blocks may differ from the normaliser; the ranges in everyday use may not.
    assert spaced == is_chinese(character) or ord(character) > 0xFFFF


# --- student ----------------------------------------------------------------------------------------------------------


TEACHER = [*SPECIALS, "water", "fall", "##fall", "##s", "fire", "水"]


@pytest.fixture
def made(tmp_path):
    """Return the teacher's and the student's rows by token, and the counts."""
    table = write_teacher(tmp_path / "teacher", TEACHER)["embeddings.word_embeddings.weight"]
    tokens = [*SPECIALS, "fire", "waterfalls", "##falls", "水", "瀑", "xyz", "龘"]
    words = [("Water", "水"), ("waterfall", "瀑布"), ("fire", "瀑"), ("xyz", "龘")]
    origins = make_student(tmp_path / "teacher", small_tokenizer(tokens), words, tmp_path / "student", layers=(0, 2))
    rows = load_file(tmp_path / "student" / "model.safetensors")["embeddings.word_embeddings.weight"]
    teacher = {piece: table[row].double() for row, piece in enumerate(TEACHER)}
    return teacher, dict(zip(tokens, rows.double(), strict=True)), origins


def test_rows_come_from_the_best_source(made) -> None:
    teacher, student, origins = made
    for piece in (*SPECIALS, "fire"):
        torch.testing.assert_close(student[piece], teacher[piece])
    torch.testing.assert_close(student["waterfalls"], (teacher["water"] + teacher["##fall"] + teacher["##s"]) / 3)
    torch.testing.assert_close(student["##falls"], (teacher["##fall"] + teacher["##s"]) / 2)
    assert origins == RowOrigins(copied=6, averaged=2, lexicon=2, drawn=2)


def test_chinese_rows_are_means_weighted_by_the_length_of_the_translation(made) -> None:
    teacher, student, _ = made
    torch.testing.assert_close(student["水"], teacher["water"])  # not the teacher's own row for the character
    waterfall = (teacher["water"] + teacher["##fall"]) / 2
    torch.testing.assert_close(student["瀑"], (teacher["fire"] + waterfall / 4) / 1.25)


def test_drawn_rows_depend_on_the_seed(tmp_path) -> None:
    write_teacher(tmp_path / "teacher", TEACHER)
    tokenizer = small_tokenizer([*SPECIALS, "xyz", "fire"])
    rows = []
    for number, seed in enumerate((0, 0, 1)):
        make_student(tmp_path / "teacher", tokenizer, [], tmp_path / str(number), layers=(0,), seed=seed)
        rows.append(load_file(tmp_path / str(number) / "model.safetensors")["embeddings.word_embeddings.weight"])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0][5], rows[2][5])
    assert torch.equal(rows[0][6], rows[2][6])


def test_all_layers_and_the_same_vocabulary_reproduce_the_teacher(tmp_path) -> None:
    tensors = write_teacher(tmp_path / "teacher", TEACHER)
    make_student(tmp_path / "teacher", small_tokenizer(TEACHER), [], tmp_path / "student", layers=(0, 1, 2))
    student = load_file(tmp_path / "student" / "model.safetensors")
    assert student.keys() == tensors.keys()
    assert all(torch.equal(student[name], tensor) for name, tensor in tensors.items())


def test_chosen_layers_are_renumbered(tmp_path) -> None:
    tensors = write_teacher(tmp_path / "teacher", TEACHER)
    make_student(tmp_path / "teacher", small_tokenizer(TEACHER), [], tmp_path / "student", layers=(0, 2))
    student = load_file(tmp_path / "student" / "model.safetensors")
    name = "encoder.layer.{}.output.dense.weight"
    assert torch.equal(student[name.format(1)], tensors[name.format(2)])
    assert name.format(2) not in student
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["vocab_size"]) == (2, len(TEACHER))
    assert "_name_or_path" not in config


def test_the_student_opens_and_encodes(tmp_path) -> None:
    write_teacher(tmp_path / "teacher", TEACHER)
    tokenizer = train_vocabulary(["water falls 水 fire"] * 5, size=60)
    make_student(tmp_path / "teacher", tokenizer, [("water", "水")], tmp_path / "student", layers=(0, 2))
    encoder = TwinTowerEncoder.from_pretrained(tmp_path / "student")
    vectors = encoder.encode(["water", "fire", "water"])
    assert encoder.max_seq_length == 32  # positions of the teacher
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    assert vectors[0] @ vectors[1] < 0.999


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name, rows in ROWS.items():
        write_rows(tmp_path, name, rows)
    return tmp_path


def test_rows_are_read_as_written(folder) -> None:
    assert list(iter_rows(folder, "parallel")) == ROWS["parallel"]
    assert lexicon(folder) == [("dog", "狗")]


def test_a_missing_or_damaged_file_is_named(folder) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl\.gz: no such file"):
        list(iter_rows(folder, "nothing"))
    with gzip.open(folder / "parallel.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"en": "a"}\n{"en": \n')
    with pytest.raises(DataError, match=r"parallel\.jsonl\.gz:2: is not JSON"):
        list(iter_rows(folder, "parallel"))
    whole = (folder / "raw_zh.jsonl.gz").read_bytes()
    (folder / "raw_zh.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="download the file again"):
        list(iter_rows(folder, "raw_zh"))


def test_vocabulary_texts_are_in_both_languages(folder) -> None:
    texts = list(vocabulary_texts(folder))
    assert {"A dog.", "一只狗。", "问？", "猫。", "狗", "生文本0", "h"} <= set(texts)
    assert max(map(len, texts)) == 300


def test_the_target_of_a_chinese_text_is_its_translation(folder) -> None:
    targets = distillation_texts(folder, limit=100)
    keys = dict(targets)
    assert len(keys) == len(targets)  # each text once
    assert keys["一只狗。"] == "A dog."
    assert keys["狗"] == "dog"
    assert "猫。" not in keys  # captions of one image are not translations
    assert "长" not in keys  # a truncated text does not match its translation
    english = {text for text, key in targets if text == key}
    assert {"A dog.", "One dog.", "dog", "A cat sits.", "x", "h", "q?", "p" * 600} <= english
    assert {key for _, key in targets} == english
    assert "" not in keys


def test_the_order_and_sample_of_distillation_texts_depend_on_the_seed(folder) -> None:
    assert distillation_texts(folder, limit=6, seed=3) == distillation_texts(folder, limit=6, seed=3)
    draws = [set(distillation_texts(folder, limit=6, seed=seed)) for seed in range(8)]
    assert len({frozenset(draw) for draw in draws}) > 1
    for draw in draws:
        assert len({key for _, key in draw}) == 6
        assert {Target("dog", "dog"), Target("A dog.", "A dog."), Target("一只狗。", "A dog.")} <= draw


def test_scored_sources_have_more_than_one_label(folder) -> None:
    assert scored_sources(folder) == {
        "zh/S": [ScoredPair("甲", "乙", 0.25), ScoredPair("甲", "丙", 1.0)],
        "nli-zh/N": [ScoredPair("前", "后", 1.0), ScoredPair("前", "反", 0.0), ScoredPair("前", "中", 0.5)],
        "en/S": [ScoredPair("x", "y", 0.0), ScoredPair("x", "x", 1.0)],
    }


def test_a_label_outside_0_to_1_is_refused_with_its_line(folder) -> None:
    write_rows(folder, "en_pairs", [scored("x", "y", "S", score=0.5), scored("x", "z", "S", score=4.2)])
    with pytest.raises(DataError, match=r"en_pairs\.jsonl\.gz:2: label 4\.2"):
        scored_sources(folder)


def test_retrieval_sources(folder) -> None:
    assert retrieval_sources(folder) == {
        "qa-en/Q": [RetrievalPair("q?", "p" * 400)],
        "qa-zh/Q": [RetrievalPair("问？", "答")],
        "triplet-zh/T": [RetrievalPair("一", "二", ("三",))],
        "paraphrase-zh/P": [RetrievalPair("子", "丑")],
        "nli-zh/N": [RetrievalPair("前", "后", ("反",))],
        "bitext": [RetrievalPair("一只狗。", "A dog."), RetrievalPair("一只狗。", "One dog.")],
        "caption-en": [RetrievalPair("A cat.", "A cat sits.")],
        "caption-zh": [RetrievalPair("猫。", "坐着的猫。")],
        "caption-zh-en": [RetrievalPair("猫。", "A cat."), RetrievalPair("坐着的猫。", "A cat sits.")],
    }


def test_dev_pairs_are_not_trained_on(folder) -> None:
    assert dev_pairs(folder) == {"D": [ScoredPair("选", "择", 0.0), ScoredPair("选", "选择", 1.0)]}
    trained = {pair for pairs in scored_sources(folder).values() for pair in pairs}
    assert trained.isdisjoint(pair for pairs in dev_pairs(folder).values() for pair in pairs)


def test_crops_are_spans_of_their_passage_and_every_second_is_removed(folder) -> None:
    words = " ".join(f"word{number}" for number in range(300))
    characters = "".join(chr(0x4E00 + number) for number in range(460))
    rows = [("en", words), ("zh", characters), ("zh-Hant", characters[::-1]), ("zh", characters[:99]), ("en", words)]
    write_rows(
        folder, "qa_pairs", [{"query": "?", "passage": text, "lang": lang, "source": "Q"} for lang, text in rows]
    )
    found = retrieval_sources(folder)
    assert found == retrieval_sources(folder)
    assert len(found["crop-en"]) == 8  # an equal passage adds no crops
    assert len(found["crop-zh"]) == 2 * 4
    for number, (query, passage, _) in enumerate(found["crop-en"]):
        assert query in words
        assert 4 <= len(query.split()) <= 16
        assert number % 2 == 0 or not set(query.split()) & set(passage.split()[:-1])  # the last may be truncated
    for number, (query, passage, _) in enumerate(found["crop-zh"]):
        assert 6 <= len(query) <= 30
        assert query in characters + characters[::-1]
        assert (query in passage) == (number % 2 == 0)
        assert number % 2 == 0 or not set(query) & set(passage)


def test_open_data_has_only_sources_with_open_terms_and_the_same_bytes_every_time(folder, tmp_path_factory) -> None:
    tmp_path = tmp_path_factory.mktemp("open")
    rows = [{"en": "a", "zh": "一", "source": name, "mt": 0} for name in ("Tatoeba", "XNLI", "TICO-19", "Tatoeba")]
    write_rows(folder, "parallel", rows)
    terms.main(["--data", str(folder), "--out", str(tmp_path / "open")])
    kept = keep_open(folder, tmp_path / "open")
    assert {name: count for name, count in kept.items() if count} == {"Tatoeba": 2, "TICO-19": 1}
    assert list(iter_rows(tmp_path / "open", "parallel")) == [rows[0], rows[2], rows[3]]
    assert {path.name for path in (tmp_path / "open").iterdir()} == {path.name for path in folder.iterdir()}
    assert (scored_sources(tmp_path / "open"), lexicon(tmp_path / "open")) == ({}, [])
    written = (tmp_path / "open" / "parallel.jsonl.gz").read_bytes()
    keep_open(folder, tmp_path / "open")
    assert (tmp_path / "open" / "parallel.jsonl.gz").read_bytes() == written
    for wrong in (folder, tmp_path / "open"):
        with pytest.raises(InputError, match="another folder to write to"):
            keep_open(folder if wrong == folder else tmp_path / "nothing", wrong)
