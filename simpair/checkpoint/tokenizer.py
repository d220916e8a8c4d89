"""The tokenizer's files in a folder → a tokenizer that tokenizes as in transformers; and back to such files.

What transformers would read differently is refused. Reads no weights and no settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, BertWordPieceTokenizer, Tokenizer
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.normalizers import BertNormalizer, Lowercase, Normalizer, Sequence
from tokenizers.pre_tokenizers import BertPreTokenizer

from simpair.checkpoint.refusals import damaged
from simpair.errors import ModelCorrupt, UnsupportedModel
from simpair.files.json_file import read_json
from simpair.files.texts import one_line

__all__ = ["TokenizerFiles", "lowers_first", "read_tokenizer", "tokenizer_config_of"]

_BERT = "BertTokenizer"
_BERT_TOKENS = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
_ROBERTA_TOKENS = {"cls_token": "<s>", "sep_token": "</s>", "bos_token": "<s>", "eos_token": "</s>"}
_CLASSES: dict[str, tuple[type, str, str, dict[str, str]]] = {
    _BERT: (WordPiece, "cls_token", "sep_token", _BERT_TOKENS),
    "CamembertTokenizer": (Unigram, "bos_token", "eos_token", _ROBERTA_TOKENS),
    "RobertaTokenizer": (BPE, "cls_token", "sep_token", _ROBERTA_TOKENS),
    "XLMRobertaTokenizer": (Unigram, "bos_token", "eos_token", _ROBERTA_TOKENS),
}
"""Classes that transformers 5 rebuilds from the vocabulary: model, first token, last token, default tokens."""
_KEPT = ("PreTrainedTokenizer", "TokenizersBackend")
"""Classes that take ``tokenizer.json`` as it is. All names are without ``Fast``."""
_CLASS_OF = dict(zip(("bert", "camembert", "roberta", "xlm-roberta"), _CLASSES, strict=True))
_NAMED = (*_BERT_TOKENS, "bos_token", "eos_token")
_UNKNOWN = "\U00013080"
"""A hieroglyph, which few vocabularies have: encoding it fails if the unknown token is not in the vocabulary."""
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word")


class TokenizerFiles(NamedTuple):
    """A tokenizer, as the files of a folder describe it.

    Attributes:
        tokenizer: Without truncation or padding.
        config: ``tokenizer_config.json`` with the names of the special tokens; ``{}`` for a static table.
        max_length: The maximum length in tokens that the files declare, not checked; or None.
    """

    tokenizer: Tokenizer
    config: Mapping[str, Any]
    max_length: Any


def read_tokenizer(folder: Path, config: Mapping[str, Any] | None, *, lowercase: bool = False) -> TokenizerFiles:
    """Return the tokenizer of a folder.

    Args:
        folder: Has ``tokenizer.json`` or ``vocab.txt``, and perhaps files with further settings.
        config: ``config.json``, whose model type names the tokenizer if no other file does. None for a static table,
            whose tokenizer adds no special tokens.
        lowercase: Lowercase texts before anything else, as ``do_lower_case`` in ``sentence_bert_config.json`` asks.

    Raises:
        ModelCorrupt: A file is missing or damaged.
        UnsupportedModel: The files ask for what this version does not do, or contradict each other.
    """
    if config is None:
        return _read_static(folder)
    declared = _read_config(folder)
    length = declared.get("model_max_length")
    kind, path = _class_name(config, declared), folder / "tokenizer.json"
    ours = kind in (*_CLASSES, *_KEPT)
    if ours:
        tokenizer = _open(path, declared, kind)
    else:
        tokenizer, names = _made_by_transformers(folder, kind)
        declared = {**names, **declared}
    _check_options(folder, declared, tokenizer, kind)
    _prepare(tokenizer)
    if ours:
        _name_tokens(folder, declared, tokenizer, kind)
        _check_added(folder, declared, tokenizer, kind)
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    if len(set(vocabulary.values())) < len(vocabulary):
        raise damaged(f"{path}: two tokens have the same number")
    if kind == _BERT:
        _rebuild(tokenizer, declared)
    if lowercase and not lowers_first(tokenizer):
        tokenizer.normalizer = Sequence([Lowercase(), *_normalizers(tokenizer)])
    if any(tokenizer.encode("a").type_ids):
        raise UnsupportedModel(f"{path}: tokens of one text are not all of type 0, the one that this version reads")
    return TokenizerFiles(tokenizer, declared, length)


def _read_config(folder: Path) -> dict[str, Any]:
    """Return ``tokenizer_config.json``, with ``special_tokens_map.json`` if transformers reads that."""
    declared = read_json(folder / "tokenizer_config.json", missing={})
    if {"model", "post_processor"} <= declared.keys():
        raise damaged(f"{folder / 'tokenizer_config.json'} is a tokenizer.json")
    tokens = read_json(folder / "special_tokens_map.json", missing={})
    return declared if "added_tokens_decoder" in declared else {**declared, **tokens}


def _read_static(folder: Path) -> TokenizerFiles:
    """Return the tokenizer of a static table, which adds no special tokens."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise damaged(f"{folder} has no tokenizer.json")
    tokenizer = _open(path, {}, _BERT)
    truncation = tokenizer.truncation or {}
    _check_side(path, truncation.get("direction"))
    _prepare(tokenizer)
    tokenizer.post_processor = None
    return TokenizerFiles(tokenizer, {}, truncation.get("max_length") or None)


def _prepare(tokenizer: Tokenizer) -> None:
    """Switch truncation and padding off."""
    tokenizer.no_truncation()
    tokenizer.no_padding()


def tokenizer_config_of(tokenizer: Tokenizer, config: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``tokenizer_config.json`` with which transformers reads ``tokenizer`` as it is.

    A BERT tokenizer that transformers would rebuild differently is declared to be taken from ``tokenizer.json``.
    ``declared`` is the configuration it had.
    """
    written = dict(declared)
    if _class_name(config, written) not in (*_CLASSES, *_KEPT):
        written["tokenizer_class"] = "PreTrainedTokenizerFast"  # which takes tokenizer.json as it is
    for step in _normalizers(tokenizer):
        if isinstance(step, BertNormalizer):
            written |= {"do_lower_case": step.lowercase, "strip_accents": step.strip_accents}
            written["tokenize_chinese_chars"] = step.handle_chinese_chars
    if _class_name(config, written) == _BERT:
        rebuilt = Tokenizer.from_str(tokenizer.to_str())
        _rebuild(rebuilt, written)
        if lowers_first(tokenizer):
            rebuilt.normalizer = Sequence([Lowercase(), *_normalizers(rebuilt)])
        if rebuilt.to_str() != tokenizer.to_str():
            written = {**_BERT_TOKENS, **written, "tokenizer_class": "PreTrainedTokenizerFast"}
    return written


def lowers_first(tokenizer: Tokenizer) -> bool:
    """Return whether the tokenizer lowercases whole texts, besides what BERT's own normalizer does."""
    return any(isinstance(step, Lowercase) for step in _normalizers(tokenizer))


def _class_name(config: Mapping[str, Any], declared: Mapping[str, Any]) -> str:
    """Return the class that ``transformers.AutoTokenizer`` takes, without ``Fast``."""
    named, model = declared.get("tokenizer_class") or config.get("tokenizer_class"), str(config.get("model_type"))
    return str(named or _CLASS_OF.get(model, f"the tokenizer of {model}")).removesuffix("Fast")


def _open(path: Path, declared: Mapping[str, Any], kind: str) -> Tokenizer:
    folder, vocabulary = path.parent, path.with_name("vocab.txt")
    if not path.is_file() and not vocabulary.is_file():
        raise damaged(f"{folder} has neither tokenizer.json nor vocab.txt")
    if not path.is_file() and kind != _BERT:
        return _made_by_transformers(folder, kind)[0]
    try:
        tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else _from_vocabulary(vocabulary, declared)
        tokenizer.encode(_UNKNOWN)
        return tokenizer
    except BaseException as error:  # bare Exception for a file that is not parsed; a panic is not even that
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise damaged(f"{folder}: the tokenizer cannot be read ({one_line(error)})") from None


def _made_by_transformers(folder: Path, kind: str) -> tuple[Tokenizer, dict[str, str]]:
    """Return a copy of the tokenizer behind ``transformers.AutoTokenizer``, and its special tokens by name.

    No code of the folder is run.
    """
    from transformers import AutoTokenizer

    try:
        found: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        names = {name: token for name, token in found.special_tokens_map.items() if isinstance(token, str)}
        return Tokenizer.from_str(found.backend_tokenizer.to_str()), names
    except Exception as error:  # its readers raise many kinds; tokenizers in Python have no backend
        what = f"tokenizer_class is {kind!r}, of which transformers makes no fast tokenizer from these files"
        raise UnsupportedModel(f"{folder / 'tokenizer_config.json'}: {what} ({one_line(error)})") from None


def _from_vocabulary(path: Path, declared: Mapping[str, Any]) -> Tokenizer:
    """Return BERT's WordPiece from ``vocab.txt``, one token per line (Devlin et al. 2019)."""
    tokenizer = Tokenizer.from_str(BertWordPieceTokenizer(WordPiece.read_file(str(path))).to_str())
    _rebuild(tokenizer, declared)
    return tokenizer


def _rebuild(tokenizer: Tokenizer, declared: Mapping[str, Any]) -> None:
    """Set the parts of a BERT tokenizer that transformers 5 does not take from ``tokenizer.json``."""
    chinese, lowercase = declared.get("tokenize_chinese_chars", True), declared.get("do_lower_case", True)
    accents = declared.get("strip_accents")
    if not isinstance(chinese, bool) or not isinstance(lowercase, bool) or not isinstance(accents, bool | None):
        expected = "do_lower_case, strip_accents and tokenize_chinese_chars are true or false"
        found = f"{lowercase!r:.40}, {accents!r:.40} and {chinese!r:.40}"
        raise ModelCorrupt(f"tokenizer_config.json: {expected}; got {found}")
    tokenizer.normalizer = BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=accents, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()


def _normalizers(tokenizer: Tokenizer) -> list[Normalizer]:
    whole: Any = tokenizer.normalizer
    return list(whole) if isinstance(whole, Sequence) else [whole] if whole else []  # type: ignore[call-overload]


def _check_options(folder: Path, declared: Mapping[str, Any], tokenizer: Tokenizer, kind: str) -> None:
    """Refuse options that change an embedding and are not supported."""
    path, cut = folder / "tokenizer_config.json", tokenizer.truncation or {}
    if kind not in (*_CLASSES, *_KEPT) and not declared.get("pad_token"):
        what = "no padding token is named, without which sentence-transformers reads nothing either"
        raise UnsupportedModel(f"{folder}: {what}; {path.name} is missing or lacks pad_token")
    where = path if declared.get("truncation_side") else folder / "tokenizer.json"
    _check_side(where, declared.get("truncation_side") or cut.get("direction"))
    if declared.get("split_special_tokens"):
        raise UnsupportedModel(f"{path}: split_special_tokens is set, which this version does not do")
    model: Any = tokenizer.model
    usual = kind not in _CLASSES or type(model) is _CLASSES[kind][0]
    if usual and kind == _BERT:
        usual = model.continuing_subword_prefix == "##" and model.max_input_chars_per_word == 100
    if not usual:
        what = f"the model is {type(model).__name__}, and transformers builds another for {kind}"
        advice = f"if tokenizer.json is right, write tokenizer_class PreTrainedTokenizerFast in {path.name}"
        raise UnsupportedModel(f"{folder / 'tokenizer.json'}: {what}; {advice}")


def _check_side(path: Path, side: object) -> None:
    """Refuse to truncate the beginning of texts."""
    if str(side or "right").lower() != "right":
        raise UnsupportedModel(f"{path}: truncation_side is {side!r:.80}; this version truncates only the end of texts")


def _name_tokens(folder: Path, declared: Mapping[str, Any], tokenizer: Tokenizer, kind: str) -> None:
    """Compare the special tokens that are named, or the defaults, with those of the tokenizer; add missing ones."""
    _, first, last, usual = _CLASSES.get(kind, (None, "", "", {}))
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    names = {key: _content(declared[key]) for key in _NAMED if declared.get(key)}
    for key, token in {**usual, **names}.items():
        if token in added:
            continue
        if key in names:
            raise _contradiction(folder, f"{key} is {token!r:.80}", "that is no special token of the tokenizer")
        if tokenizer.token_to_id(token) is None:
            raise damaged(f"{folder}: the vocabulary lacks {token!r:.80}, the {key} of a {kind}")
        tokenizer.add_special_tokens([token])
    names = {**usual, **names}
    ends = [tokenizer.token_to_id(names[key]) for key in (first, last) if key]
    if ends and tokenizer.encode("").ids != ends:
        named = f"{first} and {last} are {names[first]!r} and {names[last]!r}"
        raise _contradiction(folder, named, f"tokenizer.json sets {tokenizer.encode('').tokens}")
    model: Any = tokenizer.model
    if kind == _BERT and model.unk_token != names["unk_token"]:
        named = f"unk_token is {names['unk_token']!r:.60}"
        raise _contradiction(folder, named, f"it is {model.unk_token!r} in tokenizer.json")


def _contradiction(folder: Path, named: str, found: str) -> UnsupportedModel:
    """Return the error for special tokens that two files name differently."""
    files = "tokenizer_config.json or special_tokens_map.json"
    return UnsupportedModel(f"{folder}: {named} by {files}, but {found}; make the two agree")


def _check_added(folder: Path, declared: Mapping[str, Any], tokenizer: Tokenizer, kind: str) -> None:
    """Refuse added tokens that the tokenizer lacks or has in another form."""
    added = {token.content: (row, token) for row, token in tokenizer.get_added_tokens_decoder().items()}
    wanted: dict[str, Any] = {}
    for key in ("additional_special_tokens", "extra_special_tokens"):
        tokens = declared.get(key) or []
        tokens = list(tokens.values()) if isinstance(tokens, dict) else tokens if isinstance(tokens, list) else [tokens]
        wanted |= dict.fromkeys(map(_content, tokens))
    slow = declared.get("added_tokens_decoder")
    if slow is None:
        wanted |= read_json(folder / "added_tokens.json", missing={})
    elif not isinstance(slow, dict) or not all(isinstance(token, dict) for token in slow.values()):
        path = folder / "tokenizer_config.json"
        raise ModelCorrupt(f"{path}: added_tokens_decoder must be an object of tokens by number")
    else:
        for row, token in slow.items():
            wanted[_content(token)] = int(row) if row.isdecimal() and len(row) < 10 else row
    wrong = [token for token, row in wanted.items() if token not in added or row not in (None, added[token][0])]
    if slow is not None and kind in _CLASSES:  # built with the tokens of tokenizer_config.json alone
        named = {_content(declared[key]) for key in _NAMED if declared.get(key)} | {*_CLASSES[kind][3].values()}
        wrong += [token for token in added if token not in {*wanted, *named}]
        wrong += [_content(token) for token in slow.values() if _flags_differ(token, added)]
    if wrong:
        files = "tokenizer_config.json, special_tokens_map.json or added_tokens.json; make them agree"
        raise UnsupportedModel(
            f"{folder}: the added token {wrong[0]!r} is not the same in the tokenizer and in {files}"
        )


def _flags_differ(token: Mapping[str, Any], added: Mapping[str, tuple[int, AddedToken]]) -> bool:
    """Return whether a token of ``added_tokens_decoder`` is matched in texts differently from the tokenizer's own."""
    usual = {"normalized": not token.get("special", False)}
    _, own = added.get(_content(token), (0, None))
    flags = {flag: bool(token.get(flag, usual.get(flag, False))) for flag in _FLAGS}
    return own is not None and any(getattr(own, flag) != value for flag, value in flags.items())


def _content(token: object) -> str:
    return str(token.get("content") if isinstance(token, dict) else token)
