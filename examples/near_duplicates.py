"""Find near-duplicates in a list of texts and print them in groups.

    python examples/near_duplicates.py

The index finds the neighbors of every text above a score, so no pairs are compared in Python.
"""

import tempfile
from pathlib import Path

from simpair import SearchIndex, TwinTowerEncoder

TICKETS = [
    "The app crashes when I open the camera.",
    "App crashes upon opening camera!!",
    "How do I export my data to a file?",
    "一打开相机，应用就闪退",
    "Is there a way to export my data as a file?",
    "Please add a dark mode.",
]
MIN_SCORE = 0.75


def group(texts: list[str], min_score: float) -> list[list[int]]:
    """Return groups of positions whose texts are connected by scores of at least ``min_score``."""
    leader = list(range(len(texts)))

    def find(position: int) -> int:
        while leader[position] != position:
            position = leader[position]
        return position

    with (
        tempfile.TemporaryDirectory() as folder,
        SearchIndex.create(Path(folder) / "index", TwinTowerEncoder.from_pretrained()) as index,
    ):
        ids = index.add(texts, ids=[str(position) for position in range(len(texts))])
        for position, hits in enumerate(index.similar(ids, k=20, min_score=min_score)):
            for hit in hits:
                leader[find(int(hit.id))] = find(position)
    groups: dict[int, list[int]] = {}
    for position in range(len(texts)):
        groups.setdefault(find(position), []).append(position)
    return [members for members in groups.values() if len(members) > 1]


def main() -> None:
    """Print the groups."""
    for members in group(TICKETS, MIN_SCORE):
        print("\n".join(TICKETS[position] for position in members), end="\n\n")


if __name__ == "__main__":
    main()
