"""A tower that others compute → the module that serves it while it trains. Knows no architecture."""

from __future__ import annotations

import copy
from threading import Lock
from typing import Any, Self

from torch import nn

__all__ = ["Twinned"]

_LOCK = Lock()


class Twinned(nn.Module):
    """A tower around one module, which in training serves by a twin that has its weights.

    Attributes:
        model: The module.
    """

    model: Any

    def __init__(self) -> None:
        super().__init__()
        self._serving: list[nn.Module] = []  # in a list, so that its parameters are not found a second time

    def _served(self) -> Any:
        """The model as it serves: in training a twin that holds the same weights and leaves dropout out."""
        if not self.model.training:
            return self.model
        with _LOCK:
            if not self._serving:
                held = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
                self._serving.append(copy.deepcopy(self.model, held).eval())
            return self._serving[0]

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """As in ``nn.Module``, which moves or casts weights; the twin would keep the buffers of before."""
        self._serving.clear()
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call, no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        """Without the twin, whose weights would be others in a copy."""
        return {**self.__dict__, "_serving": []}
