"""What makes weights: data, losses, trainer, evaluation.

The names below are imported at first use: the trainer needs transformers, the rest does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters import lora
    from .arguments import TwinTowerTrainingArguments
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
    from .interruption import SaveAtSignal
    from .losses import angle, cosent, cosine_mse, distillation, info_nce, matryoshka, similarity_distillation
    from .mining import MinedNegatives, mine_negatives
    from .mixture import Mixture
    from .outcomes import rank_pairs, score_pairs
    from .pairs import RetrievalPair, ScoredPair, read_pairs
    from .run import FineTuneReport, fine_tune
    from .sources import Source, read_source
    from .trainer import TwinTowerTrainer, embed_columns
    from .writing import write_pairs

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
    "adapters": ["lora"],
    "arguments": ["TwinTowerTrainingArguments"],
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
    "interruption": ["SaveAtSignal"],
    "mining": ["MinedNegatives", "mine_negatives"],
    "mixture": ["Mixture"],
    "outcomes": ["rank_pairs", "score_pairs"],
    "pairs": ["RetrievalPair", "ScoredPair", "read_pairs"],
    "run": ["FineTuneReport", "fine_tune"],
    "sources": ["Source", "read_source"],
    "trainer": ["TwinTowerTrainer", "embed_columns"],
    "writing": ["write_pairs"],
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
