"""Embeddings, and labels where there are some → one scalar to minimise. Pure functions; they know no model.

Embeddings are (B, D) of any float dtype and any length: every loss takes their directions. The arithmetic is float32
(float64 for float64 input) even under autocast, whose half precision cannot tell two cosines near 1 apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .defaults import SCALE

__all__ = ["angle", "cosent", "cosine_mse", "distillation", "info_nce", "matryoshka", "similarity_distillation"]

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


def cosent(text1: Tensor, text2: Tensor, labels: Tensor, *, scale: float = SCALE) -> Tensor:
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
    return _ranking(_pairwise(text1, text2), labels, scale)


def angle(text1: Tensor, text2: Tensor, labels: Tensor, *, scale: float = SCALE) -> Tensor:
    """Returns the loss of :func:`cosent` with the angle in complex space in place of the cosine.

    Where cosines lie near 1 or -1 they hardly move, and neither do their gradients; this score still does. The first
    half of a vector are real parts, the second imaginary ones, and the score of u and v, of length 1, is |the real plus
    the imaginary part of Σ u · conj(v)|. Its authors add the loss to that of the cosines.

    Li and Li, 2023, "AnglE-optimized Text Embeddings" (arXiv 2309.12871).

    Args:
        text1: (B, D) embeddings, D even.
        text2: (B, D) embeddings of the other texts.
        labels: (B,) the higher, the more alike.
        scale: The inverse temperature.

    Returns:
        A scalar of at least 0.
    """
    if text1.shape[-1] % 2:
        raise ValueError(f"angle halves the vectors, which are {text1.shape[-1]} wide; an even width is needed")
    real, imaginary = _unit(text1).chunk(2, dim=-1)
    turned = torch.cat([imaginary, -real], dim=-1)
    return _ranking((_pairwise(text1, text2) + _pairwise(turned, text2)).abs(), labels, scale)


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor | None = None,
    *,
    scale: float = SCALE,
    same: Tensor | None = None,
    symmetric: bool = False,
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
        symmetric: Whether the positives look for their anchors as well; the result is the mean of both directions.

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
    right = torch.arange(len(logits), device=logits.device)
    forth = F.cross_entropy(logits, right)
    return (forth + F.cross_entropy(logits[:, : len(logits)].T, right)) / 2 if symmetric else forth


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


def similarity_distillation(student: Tensor, teacher: Tensor, *, scale: float = SCALE) -> Tensor:
    """Returns the mean KL divergence of how alike the student finds the texts of a batch from how the teacher does.

    For each text, softmax(scale · cosines) with the other texts of the batch is a distribution. The widths may differ,
    so a teacher needs no projection.

    After Fang et al., 2021, "SEED" (arXiv 2101.04731), who compare with a queue of texts in place of the batch.

    Args:
        student: (B, D) embeddings, B at least 2.
        teacher: (B, E) embeddings of the same texts.
        scale: The inverse temperature of both.

    Returns:
        A scalar of at least 0.
    """
    if len(student) != len(teacher) or len(student) < 2:
        raise ValueError(f"two texts or more are needed, got {tuple(student.shape)} beside {tuple(teacher.shape)}")
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)

    def log_shares(embeddings: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = _unit(embeddings) @ _unit(embeddings).T
        return (scale * cosines)[~own].view(len(own), -1).log_softmax(dim=-1)

    mine, wanted = log_shares(student), log_shares(teacher)
    return F.kl_div(mine, wanted.to(mine.dtype), reduction="batchmean", log_target=True)


def matryoshka(
    loss: Callable[..., Tensor], *embeddings: Tensor, dims: Sequence[int], weights: Sequence[float] | None = None
) -> Tensor:
    """Returns the sum of a loss over the first d numbers of the embeddings, for each d, so that short ones serve too.

    Kusupati et al., 2022, "Matryoshka Representation Learning" (arXiv 2205.13147).

    Args:
        loss: Takes the embeddings, cut, in this order; ``functools.partial`` gives it labels.
        embeddings: (B, D) each.
        dims: Every d, from 1 to D.
        weights: One for each d; None for 1.

    Returns:
        A scalar.
    """
    widest = min(part.shape[-1] for part in embeddings)
    if not dims or not all(1 <= d <= widest for d in dims):
        raise ValueError(f"dims are {tuple(dims)}; give some from 1 to {widest}")
    parts = [loss(*(part[..., :d] for part in embeddings)) for d in dims]
    weighted = [weight * part for weight, part in zip(weights or [1.0] * len(dims), parts, strict=True)]
    return torch.stack(weighted).sum()


def _ranking(scores: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Returns log(1 + Σ exp(scale · (score_j - score_i))) over all i, j with label_i > label_j, for scores (B,)."""
    _check_labels(labels, scores)
    excess = scale * (scores[None, :] - scores[:, None])  # (B, B), row i, column j
    ordered = labels[:, None] > labels[None, :]
    excess = excess.masked_fill(~ordered, torch.finfo(excess.dtype).min)
    return F.pad(excess.flatten(), (1, 0)).logsumexp(dim=0)  # the 0 put in front is the 1 inside the logarithm


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
