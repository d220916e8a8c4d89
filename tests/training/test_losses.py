"""Losses: hand-computed values, invariances, and gradients compared with finite differences."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from simpair.training.losses import (
    angle,
    cosent,
    cosine_mse,
    distillation,
    info_nce,
    matryoshka,
    similarity_distillation,
)


def at_angles(*degrees: float, norm: float = 1.0) -> torch.Tensor:
    """Return vectors (N, 2) in the plane; the cosine of two of them is the cosine of the difference of their angles."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return norm * torch.stack([radians.cos(), radians.sin()], dim=1)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


LOSSES = {
    "cosine_mse": lambda a, b: cosine_mse(a, b, torch.linspace(0, 1, len(a))),
    "cosent": lambda a, b: cosent(a, b, torch.linspace(0, 1, len(a)), scale=3),
    "angle": lambda a, b: angle(a, b, torch.linspace(0, 1, len(a)), scale=3),
    "info_nce": lambda a, b: info_nce(a, b, b.flip(1), scale=3),
    "info_nce, symmetric": lambda a, b: info_nce(a, b, b.flip(1), scale=3, symmetric=True),
    "similarity_distillation": lambda a, b: similarity_distillation(a, b, scale=3),
    "distillation": distillation,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


# --- hand-computed values


def test_cosine_mse_of_known_angles():
    # the cosines are 1, 1/2 and -1
    loss = cosine_mse(at_angles(0, 0, 0), at_angles(0, 60, 180), torch.tensor([1.0, 0.0, 0.5]))
    assert loss.item() == pytest.approx((0 + 0.5**2 + 1.5**2) / 3)


def test_cosent_of_known_angles():
    # the cosines are 1/2, 0 and 1; the pairs in order of label are (0, 1), (0, 2), (1, 2)
    loss = cosent(at_angles(0, 0, 0), at_angles(60, 90, 0), torch.tensor([1.0, 0.5, 0.0]), scale=2)
    by_hand = math.log(1 + math.exp(2 * (0 - 0.5)) + math.exp(2 * (1 - 0.5)) + math.exp(2 * (1 - 0)))
    assert loss.item() == pytest.approx(by_hand)


def test_cosent_ignores_pairs_of_equal_labels():
    loss = cosent(at_angles(0, 0, 0), at_angles(60, 90, 0), torch.tensor([1, 0, 0]), scale=2)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(2 * (0 - 0.5)) + math.exp(2 * (1 - 0.5))))


def test_info_nce_of_known_angles():
    # anchor 0 sees cosines 1 and 1/2, anchor 1 sees 0 and 1/2; the diagonal is right
    loss = info_nce(at_angles(0, 90), at_angles(0, 60), scale=2)
    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(2 * 0.5)))
    second = -math.log(math.exp(2 * math.sqrt(3) / 2) / (math.exp(0) + math.exp(2 * math.sqrt(3) / 2)))
    assert loss.item() == pytest.approx((first + second) / 2)


def test_info_nce_of_known_angles_with_a_negative():
    loss = info_nce(at_angles(0), at_angles(60), at_angles(90), scale=2)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(2 * (0 - 0.5))))


def test_distillation_of_known_angles():
    assert distillation(at_angles(0, 0), at_angles(60, 180)).item() == pytest.approx((0.5 + 2) / 2)


def test_angle_of_known_angles():
    # in the plane the score is |cos + sin| of the difference of the angles: 1 at 0, √2 at 45, 1 at 90 degrees
    loss = angle(at_angles(45, 90), at_angles(0, 0), torch.tensor([0.0, 1.0]), scale=2)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(2 * (math.sqrt(2) - 1))))
    with pytest.raises(ValueError, match="dimension 3"):
        angle(random(2, 3), random(2, 3), torch.tensor([0.0, 1.0]))


def test_symmetric_info_nce_is_the_mean_of_both_directions_and_masks_both():
    anchors, positives = random(4, 3), random(4, 3, seed=1)
    both = info_nce(anchors, positives, symmetric=True)
    assert both.item() == pytest.approx((info_nce(anchors, positives) + info_nce(positives, anchors)).item() / 2)
    mask = random(4, 4, seed=2) > 0.3
    back = info_nce(positives, anchors, false_negative_mask=mask.T)
    both = info_nce(anchors, positives, false_negative_mask=mask, symmetric=True)
    assert both.item() == pytest.approx((info_nce(anchors, positives, false_negative_mask=mask) + back).item() / 2)


def test_similarity_distillation_of_known_angles():
    # the student's cosines of text 0 with 1 and 2: 1/2 and 0; the teacher's, in another dimension: 0 and 1; and so on
    student, teacher = at_angles(0, 60, 90), torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]], dtype=torch.float64)
    cosines = {(0, 1): 0.5, (0, 2): 0.0, (1, 2): math.cos(math.radians(30))}
    wanted = {(0, 1): 0.0, (0, 2): 1.0, (1, 2): 0.0}
    by_hand = 0.0
    for text in range(3):
        pairs = [tuple(sorted((text, other))) for other in range(3) if other != text]
        mine, theirs = ([math.exp(2 * table[pair]) for pair in pairs] for table in (cosines, wanted))
        by_hand += sum(
            t / sum(theirs) * math.log(t / sum(theirs) / (m / sum(mine))) for m, t in zip(mine, theirs, strict=True)
        )
    assert similarity_distillation(student, teacher, scale=2).item() == pytest.approx(by_hand / 3)
    assert similarity_distillation(student, student * 3).item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="two or more"):
        similarity_distillation(student[:1], teacher[:1])


def test_matryoshka_is_the_weighted_sum_over_the_dimensions():
    left, right = random(4, 6), random(4, 6, seed=1)
    by_hand = 2 * info_nce(left[:, :2], right[:, :2]) + 3 * info_nce(left, right)
    assert matryoshka(info_nce, left, right, dims=(2, 6), weights=(2, 3)).item() == pytest.approx(by_hand.item())
    assert matryoshka(info_nce, left, right, dims=(6,)).item() == pytest.approx(info_nce(left, right).item())
    for dims in ((), (0,), (7,)):
        with pytest.raises(ValueError, match="from 1 to 6"):
            matryoshka(info_nce, left, right, dims=dims)


# --- invariances


@every_loss
def test_norms_do_not_matter(loss):
    left, right = random(5, 4), random(5, 4, seed=1)
    assert loss(left * torch.tensor([[1e-3], [1], [2], [3], [1e3]]), right * 7).item() == pytest.approx(
        loss(left, right).item()
    )


def test_the_order_of_the_batch_does_not_matter():
    left, right, labels = random(6, 4), random(6, 4, seed=1), torch.tensor([0.0, 1.0, 0.2, 0.2, 0.9, 0.5])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for loss in (cosine_mse, cosent):
        shuffled = loss(left[order], right[order], labels[order])
        assert shuffled.item() == pytest.approx(loss(left, right, labels).item())
    mask = random(6, 6, seed=2) > 0.5
    shuffled = info_nce(left[order], right[order], false_negative_mask=mask[order][:, order])
    assert shuffled.item() == pytest.approx(info_nce(left, right, false_negative_mask=mask).item())
    assert distillation(left[order], right[order]).item() == pytest.approx(distillation(left, right).item())


def test_cosent_depends_on_the_order_of_the_labels_only():
    left, right = random(4, 3), random(4, 3, seed=1)
    first = cosent(left, right, torch.tensor([0.0, 0.1, 0.2, 0.2]))
    assert cosent(left, right, torch.tensor([-1, 3, 5, 5])).item() == first.item()
    assert cosent(left, right, torch.tensor([0.2, 0.1, 0.0, 0.0])).item() != first.item()


def test_losses_fall_when_similar_texts_come_closer():
    labels = torch.tensor([1.0, 0.0])
    good, bad = at_angles(10, 80), at_angles(80, 10)
    origin = at_angles(0, 0)
    assert cosine_mse(origin, good, labels) < cosine_mse(origin, bad, labels)
    assert cosent(origin, good, labels) < cosent(origin, bad, labels)
    assert info_nce(at_angles(0, 90), good) < info_nce(at_angles(0, 90), bad)
    assert distillation(origin, at_angles(10, 10)) < distillation(origin, at_angles(80, 80))


# --- candidates


def test_negatives_are_further_candidates_of_every_anchor():
    anchors, positives, negatives = random(3, 4), random(3, 4, seed=1), random(2, 4, seed=2)
    cosines = torch.nn.functional.cosine_similarity(anchors[:, None], torch.cat([positives, negatives])[None], dim=-1)
    by_hand = -(20 * cosines).log_softmax(dim=1)[:, :3].diagonal().mean()
    assert info_nce(anchors, positives, negatives).item() == pytest.approx(by_hand.item())


def test_masked_candidates_are_left_out_but_never_the_diagonal():
    anchors, positives, negatives = random(3, 4), random(3, 4, seed=1), random(1, 4, seed=2)
    mask = torch.eye(3, 4, dtype=torch.bool)
    assert (
        info_nce(anchors, positives, negatives, false_negative_mask=mask).item()
        == info_nce(anchors, positives, negatives).item()
    )
    mask[:, 3] = True
    assert info_nce(anchors, positives, negatives, false_negative_mask=mask).item() == pytest.approx(
        info_nce(anchors, positives).item()
    )
    assert info_nce(anchors, positives, false_negative_mask=torch.ones(3, 3, dtype=torch.bool)).item() == 0


def test_a_masked_repeated_positive_gives_no_gradient_against_itself():
    anchors, positive = random(2, 4).requires_grad_(), random(1, 4, seed=1)
    mask = torch.tensor([[True, True], [True, True]])
    info_nce(anchors, positive.repeat(2, 1), false_negative_mask=mask).backward()
    assert anchors.grad.abs().max() == 0
    anchors.grad = None
    info_nce(anchors, positive.repeat(2, 1)).backward()  # without the mask the loss is log 2, which cannot be lowered
    assert info_nce(anchors, positive.repeat(2, 1)).item() == pytest.approx(math.log(2))


# --- finite results


@pytest.mark.parametrize("labels", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
def test_cosent_of_one_class_is_exactly_zero_with_zero_gradient(labels):
    left = random(3, 4, dtype=torch.float32).requires_grad_()
    loss = cosent(left, random(3, 4, seed=1, dtype=torch.float32), torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert (left.grad == 0).all()


@every_loss
def test_gradients_agree_with_finite_differences(loss):
    left, right = random(4, 4).requires_grad_(), random(4, 4, seed=1).requires_grad_()
    assert gradcheck(loss, (left, right))
    assert all(grad.abs().max() > 1e-3 for grad in torch.autograd.grad(loss(left, right), (left, right)))


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_half_precision_input_gives_a_float32_scalar_near_the_exact_one(loss, dtype):
    left, right = random(4, 16, dtype=dtype), random(4, 16, seed=1, dtype=dtype)
    result = loss(left, right)
    assert result.shape == ()
    assert result.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    assert result.item() == pytest.approx(loss(left.double(), right.double()).item(), rel=1e-5)


def test_the_dtype_of_the_labels_does_not_change_the_loss():
    left, right = random(3, 4, dtype=torch.float32), random(3, 4, seed=1, dtype=torch.float32)
    for loss in (cosine_mse, cosent):
        results = [loss(left, right, torch.tensor([0, 1, 1], dtype=dtype)) for dtype in (torch.int64, torch.float64)]
        assert results[0].dtype == results[1].dtype == torch.float32
        assert results[0].item() == results[1].item() > 0


@every_loss
def test_autocast_does_not_change_the_loss(loss):
    left, right = random(4, 16, dtype=torch.float32), random(4, 16, seed=1, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (left @ right.T).dtype == torch.bfloat16  # the control: autocast is on
        inside = loss(left, right)
    assert inside.item() == loss(left, right).item()


@every_loss
@pytest.mark.parametrize("norm", [0.0, 1e-30, 1e15])
def test_zero_tiny_and_huge_embeddings_stay_finite(loss, norm):
    left = (random(4, 4, dtype=torch.float32) * norm).requires_grad_()
    result = loss(left, random(4, 4, seed=1, dtype=torch.float32))
    result.backward()
    assert result.isfinite()
    assert left.grad.isfinite().all()


def test_large_scales_do_not_overflow():
    left, right = at_angles(0, 0).float(), at_angles(180, 0).float()
    assert cosent(left, right, torch.tensor([1.0, 0.0]), scale=1e4).item() == pytest.approx(2e4)
    assert info_nce(left, right, at_angles(0).float(), scale=1e4).isfinite()


# --- errors


def test_shapes_that_would_broadcast_are_refused():
    left, right = random(3, 4), random(3, 4)
    for loss in (cosine_mse, cosent):
        with pytest.raises(ValueError, match=r"labels \(3, 1\) must have one label per pair, \(3,\)"):
            loss(left, right, torch.zeros(3, 1))
        with pytest.raises(ValueError, match="the same shape"):
            loss(left, right[:1], torch.zeros(3))
    with pytest.raises(ValueError, match="the same shape"):
        info_nce(left, right[:1])
    with pytest.raises(ValueError, match=r"false_negative_mask \(1, 3\)"):
        info_nce(left, right, false_negative_mask=torch.zeros(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="the same shape"):
        distillation(left, right[:1])
