"""A collated batch → the embeddings of its columns, and the false negatives among its candidates."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["embed_columns", "false_negative_mask"]


def embed_columns(model: nn.Module, inputs: Mapping[str, Tensor], *, mini_batch_size: int = 0) -> list[Tensor]:
    """Return the embeddings (B, D) of every text column of a batch (text1, text2, negative1, …).

    All columns go through the model in one forward pass.

    Args:
        model: ``forward(input_ids (N, T), attention_mask (N, T)) -> (N, D)``, wrapped or not; with untied towers it
            also takes the roles (N,).
        inputs: The collator's batch.
        mini_batch_size: Texts per forward pass; each pass is run again for its gradients, with the same dropout, so
            that it is the only one in memory. 0 takes all texts in one pass, run once. Gao et al., 2021, "Scaling Deep
            Contrastive Learning Batch Size under Memory Limited Setup" (arXiv 2101.06983).

    Example:
        >>> text1, text2 = embed_columns(model, inputs)
    """
    names = [name.removesuffix("_input_ids") for name in inputs if name.endswith("_input_ids")]
    ids = [inputs[f"{name}_input_ids"] for name in names]
    masks = [inputs[f"{name}_attention_mask"] for name in names]
    length = max(column.shape[1] for column in ids)
    joined = [torch.cat([F.pad(part, (0, length - part.shape[1])) for part in parts]) for parts in (ids, masks)]
    if f"{names[0]}_roles" in inputs:  # embeddings that depend on the role
        joined.append(torch.cat([inputs[f"{name}_roles"] for name in names]))
    if mini_batch_size:
        parts = zip(*(part.split(mini_batch_size) for part in joined), strict=True)
        embeddings: Tensor = torch.cat([checkpoint(model, *part, use_reentrant=False) for part in parts])
    else:
        embeddings = model(*joined)
    return list(embeddings.split([len(column) for column in ids]))


def false_negative_mask(inputs: Mapping[str, Tensor]) -> Tensor:
    """Return which candidates of a retrieval batch are not negatives of an anchor.

    A candidate is not a negative if it equals, token for token, the anchor or its positive, or if it is the positive
    of an equal anchor.

    Args:
        inputs: The collator's batch: B anchors (text1), B positives (text2) and M negatives.

    Returns:
        (B, B + M) bool; the candidates are the positives, then the negatives.

    Example:
        >>> mask = false_negative_mask(inputs)
        >>> info_nce(text1, text2, false_negative_mask=mask)
    """
    names = [name for name in inputs if name.endswith("_input_ids")]
    length = max(inputs[name].shape[1] for name in names)
    texts = [_padded(inputs[name], inputs[name.replace("input_ids", "attention_mask")], length) for name in names]
    numbers = torch.cat(texts).unique(dim=0, return_inverse=True)[1]  # equal texts have one number
    anchors, candidates = numbers[: len(texts[0])], numbers[len(texts[0]) :]
    positives = candidates[: len(anchors)]
    mask: Tensor = (positives[:, None] == candidates) | (anchors[:, None] == candidates)
    mask[:, : len(positives)] |= anchors[:, None] == anchors
    return mask


def _padded(input_ids: Tensor, attention_mask: Tensor, length: int) -> Tensor:
    """Return token ids (B, length) with -1 for padding, so that equal rows are equal texts."""
    real = input_ids.masked_fill(attention_mask == 0, -1)
    return F.pad(real, (0, length - real.shape[1]), value=-1)
