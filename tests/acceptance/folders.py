"""A name → a folder of a tiny random model, as sentence-transformers writes it: every architecture and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from simpair.training.recipes.vocabulary import train_vocabulary

TEXTS = [
    "the cat sits on the mat",
    "a dog runs fast in the park",
    "What is a model?",
    "今天天气很好我们去公园",
    "Hello World! It's 2024.",
    "red",
    "the quick brown fox jumps over the lazy dog, " * 9,
    "blue blue blue cat",
]
LONGEST = 40
PROMPTS = {"query": "Instruct: find it\nQuery: ", "document": "a text: "}
_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}


class Layout(NamedTuple):
    """A folder to build.

    Attributes:
        architecture: ``model_type``.
        tokenizer: Which of the small ones below.
        config: What the architecture needs beside the small sizes.
        tokenizer_class: What ``tokenizer_config.json`` names; None leaves what was saved.
        pooling: The mode, or several.
        dense: (Outputs, activation, whether it has a bias) of each dense layer.
        normalize: Whether the embeddings get norm 1 at the end.
    """

    architecture: str
    tokenizer: str = "wordpiece"
    config: dict[str, Any] = {}  # noqa: RUF012 - read alone
    tokenizer_class: str | None = None
    pooling: str | list[str] = "mean"
    dense: tuple[tuple[int, str, bool], ...] = ()
    normalize: bool = True


_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_FAR = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_GROUPED = {"num_key_value_heads": 2}
LAYOUTS = {
    "BERT": Layout("bert", tokenizer_class="BertTokenizer"),
    "BERT, first token": Layout("bert", pooling="cls"),
    "BERT, greatest": Layout("bert", pooling="max"),
    "BERT, by the root of the length": Layout("bert", pooling="mean_sqrt_len_tokens"),
    "BERT, weighted": Layout("bert", pooling="weightedmean"),
    "BERT, first and mean": Layout("bert", pooling=["cls", "mean"]),
    "BERT, all poolings": Layout("bert", pooling=["cls", "max", "mean", "mean_sqrt_len_tokens", "lasttoken"]),
    "BERT, dense": Layout("bert", dense=((24, "Tanh", True),)),
    "BERT, dense on two poolings": Layout("bert", pooling=["max", "mean"], dense=((20, "GELU", False),)),
    "MPNet, two dense layers": Layout(
        "mpnet", config={"pad_token_id": 0}, dense=((64, "Identity", False), (16, "Identity", True)), normalize=False
    ),
    "RoBERTa": Layout("roberta", "bpe", {"pad_token_id": 3}),
    "XLM-R": Layout("xlm-roberta", "unigram", {"pad_token_id": 0}),
    "DistilBERT": Layout(
        "distilbert",
        config={"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
        tokenizer_class="DistilBertTokenizer",
    ),
    "MPNet": Layout("mpnet", config={"pad_token_id": 0}),
    "ALBERT": Layout("albert", config={"embedding_size": 16}),
    "ELECTRA": Layout("electra", config={"embedding_size": 16}, tokenizer_class="ElectraTokenizer"),
    "DeBERTa": Layout("deberta", config=_FAR),
    "DeBERTa-v2": Layout(
        "deberta-v2", config={**_FAR, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    ),
    "ModernBERT": Layout(
        "modernbert",
        config={"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 8}
        | {"bos_token_id": 2, "eos_token_id": 3},
    ),
    "XLM": Layout("xlm", config={"emb_dim": 32, "n_layers": 2, "n_heads": 4}),
    "BLOOM": Layout("bloom", "bpe", {"n_embed": 32, "n_layer": 2, "n_head": 4}, pooling="weightedmean"),
    "NomicBERT": Layout("nomic_bert", tokenizer_class="BertTokenizer"),
    "GTE": Layout("gte", pooling="cls"),
    "Jina v3": Layout("jina_embeddings_v3"),
    "FNet, which mixes padding in": Layout("fnet"),
    "ConvBERT, which mixes padding in": Layout("convbert"),
    "T5": Layout("t5", "unigram", {**_T5, "vocab_size": 400}, tokenizer_class="T5Tokenizer"),
    "mT5": Layout("mt5", "unigram", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "BART": Layout(
        "bart",
        "bpe",
        {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "pad_token_id": 3},
    ),
    "Qwen3": Layout("qwen3", "bpe", {**_GROUPED, "head_dim": 8}, "Qwen2Tokenizer", "lasttoken"),
    "Qwen2": Layout("qwen2", "bpe", _GROUPED, pooling="lasttoken"),
    "Llama": Layout("llama", "bpe", _GROUPED, pooling="lasttoken"),
    "Mistral": Layout("mistral", "bpe", _GROUPED, pooling="mean"),
    "Gemma 3": Layout("gemma3_text", "bpe", {**_GROUPED, "head_dim": 8}, pooling="mean"),
    "GPT-2": Layout("gpt2", "bpe", {"n_embd": 32, "n_layer": 2, "n_head": 4}, "GPT2Tokenizer", "weightedmean"),
}


def build(layout: Layout, folder: Path) -> Path:
    """Write the folder and return it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, T5EncoderModel

    tokenizer, names = _TOKENIZERS[layout.tokenizer]()
    config = AutoConfig.for_model(
        layout.architecture, **{"vocab_size": tokenizer.get_vocab_size(), **_SMALL, **layout.config}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: Any = T5EncoderModel(config) if layout.architecture == "t5" else AutoModel.from_config(config)
        for weight in model.parameters():
            if weight.dim() > 1:  # spread, so that different texts get different vectors
                torch.nn.init.normal_(weight, std=0.3)
    bare = folder / "bare"
    model.save_pretrained(bare)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(bare)
    if layout.tokenizer_class:
        path = bare / "tokenizer_config.json"
        declared = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**declared, "tokenizer_class": layout.tokenizer_class}), encoding="utf-8")
    modules: list[Any] = [Transformer(str(bare), max_seq_length=LONGEST), Pooling(32, pooling_mode=layout.pooling)]
    modules += _dense(layout)
    if layout.normalize:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS).save(str(folder / "saved"))
    return folder / "saved"


def _dense(layout: Layout) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Dense

    layers, width = [], 32 * (1 if isinstance(layout.pooling, str) else len(layout.pooling))
    for number, (out, activation, bias) in enumerate(layout.dense):
        draw = torch.Generator().manual_seed(number)
        layer = Dense(
            width,
            out,
            bias=bias,
            activation_function=getattr(torch.nn, activation)(),
            init_weight=torch.randn(out, width, generator=draw) / width**0.5,
            init_bias=torch.randn(out, generator=draw) if bias else None,
        )
        layers.append(layer)
        width = out
    return layers


def _wordpiece() -> tuple[Tokenizer, dict[str, str]]:
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return train_vocabulary(TEXTS * 50, size=200), names


def _bpe() -> tuple[Tokenizer, dict[str, str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special, alphabet = ["<|endoftext|>", "<s>", "</s>", "<pad>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 50, trainer)
    return tokenizer, {"pad_token": "<pad>", "eos_token": "<|endoftext|>"}


def _unigram() -> tuple[Tokenizer, dict[str, str]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 50, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


_TOKENIZERS: dict[str, Callable[[], tuple[Tokenizer, dict[str, str]]]] = {
    "wordpiece": _wordpiece,
    "bpe": _bpe,
    "unigram": _unigram,
}
