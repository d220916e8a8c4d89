"""Settings → model card. Imports no encoder and no Hub client.

The card contains no training texts.
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

This is a sentence encoder, saved with [simpair](https://pypi.org/project/simpair/). It maps a text to an embedding of
{dimension} dimensions, with {pooling} pooling and {similarity} similarity. It reads {longest} tokens of a text.

## How to use

With simpair:

```python
from simpair import TwinTowerEncoder

encoder = TwinTowerEncoder.from_pretrained("{name}")
embeddings = encoder.encode(["a sentence", "another sentence"])
print(encoder.similarity(embeddings, embeddings))
```

The repository is also a sentence-transformers checkpoint: `SentenceTransformer("{name}")` gives the same embeddings.

## Training data, evaluation and limits

Not described yet. Please describe them here.
"""


def model_card(settings: Settings, *, dimension: int, repo_id: str) -> str:
    """Return the text of ``README.md`` for an encoder of ``dimension`` dimensions, published as ``repo_id``."""
    return _CARD.format(
        name=repo_id,
        dimension=dimension,
        longest="any number of" if settings.max_seq_length >= LONGEST else f"at most {settings.max_seq_length}",
        pooling=settings.pooling,
        similarity=settings.similarity,
    )
