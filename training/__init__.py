"""What makes weights: data, losses, trainer, evaluation.

The names below are imported at first use: the trainer needs transformers, the rest does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.collators import PairCollator
    from .data.mixture import Mixture
    from .data.pairs import RetrievalPair, ScoredPair, read_pairs
    from .data.sources import Source, read_source
    from .data.writing import write_pairs
    from .evaluation.evaluate import (
        BitextScores,
        PairScores,
        RetrievalScores,
        evaluate_bitext,
        evaluate_pairs,
        evaluate_records,
        evaluate_retrieval,
    )
    from .evaluation.intervals import pair_intervals, retrieval_intervals
    from .evaluation.mining import MinedNegatives, mine_negatives
    from .evaluation.predictions import rank_pairs, score_pairs
    from .fine_tuning import FineTuneReport, fine_tune
    from .losses import angle, cosent, cosine_mse, distillation, info_nce, matryoshka, similarity_distillation
    from .trainer.adapters import lora
    from .trainer.arguments import TwinTowerTrainingArguments
    from .trainer.interruption import SaveAtSignal
    from .trainer.trainer import TwinTowerTrainer, embed_columns

__all__ = [
    "BitextScores",
    "FineTuneReport",
    "MinedNegatives",
    "Mixture",
    "PairCollator",
    "PairScores",
    "RetrievalPair",
    "RetrievalScores",
    "SaveAtSignal",
    "ScoredPair",
    "Source",
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
    "lora",
    "matryoshka",
    "mine_negatives",
    "pair_intervals",
    "rank_pairs",
    "read_pairs",
    "read_source",
    "retrieval_intervals",
    "score_pairs",
    "similarity_distillation",
    "write_pairs",
]

_HOMES = {
    "trainer.adapters": ["lora"],
    "trainer.arguments": ["TwinTowerTrainingArguments"],
    "data.collators": ["PairCollator"],
    "evaluation.evaluate": [
        "BitextScores",
        "PairScores",
        "RetrievalScores",
        "evaluate_bitext",
        "evaluate_pairs",
        "evaluate_records",
        "evaluate_retrieval",
    ],
    "evaluation.intervals": ["pair_intervals", "retrieval_intervals"],
    "losses": [
        "angle",
        "cosent",
        "cosine_mse",
        "distillation",
        "info_nce",
        "matryoshka",
        "similarity_distillation",
    ],
    "trainer.interruption": ["SaveAtSignal"],
    "evaluation.mining": ["MinedNegatives", "mine_negatives"],
    "data.mixture": ["Mixture"],
    "evaluation.predictions": ["rank_pairs", "score_pairs"],
    "data.pairs": ["RetrievalPair", "ScoredPair", "read_pairs"],
    "fine_tuning": ["FineTuneReport", "fine_tune"],
    "data.sources": ["Source", "read_source"],
    "trainer.trainer": ["TwinTowerTrainer", "embed_columns"],
    "data.writing": ["write_pairs"],
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
