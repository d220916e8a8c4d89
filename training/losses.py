"""Embeddings, and labels if there are any → one scalar to minimize; pure functions of tensors.

Embeddings are (B, D) of any float dtype and any norm: every loss normalizes them. The arithmetic is float32 (float64
for float64 input) even under autocast, since float16 and bfloat16 cannot distinguish cosines near 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .defaults import SCALE

__all__ = ["angle", "cosent", "cosine_mse", "distillation", "info_nce", "matryoshka", "similarity_distillation"]

_EPS = 1e-6  # the smallest norm that is divided by, so that the gradient of a zero vector stays finite


def cosine_mse(text1: Tensor, text2: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of (cos(text1, text2) - label)², the regression objective of Sentence-BERT.

    Reimers and Gurevych, 2019, "Sentence-BERT", section 3 (arXiv 1908.10084).

    Args:
        text1: (B, D) embeddings.
        text2: (B, D) embeddings of the other texts.
        labels: (B,) target cosines, -1..1 (usually 0..1).

    Returns:
        A scalar from 0 to 4.

    Example:
        >>> loss = cosine_mse(text1, text2, torch.tensor([1.0, 0.0]))
        >>> loss.backward()
    """
    cosines = _pairwise(text1, text2)
    _check_labels(labels, cosines)
    return (cosines - labels.to(cosines.dtype)).square().mean()


def cosent(text1: Tensor, text2: Tensor, labels: Tensor, *, scale: float = SCALE) -> Tensor:
    """Return log(1 + Σ exp(scale · (cos_j - cos_i))) over all i, j with label_i > label_j.

    Only the order of the labels counts, not their scale. A batch whose labels are all equal has no such i, j: its loss
    and its gradient are exactly 0.

    Su Jianlin, 2022, "CoSENT" (https://kexue.fm/archives/8847).

    Args:
        text1: (B, D) embeddings.
        text2: (B, D) embeddings of the other texts.
        labels: (B,) higher for more similar texts.
        scale: The inverse temperature.

    Returns:
        A scalar of at least 0.

    Example:
        >>> loss = cosent(text1, text2, torch.tensor([0.9, 0.1]))
        >>> loss.backward()
    """
    return _ranking(_pairwise(text1, text2), labels, scale)


def angle(text1: Tensor, text2: Tensor, labels: Tensor, *, scale: float = SCALE) -> Tensor:
    """Return the loss of :func:`cosent` with an angle in complex space instead of the cosine.

    The gradient of a cosine vanishes near 1 and -1; the gradient of this score does not. The first half of an embedding
    holds real parts, the second imaginary parts; the score of u and v, of norm 1, is the absolute value of the real
    plus the imaginary part of Σ u · conj(v). The authors add the loss to that of the cosines.

    Li and Li, 2023, "AnglE-optimized Text Embeddings" (arXiv 2309.12871).

    Args:
        text1: (B, D) embeddings, D even.
        text2: (B, D) embeddings of the other texts.
        labels: (B,) higher for more similar texts.
        scale: The inverse temperature.

    Returns:
        A scalar of at least 0.

    Raises:
        ValueError: D is odd.

    Example:
        >>> loss = cosent(text1, text2, labels) + angle(text1, text2, labels)
        >>> loss.backward()
    """
    if text1.shape[-1] % 2:
        raise ValueError(f"the embeddings have dimension {text1.shape[-1]}; angle needs an even dimension")
    real, imaginary = _unit(text1).chunk(2, dim=-1)
    rotated = torch.cat([imaginary, -real], dim=-1)
    return _ranking((_pairwise(text1, text2) + _pairwise(rotated, text2)).abs(), labels, scale)


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor | None = None,
    *,
    scale: float = SCALE,
    false_negative_mask: Tensor | None = None,
    symmetric: bool = False,
) -> Tensor:
    """Return the mean over i of -log(exp(scale · cos(a_i, p_i)) / Σ_c exp(scale · cos(a_i, c))).

    The candidates c are all positives and negatives of the batch, so the positives of other anchors serve as negatives.

    Henderson et al., 2017 (arXiv 1705.00652); van den Oord et al., 2018 (arXiv 1807.03748); Karpukhin et al., 2020
    (arXiv 2004.04906).

    Args:
        anchors: (B, D) embeddings.
        positives: (B, D) embeddings; row i is the positive of anchor i.
        negatives: (M, D) embeddings of further negatives, for all anchors.
        scale: The inverse temperature.
        false_negative_mask: (B, B + M) bool, true for candidates (positives, then negatives) that are not negatives of
            the anchor and are left out of its sum, such as :func:`~simpair.training.false_negative_mask` gives. The
            diagonal is always kept.
        symmetric: Whether to return the mean of this loss and the one with anchors and positives exchanged.

    Returns:
        A scalar of at least 0.

    Example:
        >>> loss = info_nce(text1, text2, false_negative_mask=false_negative_mask(inputs))
        >>> loss.backward()
    """
    if anchors.shape != positives.shape:
        raise ValueError(
            f"anchors {tuple(anchors.shape)} and positives {tuple(positives.shape)} must have the same shape"
        )
    candidates = positives if negatives is None else torch.cat([positives, negatives])
    with torch.autocast(anchors.device.type, enabled=False):  # it would compute the product in float16 or bfloat16
        logits = scale * (_unit(anchors) @ _unit(candidates).T)
    if false_negative_mask is not None:
        if false_negative_mask.shape != logits.shape:
            given, expected = tuple(false_negative_mask.shape), tuple(logits.shape)
            raise ValueError(f"false_negative_mask {given} must have the shape of the scores, {expected}")
        own = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(false_negative_mask & ~own, torch.finfo(logits.dtype).min)
    targets = torch.arange(len(logits), device=logits.device)
    loss = F.cross_entropy(logits, targets)
    return (loss + F.cross_entropy(logits[:, : len(logits)].T, targets)) / 2 if symmetric else loss


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of 1 - cos(student, teacher), half the squared distance of the normalized embeddings.

    After Reimers and Gurevych, 2020 (arXiv 2004.09813), who take the squared distance of the embeddings themselves.

    Args:
        student: (B, D) embeddings.
        teacher: (B, D) target embeddings of the same texts.

    Returns:
        A scalar from 0 to 2.

    Example:
        >>> loss = distillation(student, teacher)
        >>> loss.backward()
    """
    return (1 - _pairwise(student, teacher)).mean()


def similarity_distillation(student: Tensor, teacher: Tensor, *, scale: float = SCALE) -> Tensor:
    """Return the mean KL divergence between the similarity distributions of teacher and student.

    The distribution of a text is softmax(scale · cosines) over the other texts of the batch. The dimensions of teacher
    and student may differ.

    After Fang et al., 2021, "SEED" (arXiv 2101.04731), who compare with a queue of texts instead of the batch.

    Args:
        student: (B, D) embeddings, B at least 2.
        teacher: (B, E) embeddings of the same texts.
        scale: The inverse temperature of both.

    Returns:
        A scalar of at least 0.

    Example:
        >>> loss = similarity_distillation(student, teacher)
        >>> loss.backward()
    """
    if len(student) != len(teacher) or len(student) < 2:
        raise ValueError(
            f"got embeddings {tuple(student.shape)} and {tuple(teacher.shape)}; expected two or more of the same texts"
        )
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)

    def log_similarities(embeddings: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = _unit(embeddings) @ _unit(embeddings).T
        return (scale * cosines)[~own].view(len(own), -1).log_softmax(dim=-1)

    found, target = log_similarities(student), log_similarities(teacher)
    return F.kl_div(found, target.to(found.dtype), reduction="batchmean", log_target=True)


def matryoshka(
    loss: Callable[..., Tensor], *embeddings: Tensor, dims: Sequence[int], weights: Sequence[float] | None = None
) -> Tensor:
    """Return the sum of a loss over embeddings truncated to each of several dimensions.

    Kusupati et al., 2022, "Matryoshka Representation Learning" (arXiv 2205.13147).

    Args:
        loss: A function of the truncated embeddings, in this order; ``functools.partial`` gives it labels.
        embeddings: (B, D) each.
        dims: Dimensions from 1 to D.
        weights: The weight of each dimension. Default: 1.

    Returns:
        A scalar.

    Example:
        >>> loss = matryoshka(info_nce, text1, text2, dims=(64, 128, 384))
        >>> loss.backward()
    """
    dimension = min(part.shape[-1] for part in embeddings)
    if not dims or not all(1 <= d <= dimension for d in dims):
        raise ValueError(f"dims are {tuple(dims)}; give dimensions from 1 to {dimension}")
    parts = [loss(*(part[..., :d] for part in embeddings)) for d in dims]
    weighted = [weight * part for weight, part in zip(weights or [1.0] * len(dims), parts, strict=True)]
    return torch.stack(weighted).sum()


def _ranking(scores: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Return log(1 + Σ exp(scale · (score_j - score_i))) over all i, j with label_i > label_j, for scores (B,)."""
    _check_labels(labels, scores)
    excess = scale * (scores[None, :] - scores[:, None])  # (B, B), row i, column j
    ordered = labels[:, None] > labels[None, :]
    excess = excess.masked_fill(~ordered, torch.finfo(excess.dtype).min)
    return F.pad(excess.flatten(), (1, 0)).logsumexp(dim=0)  # the padded 0 gives the 1 in the logarithm


def _unit(embeddings: Tensor) -> Tensor:
    """Return the embeddings (..., D) with norm 1, in float32 or float64."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1, eps=_EPS)


def _pairwise(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosines (B,) of the rows of left and right, both (B, D)."""
    if left.shape != right.shape:
        raise ValueError(f"the embeddings must have the same shape, got {tuple(left.shape)} and {tuple(right.shape)}")
    return (_unit(left) * _unit(right)).sum(dim=-1)


def _check_labels(labels: Tensor, cosines: Tensor) -> None:
    if labels.shape != cosines.shape:  # (B, 1) would silently be broadcast to (B, B)
        raise ValueError(f"labels {tuple(labels.shape)} must have one label per pair, {tuple(cosines.shape)}")
