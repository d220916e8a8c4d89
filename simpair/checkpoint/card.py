"""Settings → model card. Knows no encoder and no Hub client.

The front matter is what the Hub reads; texts of the training data never enter by themselves.
"""

from __future__ import annotations

from simpair.checkpoint.settings import LONGEST, Settings

__all__ = ["model_card"]

_CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- simpair
---

# {name}

A sentence encoder saved by [simpair](https://pypi.org/project/simpair/): {dimension} components, {longest} tokens
a text, {pooling} pooling, {similarity} similarity.

```python
from simpair import TwinTowerEncoder

encoder = TwinTowerEncoder.from_pretrained("{name}")
vectors = encoder.encode(["a sentence", "another sentence"])
print(encoder.similarity(vectors, vectors))
```

The folder is a sentence-transformers checkpoint, so `SentenceTransformer("{name}")` gives the same vectors.

Training data, evaluation and limits: not stated yet. Please add them.
"""


def model_card(settings: Settings, *, dimension: int, repo_id: str) -> str:
    """The text of ``README.md`` for an encoder of ``dimension`` components, published as ``repo_id``."""
    return _CARD.format(
        name=repo_id,
        dimension=dimension,
        longest="any number of" if settings.max_seq_length >= LONGEST else f"at most {settings.max_seq_length}",
        pooling=settings.pooling,
        similarity=settings.similarity,
    )
