"""Embeddings, and labels where there are some → one scalar to minimise. Pure functions; they know no model.

Embeddings are (B, D) of any float dtype and any length: every loss takes their directions. The arithmetic is float32
(float64 for float64 input) even under autocast, whose half precision cannot tell two cosines near 1 apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cosent", "cosine_mse", "distillation", "info_nce"]

_EPS = 1e-6  # a length below it counts as zero: the direction, and the gradient, stay finite


def cosine_mse(text1: Tensor, text2: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean of (cos(text1, text2) - label)², the regression objective of Sentence-BERT.

    Reimers and Gurevych, 2019, "Sentence-BERT", section 3 (arXiv 1908.10084).

    Args:
        text1: (B, D) embeddings.
        text2: (B, D) embeddings of the other texts.
        labels: (B,) the cosines wanted, -1..1 (usually 0..1).

    Returns:
        A scalar of 0 to 4.
    """
    cosines = _pairwise(text1, text2)
    _check_labels(labels, cosines)
    return (cosines - labels.to(cosines.dtype)).square().mean()


def cosent(text1: Tensor, text2: Tensor, labels: Tensor, *, scale: float = 20.0) -> Tensor:
    """Returns log(1 + Σ exp(scale · (cos_j - cos_i))) over all i, j with label_i > label_j.

    It asks for the order of the labels only, so their scale does not matter. A batch whose labels are all equal has
    no such i, j: its loss is exactly 0, and so is its gradient.

    Su Jianlin, 2022, "CoSENT" (https://kexue.fm/archives/8847).

    Args:
        text1: (B, D) embeddings.
        text2: (B, D) embeddings of the other texts.
        labels: (B,) the higher, the more alike.
        scale: The inverse temperature.

    Returns:
        A scalar of at least 0.
    """
    cosines = _pairwise(text1, text2)
    _check_labels(labels, cosines)
    excess = scale * (cosines[None, :] - cosines[:, None])  # (B, B), row i, column j
    ordered = labels[:, None] > labels[None, :]
    excess = excess.masked_fill(~ordered, torch.finfo(excess.dtype).min)
    return F.pad(excess.flatten(), (1, 0)).logsumexp(dim=0)  # the 0 put in front is the 1 inside the logarithm


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor | None = None,
    *,
    scale: float = 20.0,
    same: Tensor | None = None,
) -> Tensor:
    """Returns the mean over i of -log(exp(scale · cos(a_i, p_i)) / Σ_c exp(scale · cos(a_i, c))).

    The candidates c are all positives and negatives of the batch, so the positives of other anchors are negatives.

    Henderson et al., 2017 (arXiv 1705.00652); van den Oord et al., 2018 (arXiv 1807.03748); Karpukhin et al., 2020
    (arXiv 2004.04906).

    Args:
        anchors: (B, D) embeddings.
        positives: (B, D) embeddings; row i is what anchor i should find.
        negatives: (M, D) embeddings that no anchor should find.
        scale: The inverse temperature.
        same: (B, B + M) bool, true where a candidate (positives, then negatives) is also right for the anchor, and so
            is left out of its sum. The diagonal always counts.

    Returns:
        A scalar of at least 0.
    """
    if anchors.shape != positives.shape:
        raise ValueError(f"anchors {tuple(anchors.shape)} and positives {tuple(positives.shape)} must have one shape")
    candidates = positives if negatives is None else torch.cat([positives, negatives])
    with torch.autocast(anchors.device.type, enabled=False):  # it would run the product in half precision
        logits = scale * (_unit(anchors) @ _unit(candidates).T)
    if same is not None:
        if same.shape != logits.shape:
            raise ValueError(f"same {tuple(same.shape)} must have the shape of the scores, {tuple(logits.shape)}")
        own = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same & ~own, torch.finfo(logits.dtype).min)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean of 1 - cos(student, teacher), half the squared distance between the two directions.

    After Reimers and Gurevych, 2020 (arXiv 2004.09813), who take the squared distance of the embeddings themselves.

    Args:
        student: (B, D) embeddings.
        teacher: (B, D) embeddings of the same texts, wanted from the student.

    Returns:
        A scalar of 0 to 2.
    """
    return (1 - _pairwise(student, teacher)).mean()


def _unit(embeddings: Tensor) -> Tensor:
    """Returns the embeddings (..., D) at length 1, in float32 or float64."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1, eps=_EPS)


def _pairwise(left: Tensor, right: Tensor) -> Tensor:
    """Returns the cosine of each row (B, D) of left and the same row of right, as (B,)."""
    if left.shape != right.shape:
        raise ValueError(f"the embeddings must have one shape, got {tuple(left.shape)} and {tuple(right.shape)}")
    return (_unit(left) * _unit(right)).sum(dim=-1)


def _check_labels(labels: Tensor, cosines: Tensor) -> None:
    if labels.shape != cosines.shape:  # (B, 1) would be broadcast to (B, B), silently
        raise ValueError(f"labels {tuple(labels.shape)} must be one a pair, {tuple(cosines.shape)}")
