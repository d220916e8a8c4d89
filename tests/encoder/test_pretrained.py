"""The bundled model: it opens without the network, fits in a wheel, and knows what texts mean in both languages."""

import json
import socket

import numpy as np
import pytest

from simpair import TwinTowerEncoder
from simpair.checkpoint.hub import resolve


@pytest.fixture(scope="module")
def encoder():
    return TwinTowerEncoder.from_pretrained()


def test_no_argument_and_the_name_mean_the_bundled_model(encoder, monkeypatch):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    named = TwinTowerEncoder.from_pretrained("simpair-mini")
    assert named.fingerprint == encoder.fingerprint
    assert named.source == encoder.source == "simpair-mini"


def test_it_fits_in_a_wheel():
    folder = resolve().folder
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 34_000_000
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"] == "float32"


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("how do I reset my password", "I forgot my password", "the train leaves at nine"),
        ("怎么办理信用卡", "信用卡如何申请", "今天天气很好"),
        ("A man is playing a guitar.", "一个男人在弹吉他。", "一个女人在切洋葱。"),
        ("股票市场今天大跌", "The stock market fell sharply today.", "The cat sleeps on the sofa."),
    ],
)
def test_alike_is_closer_than_unlike_within_and_across_languages(encoder, text, near, far):
    scores = encoder.similarity(encoder.encode([text]), encoder.encode([near, far]))[0]
    assert scores[0] > scores[1] + 0.2


def test_a_text_is_nearest_to_itself(encoder):
    texts = ["a red car", "a blue car", "红色的车", "蓝色的车", "the car is red"]
    vectors = encoder.encode(texts)
    assert (encoder.similarity(vectors, vectors).argmax(axis=1) == np.arange(len(texts))).all()


@pytest.mark.slow
def test_plain_sentence_transformers_gives_the_same_vectors(encoder, sentence_transformer, mixed_texts):
    texts = mixed_texts(300)
    theirs = sentence_transformer(resolve().folder).encode(texts, normalize_embeddings=True)
    assert np.abs(theirs - encoder.encode(texts)).max() <= 1e-6
