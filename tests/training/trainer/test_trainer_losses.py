"""The loss of a batch: its options, gradient caching, and errors for gradients that are not finite."""

import math
from types import SimpleNamespace

import pytest
import torch

from simpair.errors import TrainingError
from simpair.training import PairCollator, TwinTowerTrainer, angle, cosent, embed_columns, false_negative_mask, info_nce
from tests.training.trainer.test_trainer import ASKED, PAIRS, arguments, distance, quiet, weights

__all__ = ["arguments", "quiet"]


@pytest.mark.parametrize("loss", ["cosent", "info_nce"])
def test_gradient_caching_gives_the_gradients_of_the_whole_batch(tiny_encoder, arguments, loss):
    batch = PairCollator(tiny_encoder.tokenizer)(ASKED if loss == "info_nce" else PAIRS[:7])
    tiny_encoder.eval()  # no dropout
    gradients = []
    for mini_batch_size in (0, 4):
        tiny_encoder.zero_grad()
        trainer = TwinTowerTrainer(tiny_encoder, arguments(loss=loss, mini_batch_size=mini_batch_size))
        trainer.compute_loss(tiny_encoder, batch).backward()
        gradients.append({name: value.grad.clone() for name, value in tiny_encoder.named_parameters()})
    assert distance(*gradients) <= 1e-5 * max(float(grad.abs().max()) for grad in gradients[0].values())


def test_gradient_caching_uses_the_same_dropout_both_times(tiny_encoder, monkeypatch):
    """With dropout the gradient is that of the reported loss: it equals the gradient without caching."""
    batch = PairCollator(tiny_encoder.tokenizer)(ASKED)
    tiny_encoder.train()

    def gradients(seed=5):
        torch.manual_seed(seed)
        tiny_encoder.zero_grad()
        sum(part.square()[:, 0].sum() for part in embed_columns(tiny_encoder, batch, mini_batch_size=4)).backward()
        return {name: value.grad.clone() for name, value in tiny_encoder.named_parameters()}

    cached, other = gradients(), gradients(seed=6)
    monkeypatch.setattr("simpair.training.trainer.batches.checkpoint", lambda model, *part, use_reentrant: model(*part))
    assert distance(cached, gradients()) <= 1e-6
    assert distance(cached, other) > 1e-3  # the control: dropout is on


def test_the_options_of_the_loss_reach_it(tiny_encoder, arguments):
    asked, scored = PairCollator(tiny_encoder.tokenizer)(ASKED), PairCollator(tiny_encoder.tokenizer)(PAIRS[:6])
    tiny_encoder.eval()

    def loss_of(batch, **options):
        return TwinTowerTrainer(tiny_encoder, arguments(**options)).compute_loss(tiny_encoder, batch).item()

    text1, text2, negatives = embed_columns(tiny_encoder, asked)
    both = info_nce(text1, text2, negatives, false_negative_mask=false_negative_mask(asked), symmetric=True, scale=5)
    assert loss_of(asked, loss="info_nce", symmetric=True, scale=5) == pytest.approx(both.item())
    text1, text2 = embed_columns(tiny_encoder, scored)
    labels = scored["labels"]
    assert loss_of(scored, loss="angle") == pytest.approx(
        (cosent(text1, text2, labels) + angle(text1, text2, labels)).item()
    )
    short = cosent(text1[:, :8], text2[:, :8], labels) + cosent(text1, text2, labels)
    dims = [8, text1.shape[1]]
    assert loss_of(scored, loss="cosent", matryoshka_dims=dims) == pytest.approx(short.item())


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change(tiny_encoder, arguments):
    class Broken(TwinTowerTrainer):
        def training_step(self, model, *args, **kwargs):
            loss = super().training_step(model, *args, **kwargs)
            next(iter(model.parameters())).grad[0] = float("inf")
            return loss

    before = weights(tiny_encoder)
    with pytest.raises(TrainingError, match="gradient of step 1"):
        Broken(tiny_encoder, arguments(), train_dataset=PAIRS).train()
    assert distance(before, weights(tiny_encoder)) == 0


def test_a_step_that_a_float16_scaler_skips_is_not_an_error(tiny_encoder, arguments):
    trainer = TwinTowerTrainer(tiny_encoder, arguments())
    endless = torch.tensor(float("inf"))
    with pytest.raises(TrainingError, match="gradient of step 1"):
        trainer._get_grad_norm(tiny_encoder, endless)
    trainer.accelerator.scaler = SimpleNamespace(is_enabled=lambda: True)
    assert trainer._get_grad_norm(tiny_encoder, endless) == math.inf
