"""Settings → a model card. Imports no encoder and no Hub client.

The Hub reads the front matter. The card never contains texts of the training data.
"""

from __future__ import annotations

from simpair.checkpoint.settings import UNLIMITED, Settings

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

A sentence encoder saved by [simpair](https://pypi.org/project/simpair/): dimension {dimension}, {longest} tokens
per text, {pooling} pooling, {similarity} similarity.

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
    """Return the text of ``README.md`` for an encoder of a dimension, published as ``repo_id``."""
    return _CARD.format(
        name=repo_id,
        dimension=dimension,
        longest="any number of" if settings.max_seq_length >= UNLIMITED else f"at most {settings.max_seq_length}",
        pooling=settings.pooling,
        similarity=settings.similarity,
    )
