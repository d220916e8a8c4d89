"""An encoder → the same encoder with low-rank adapters to train, merged at the end; the only importer of peft.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from simpair.checkpoint.modules import STATIC
from simpair.encoder.model import TwinTowerEncoder
from simpair.encoder.towers.auto import AutoConfig, AutoTower
from simpair.errors import InputError, ModelCorrupt, UnsupportedModel

__all__ = ["is_adapted", "lora"]

_NAME = "default"
"""The name of the adapter; it is the default of peft."""


@contextmanager
def lora(
    encoder: TwinTowerEncoder,
    *,
    rank: int = 8,
    alpha: int | None = None,
    dropout: float = 0.0,
    target_modules: str | Sequence[str] = "all-linear",
) -> Iterator[TwinTowerEncoder]:
    """Train only low-rank adapters and dense layers within the block; merge them into the weights at its end.

    Checkpoints that a trainer saves within the block are merged already, so they open like any other; a run cannot be
    resumed from them. An exception leaves the encoder as it was before.

    Args:
        encoder: Tied or untied, of any architecture with linear layers; changed in place.
        rank: Rank of the matrix that is added to the weight of each linear layer.
        alpha: The matrix is multiplied by ``alpha / rank``. Default: twice the rank.
        dropout: Dropout probability of the adapters' inputs in training.
        target_modules: Names of the adapted layers, or ``all-linear``.

    Raises:
        InputError: peft is not installed, a number is out of range, or no layer has such a name.
        UnsupportedModel: A tower is a table of static embeddings, which has no linear layers.

    Example:
        >>> with lora(encoder, rank=8):
        ...     fine_tune(encoder, "pairs.csv")
    """
    if not (rank >= 1 and 0 <= dropout < 1 and (alpha is None or alpha > 0)):
        raise InputError(
            f"rank is {rank}, alpha {alpha} and dropout {dropout}; expected a rank of 1 or more, an alpha above 0 and "
            "a dropout from 0 to below 1"
        )
    config = _config(rank, 2 * rank if alpha is None else alpha, dropout, target_modules)
    sides = [side for side in (encoder, encoder.query) if side is not None]
    towers, heads = [side.tower for side in sides], [side.heads.layers() for side in sides]
    adapted = [_adapted(side, config) for side in sides]
    for side, tower in zip(sides, adapted, strict=True):
        side.tower = tower
    try:
        yield encoder
        merged = [tower.tensors() for tower in adapted]
    except BaseException:
        for side, old, layers in zip(sides, towers, heads, strict=True):
            side.tower = old.to(side.device)
            side.heads.load(layers)
        raise
    for side, old, tensors in zip(sides, towers, merged, strict=True):
        side.tower = old.to(side.device)
        old.load({name: tensors[name] for name in old.tensors()})
        old.trained = True


def is_adapted(encoder: TwinTowerEncoder) -> bool:
    """Return whether the encoder has adapters now."""
    return isinstance(encoder.tower, _AdaptedTower)


def _config(rank: int, alpha: int, dropout: float, target_modules: str | Sequence[str]) -> Any:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise InputError(f"adapters need peft ({error}); pip install 'simpair[lora]'") from error
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)


def _adapted(side: TwinTowerEncoder, config: Any) -> _AdaptedTower:
    """Return a tower of transformers with the same weights and adapters, on the same device."""
    checkpoint = side.checkpoint()
    if checkpoint.config.get("model_type") == STATIC:
        raise UnsupportedModel("a table of static embeddings has no linear layers to adapt; train it without lora")
    tower = _AdaptedTower(AutoConfig.from_config(checkpoint.config))
    tower.load(checkpoint.tensors)
    tower.adapt(config)
    return tower.to(side.device).train(side.training)


class _AdaptedTower(AutoTower):
    """A tower with frozen weights and trainable adapters beside its linear layers."""

    def adapt(self, config: Any) -> None:
        """Add the adapters; they change nothing until they are trained.

        Raises:
            InputError: No layer has such a name.
        """
        from peft import inject_adapter_in_model

        try:
            inject_adapter_in_model(config, self.model, adapter_name=_NAME)
        except ValueError as error:  # no layer has such a name
            raise InputError(f"target_modules: {str(error)[:200]}") from None

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights with the adapters merged, under the names of the checkpoint."""
        merged = {}
        for name, tensor in super().tensors().items():
            if ".lora_" in name:
                continue
            plain = name.replace(".base_layer.", ".")
            if plain in self._made_up:
                continue
            layer = self._layer(name)
            delta = None if layer is None or not name.endswith(".weight") else layer.get_delta_weight(_NAME)
            merged[plain] = tensor if delta is None else tensor + delta.detach()
        return merged

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Load merged weights and reset the adapters, so that they add nothing.

        Raises:
            ModelCorrupt: Tensors are missing, unknown or of another shape.
        """
        if not list(self.model.parameters()):
            return super().load(tensors)
        if wrong := [name for name in self.tensors() if name not in tensors]:
            raise ModelCorrupt(f"the weights lack {', '.join(wrong[:3])} ({len(wrong)} tensors)")
        with torch.no_grad():
            for name, weight in self.model.state_dict().items():
                plain = name.replace(".base_layer.", ".")
                if ".lora_B." in name or ".lora_embedding_A." in name:  # the factor that is 0 at first
                    weight.zero_()
                elif plain in tensors:
                    weight.copy_(tensors[plain])
        return {}

    def _layer(self, name: str) -> Any:
        """Return the adapted layer of a weight, or None."""
        owner, inside, _ = name.partition(".base_layer.")
        return self.model.get_submodule(owner) if inside else None
