"""index.py: any sequence of calls gives the same documents and hits as a dictionary with brute force."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import simpair.search.snapshot
from simpair.search.index import Document, Hit, SearchIndex, Upserted
from tests.hash_encoder import HashEncoder

_NAMES = [f"id {letter}" for letter in "abcdefghij"]
_TEXTS = [f"text {letter}" for letter in "abcdefgh"]
_FACTS = st.fixed_dictionaries(
    {}, optional={"n": st.integers(0, 3), "tags": st.lists(st.sampled_from("xy"), max_size=2)}
)
_DOCUMENTS = st.lists(st.builds(Document, st.sampled_from(_NAMES), st.sampled_from(_TEXTS), _FACTS), max_size=6)
_WHERE = st.sampled_from(
    [None, {"n": 1}, {"n": {"$gte": 2}}, {"tags": "x"}, {"n": {"$ne": 0}}, {"n": [0, 3], "tags": "y"}]
)


def _meets(facts: Any, where: dict[str, Any] | None) -> bool:
    """The oracle for the filters above."""
    n, tags = facts.get("n"), facts.get("tags", [])
    return {
        "None": True,
        "{'n': 1}": n == 1,
        "{'n': {'$gte': 2}}": n is not None and n >= 2,
        "{'tags': 'x'}": "x" in tags,
        "{'n': {'$ne': 0}}": n != 0,
        "{'n': [0, 3], 'tags': 'y'}": n in (0, 3) and "y" in tags,
    }[str(where)]


class LikeADictionary(RuleBasedStateMachine):
    """An index, a second object on the same folder, and a dictionary in the order of adding."""

    def __init__(self) -> None:
        super().__init__()
        self.parent = tempfile.TemporaryDirectory()
        self.folder = Path(self.parent.name) / "index"
        self.index = SearchIndex.create(self.folder, HashEncoder())
        self.other = SearchIndex.open(self.folder, HashEncoder())
        self.documents: dict[str, Document] = {}
        self.added = 0
        self.few, simpair.search.snapshot._FEW = (
            simpair.search.snapshot._FEW,
            2,
        )  # so that few changes make a new cache

    @rule(texts=st.lists(st.sampled_from(_TEXTS), max_size=4), given=st.booleans())
    def add(self, texts: list[str], given: bool) -> None:
        vectors = HashEncoder().encode_query(texts) if given and texts else None
        ids = self.index.add(texts, vectors=vectors)
        assert ids == [str(number) for number in range(self.added + 1, self.added + 1 + len(texts))]
        self.documents |= {name: Document(name, text, {}) for name, text in zip(ids, texts, strict=True)}
        self.added += len(texts)

    @rule(documents=_DOCUMENTS, twin=st.booleans())
    def upsert(self, documents: list[Document], twin: bool) -> None:
        distinct = list({document.id: document for document in documents}.values())
        counts = [0, 0, 0]
        for document in distinct:
            before = self.documents.get(document.id)
            kind = 0 if before is None else 2 if before == document else 1
            counts[kind] += 1
            if kind < 2:
                self.documents.pop(document.id, None)
                self.documents[document.id] = document
                self.added += 1
        assert (self.other if twin else self.index).upsert(iter(distinct)) == Upserted(*counts)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from([*self.documents, "unknown"]), max_size=3))
        there = {name for name in ids if self.documents.pop(name, None)}
        assert self.index.delete(ids) == len(there)

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = SearchIndex.open(self.folder, HashEncoder())

    @rule()
    def lose_the_cache(self) -> None:
        for path in self.folder.glob("faiss-*"):
            path.unlink()

    @precondition(lambda self: self.documents)
    @rule()
    def optimize(self) -> None:
        self.index.optimize()

    @rule(
        query=st.sampled_from([*_TEXTS, "unknown"]),
        k=st.none() | st.integers(1, 9),
        where=_WHERE,
        least=st.sampled_from([None, 0.0, 0.3, 0.99]),
        twin=st.booleans(),
    )
    def search(self, query: str, k: int | None, where: Any, least: float | None, twin: bool) -> None:
        hits = (self.other if twin else self.index).search(query, k, where=where, min_score=least)
        assert _agree(hits, self._expected(HashEncoder().encode_query([query])[0], where, least)[:k])

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), where=_WHERE)
    def similar(self, data: st.DataObject, where: Any) -> None:
        name = data.draw(st.sampled_from([*self.documents]))
        hits = self.index.similar(name, 3, where=where)
        stored = HashEncoder().encode_query([self.documents[name].text])[0].astype(np.float16)
        expected = [found for found in self._expected(stored, where, None) if found[0].id != name][:3]
        assert _agree(hits, expected)

    @rule(where=_WHERE)
    def count(self, where: Any) -> None:
        expected = sum(_meets(document.metadata, where) for document in self.documents.values())
        assert self.other.count(where) == expected

    def _expected(self, query: Any, where: Any, least: float | None) -> list[tuple[Document, float]]:
        """Return the hits of brute force in float64, rounded to float32; ties in the order of adding."""
        chosen = [document for document in self.documents.values() if _meets(document.metadata, where)]
        if not chosen:
            return []
        stored = HashEncoder().encode_query([document.text for document in chosen]).astype(np.float16)
        scores = np.einsum("nd,d->n", stored.astype(np.float64), query.astype(np.float64)).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        found = [(chosen[row], float(scores[row])) for row in order]
        return [one for one in found if least is None or one[1] >= np.float32(least)]

    @invariant()
    def the_same_documents(self) -> None:
        assert list(self.index) == list(self.documents.values())
        assert len(self.other) == len(self.documents)

    def teardown(self) -> None:
        simpair.search.snapshot._FEW = self.few
        assert self.index.check() == []
        self.index.close()
        self.other.close()
        self.parent.cleanup()


def _agree(hits: list[Hit], expected: list[tuple[Document, float]]) -> bool:
    return [Document(hit.id, hit.text, hit.metadata) for hit in hits] == [
        found for found, _ in expected
    ] and np.allclose([hit.score for hit in hits], [score for _, score in expected], rtol=3e-7, atol=0)


TestLikeADictionary = LikeADictionary.TestCase
TestLikeADictionary.settings = settings(
    max_examples=int(os.environ.get("SIMPAIR_STATES", "15")), stateful_step_count=25, deadline=None
)
