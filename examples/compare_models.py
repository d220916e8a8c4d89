"""Evaluate two models side by side on the same data, with 95 % intervals.

    python examples/compare_models.py

The models here are the bundled one and its first 64 dimensions; use any folder or Hub id.
"""

from simpair import TwinTowerEncoder
from simpair.training import RetrievalPair, ScoredPair, evaluate_pairs, evaluate_retrieval, pair_intervals, score_pairs

PAIRS = [
    ScoredPair("A man is playing a guitar.", "Someone plays the guitar.", 0.95),
    ScoredPair("A man is playing a guitar.", "A man is playing the drums.", 0.5),
    ScoredPair("A man is playing a guitar.", "A woman is slicing an onion.", 0.0),
    ScoredPair("今天天气很好", "今天是个晴天", 0.9),
    ScoredPair("今天天气很好", "今天下雨了", 0.4),
    ScoredPair("今天天气很好", "股票大跌", 0.05),
    ScoredPair("How do I apply for a credit card?", "信用卡如何申请", 1.0),
    ScoredPair("How do I apply for a credit card?", "信用卡怎么注销", 0.4),
    ScoredPair("How do I apply for a credit card?", "最近的地铁站在哪里", 0.0),
]
QUESTIONS = [
    RetrievalPair("When do I get my money back?", "Refunds are paid within five days."),
    RetrievalPair("星期天开门吗", "Our office is closed on Sunday."),
    RetrievalPair("I lost my card", "丢失的银行卡会在五天内补发。"),
]


def main() -> None:
    """Print one line for each model."""
    models = {
        "simpair-mini": TwinTowerEncoder.from_pretrained(),
        "simpair-mini, 64 dimensions": TwinTowerEncoder.from_pretrained(truncate_dim=64),
    }
    print(f"{'model':<28} {'Spearman':>8} {'95 % interval':>15} {'MRR@10':>7}")
    for name, encoder in models.items():
        spearman = evaluate_pairs(encoder, PAIRS).spearman
        low, high = pair_intervals(score_pairs(encoder, PAIRS)).spearman
        mrr = evaluate_retrieval(encoder, QUESTIONS).mrr_at_k
        print(f"{name:<28} {spearman:8.3f}   [{low:.2f}, {high:.2f}] {mrr:7.2f}")


if __name__ == "__main__":
    main()
