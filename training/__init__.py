"""What makes weights: data, losses, trainer, evaluation.

The names below are imported at first use: the trainer needs transformers, the rest does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .collators import PairCollator
    from .evaluate import (
        BitextScores,
        PairScores,
        RetrievalScores,
        evaluate_bitext,
        evaluate_pairs,
        evaluate_records,
        evaluate_retrieval,
        pair_intervals,
        retrieval_intervals,
    )
    from .losses import angle, cosent, cosine_mse, distillation, info_nce, matryoshka, similarity_distillation
    from .outcomes import rank_pairs, score_pairs
    from .pairs import RetrievalPair, ScoredPair, read_pairs
    from .run import FineTuneReport, fine_tune
    from .trainer import TwinTowerTrainer, TwinTowerTrainingArguments, embed_columns

__all__ = [
    "BitextScores",
    "FineTuneReport",
    "PairCollator",
    "PairScores",
    "RetrievalPair",
    "RetrievalScores",
    "ScoredPair",
    "TwinTowerTrainer",
    "TwinTowerTrainingArguments",
    "angle",
    "cosent",
    "cosine_mse",
    "distillation",
    "embed_columns",
    "evaluate_bitext",
    "evaluate_pairs",
    "evaluate_records",
    "evaluate_retrieval",
    "fine_tune",
    "info_nce",
    "matryoshka",
    "pair_intervals",
    "rank_pairs",
    "read_pairs",
    "retrieval_intervals",
    "score_pairs",
    "similarity_distillation",
]

_HOMES = {
    "collators": ["PairCollator"],
    "evaluate": [
        "BitextScores",
        "PairScores",
        "RetrievalScores",
        "evaluate_bitext",
        "evaluate_pairs",
        "evaluate_records",
        "evaluate_retrieval",
        "pair_intervals",
        "retrieval_intervals",
    ],
    "losses": [
        "angle",
        "cosent",
        "cosine_mse",
        "distillation",
        "info_nce",
        "matryoshka",
        "similarity_distillation",
    ],
    "outcomes": ["rank_pairs", "score_pairs"],
    "pairs": ["RetrievalPair", "ScoredPair", "read_pairs"],
    "run": ["FineTuneReport", "fine_tune"],
    "trainer": ["TwinTowerTrainer", "TwinTowerTrainingArguments", "embed_columns"],
}


def __getattr__(name: str) -> Any:
    """The public name, from the module that defines it."""
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
