"""Keywords of sentence-transformers that simpair does not have → errors that name the replacement."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["refuse_keywords"]

_ADVICE = {
    "batch_size chunk_size pool": "leave it out; batches are made by the number of tokens, and all cores are used",
    "backend model_kwargs torch_dtype": "pass dtype= to TwinTowerEncoder.from_pretrained",
    "cache_folder": "set the environment variable HF_HOME",
    "config_kwargs processor_kwargs tokenizer_kwargs trust_remote_code": "leave it out; no code of a model is run",
    "convert_to_numpy": "leave it out; embeddings are numpy arrays",
    "convert_to_tensor": "leave it out, and use torch.from_numpy(embeddings)",
    "default_prompt_name prompt prompt_name task": "pass role='query' or role='document'; the prompts are those of "
    "from_pretrained(..., prompts={...})",
    "device": "pass device= to TwinTowerEncoder.from_pretrained, or call encoder.to(device)",
    "model_name_or_path": "pass it as the first argument, name_or_path",
    "normalize_embeddings": "leave it out; embeddings of a cosine model always have norm 1",
    "output_value": "leave it out; encoder.towers[role].backbone gives token states",
    "precision": "pass dtype= to TwinTowerEncoder.from_pretrained; SearchIndex stores float16",
    "sentences": "pass it as the first argument, texts",
    "show_progress": "use show_progress_bar",
    "show_progress_bar": "wrap the texts in tqdm.tqdm(...)",
    "similarity_fn_name": "leave it out; the checkpoint declares its similarity",
    "token use_auth_token": "log in with `hf auth login`, or set HF_TOKEN",
    "truncate_dim": "pass truncate_dim= to TwinTowerEncoder.from_pretrained",
}
_REPLACEMENTS = {name: advice for names, advice in _ADVICE.items() for name in names.split()}


def refuse_keywords(call: str, unknown: Mapping[str, object]) -> None:
    """Raise TypeError if there are unknown keywords, with what to use instead."""
    for name in unknown:
        advice = f"; {_REPLACEMENTS[name]}" if name in _REPLACEMENTS else ""
        raise TypeError(f"{call}() got an unexpected keyword argument {name!r}{advice}")
