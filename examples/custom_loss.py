"""Train with a loss of your own: override ``compute_loss`` of the Trainer.

    python examples/custom_loss.py

The loss here pulls similar pairs together and pushes the others apart up to a margin (Hadsell et al., 2006,
"Dimensionality Reduction by Learning an Invariant Mapping").
"""

import tempfile
from typing import Any

import torch
from torch import Tensor

from simpair import TwinTowerEncoder
from simpair.training import ScoredPair, TwinTowerTrainer, TwinTowerTrainingArguments, embed_columns

PAIRS = [
    ScoredPair("the screen stays black", "the display shows nothing", 1.0),
    ScoredPair("the screen stays black", "the screen is too bright", 0.0),
    ScoredPair("屏幕一直是黑的", "显示器没有画面", 1.0),
    ScoredPair("屏幕一直是黑的", "屏幕太亮了", 0.0),
]


class ContrastiveTrainer(TwinTowerTrainer):
    """Trains with the contrastive loss; ``margin`` is a cosine distance."""

    margin = 0.5

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        """Return the loss of a batch, and the scores for the metrics if asked."""
        text1, text2 = embed_columns(model, inputs)  # (B, D) each
        scores = torch.nn.functional.cosine_similarity(text1, text2)
        apart = (self.margin - (1 - scores)).clamp(min=0)
        loss = (inputs["labels"] * (1 - scores) ** 2 + (1 - inputs["labels"]) * apart**2).mean()
        return (loss, {"scores": scores}) if return_outputs else loss


def gap(encoder: TwinTowerEncoder) -> float:
    """Return how much higher the first pair scores than the second."""
    same, other = encoder.similarity(PAIRS[0].text1, [pair.text2 for pair in PAIRS[:2]])[0]
    return float(same - other)


def main() -> None:
    """Train for eight steps and print the gap before and after."""
    encoder = TwinTowerEncoder.from_pretrained()
    before = gap(encoder)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TwinTowerTrainingArguments(scratch, max_steps=8, learning_rate=1e-4, use_cpu=True)
        ContrastiveTrainer(encoder, arguments, train_dataset=PAIRS).train()
    encoder.eval()
    print(f"gap {before:.2f} before, {gap(encoder):.2f} after")


if __name__ == "__main__":
    main()
