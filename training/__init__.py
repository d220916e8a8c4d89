"""Training: pairs → records → a trained encoder, its metrics and its plots.

The names below are imported at first use, since the trainer needs transformers and the rest does not.
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
    from .evaluation.intervals import Interval, bootstrap, pair_intervals, retrieval_intervals
    from .evaluation.metrics import (
        Threshold,
        accuracy_at_k,
        accuracy_at_threshold,
        average_precision,
        best_threshold,
        f1_at_threshold,
        mrr_at_k,
        ndcg_at_k,
        pearson,
        recall_at_k,
        roc_auc,
        spearman,
    )
    from .evaluation.mining import MinedNegatives, mine_negatives
    from .evaluation.predictions import rank_pairs, score_pairs
    from .fine_tuning import FineTuneReport, fine_tune
    from .losses import angle, cosent, cosine_mse, distillation, info_nce, matryoshka, similarity_distillation
    from .trainer.adapters import lora
    from .trainer.arguments import TwinTowerTrainingArguments
    from .trainer.batches import embed_columns, false_negative_mask
    from .trainer.interruption import SaveAtSignal
    from .trainer.trainer import TwinTowerTrainer

__all__ = [
    "BitextScores",
    "FineTuneReport",
    "Interval",
    "MinedNegatives",
    "Mixture",
    "PairCollator",
    "PairScores",
    "RetrievalPair",
    "RetrievalScores",
    "SaveAtSignal",
    "ScoredPair",
    "Source",
    "Threshold",
    "TwinTowerTrainer",
    "TwinTowerTrainingArguments",
    "accuracy_at_k",
    "accuracy_at_threshold",
    "angle",
    "average_precision",
    "best_threshold",
    "bootstrap",
    "cosent",
    "cosine_mse",
    "distillation",
    "embed_columns",
    "evaluate_bitext",
    "evaluate_pairs",
    "evaluate_records",
    "evaluate_retrieval",
    "f1_at_threshold",
    "false_negative_mask",
    "fine_tune",
    "info_nce",
    "lora",
    "matryoshka",
    "mine_negatives",
    "mrr_at_k",
    "ndcg_at_k",
    "pair_intervals",
    "pearson",
    "rank_pairs",
    "read_pairs",
    "read_source",
    "recall_at_k",
    "retrieval_intervals",
    "roc_auc",
    "score_pairs",
    "similarity_distillation",
    "spearman",
    "write_pairs",
]

_MODULES = {
    "data.collators": ["PairCollator"],
    "data.mixture": ["Mixture"],
    "data.pairs": ["RetrievalPair", "ScoredPair", "read_pairs"],
    "data.sources": ["Source", "read_source"],
    "data.writing": ["write_pairs"],
    "evaluation.evaluate": [
        "BitextScores",
        "PairScores",
        "RetrievalScores",
        "evaluate_bitext",
        "evaluate_pairs",
        "evaluate_records",
        "evaluate_retrieval",
    ],
    "evaluation.intervals": ["Interval", "bootstrap", "pair_intervals", "retrieval_intervals"],
    "evaluation.metrics": [
        "Threshold",
        "accuracy_at_k",
        "accuracy_at_threshold",
        "average_precision",
        "best_threshold",
        "f1_at_threshold",
        "mrr_at_k",
        "ndcg_at_k",
        "pearson",
        "recall_at_k",
        "roc_auc",
        "spearman",
    ],
    "evaluation.mining": ["MinedNegatives", "mine_negatives"],
    "evaluation.predictions": ["rank_pairs", "score_pairs"],
    "fine_tuning": ["FineTuneReport", "fine_tune"],
    "losses": [
        "angle",
        "cosent",
        "cosine_mse",
        "distillation",
        "info_nce",
        "matryoshka",
        "similarity_distillation",
    ],
    "trainer.adapters": ["lora"],
    "trainer.arguments": ["TwinTowerTrainingArguments"],
    "trainer.batches": ["embed_columns", "false_negative_mask"],
    "trainer.interruption": ["SaveAtSignal"],
    "trainer.trainer": ["TwinTowerTrainer"],
}
"""Module → the public names that it defines."""


def __getattr__(name: str) -> Any:
    """Return a public name from the module that defines it."""
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
