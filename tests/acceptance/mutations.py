"""Random changes of every layout, each judged beside sentence-transformers → how many got which verdict.

    python -m tests.acceptance.mutations --number 2000

A changed folder is refused in one line, or gives the vectors that sentence-transformers gives; what else it does is
printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.acceptance.folders import LAYOUTS
from tests.acceptance.test_folder_mutations import foreign_base, judge_all


def main() -> None:
    """Run so many."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--number", type=int, default=2_000, help="changes, shared out among the layouts (2000)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first change (0)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    import huggingface_hub.constants
    import transformers
    from sentence_transformers import SentenceTransformer

    huggingface_hub.constants.HF_HUB_OFFLINE = True  # nothing is asked of a Hub that a changed file names
    transformers.logging.disable_progress_bar()

    def peer(folder: Path) -> Any:
        return SentenceTransformer(str(folder), device="cpu")

    total: Counter[str] = Counter()
    bounds = [options.first + options.number * part // len(LAYOUTS) for part in range(len(LAYOUTS) + 1)]
    for layout, start, end in zip(LAYOUTS, bounds, bounds[1:], strict=False):
        with tempfile.TemporaryDirectory() as folder:
            tally, complaints = judge_all(foreign_base(layout, Path(folder)), range(start, end), peer)
        total += tally
        for complaint in complaints:
            sys.stdout.write(f"{layout}: {complaint}\n")
    told = ", ".join(f"{count} {said}" for said, count in total.most_common())
    sys.stdout.write(f"{total.total()} changes of {len(LAYOUTS)} layouts: {told}\n")
    sys.exit(total["unsound"] > 0)


if __name__ == "__main__":
    main()
