"""Gradient checkpointing of a module"s towers, switched by the names of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simpair.errors import InputError

__all__ = ["Recomputing"]


class Recomputing:
    """A module whose tower can compute its layers again in the backward, switched by the names of transformers.

    A step then keeps the inputs of its layers alone, takes a third longer, and has the same gradients to the bit (Chen
    et al., 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174).
    """

    def activation_checkpointing_enable(
        self: Any,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Compute each layer again from now on, wherever gradients are on.

        Raises:
            InputError: Anything else is asked for.
        """
        asked = dict(activation_checkpointing_kwargs or {}) | {"every_n_layers": every_n_layers, "offload": offload}
        only = {"use_reentrant": False, "preserve_rng_state": True, "every_n_layers": 1, "offload": False}
        for name, value in asked.items():
            if name not in only or value != only[name]:
                raise InputError(f"activation checkpointing with {name}={value!r} is not offered; leave {name} out")
        for encoder in filter(None, (self, self.query)):
            encoder.tower.recomputing = True

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """The same, under its older name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self: Any) -> None:
        """Keep what the layers have in between, as usual."""
        for encoder in filter(None, (self, self.query)):
            encoder.tower.recomputing = False

    def gradient_checkpointing_disable(self) -> None:
        """The same, under its older name."""
        self.activation_checkpointing_disable()
