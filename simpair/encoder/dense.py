"""Pooled vectors → vectors of the dense layers behind the pooling. Reads no file."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from simpair.checkpoint.modules import DenseLayer
from simpair.checkpoint.weights import copied
from simpair.errors import ModelCorrupt

__all__ = ["Heads"]


class Heads(nn.Sequential):
    """The dense layers, in order: (B, D) → (B, E) float32; without any, vectors are unchanged."""

    def __init__(self, layers: Sequence[DenseLayer]) -> None:
        super().__init__(*(_Head(layer) for layer in layers))

    def layers(self) -> tuple[DenseLayer, ...]:
        """Return copies of the layers, on the CPU."""
        return tuple(head.layer() for head in self)  # type: ignore[operator]

    def identity(self) -> str:
        """Return what changes a vector besides the weights, as text."""
        return "".join(f"|{type(head.activation).__name__}" for head in self)

    def check(self, layers: Sequence[DenseLayer]) -> None:
        """Compare the shapes of layers with these.

        Raises:
            ModelCorrupt: Their shapes or activations differ.
        """
        ours, theirs = _shapes(self.layers()), _shapes(layers)
        if ours != theirs:
            raise ModelCorrupt(f"the dense layers are {theirs}, but those of this encoder are {ours}")

    def load(self, layers: Sequence[DenseLayer]) -> None:
        """Copy the weights of layers of the same shapes into these, which an optimizer may hold."""
        self.load_state_dict(Heads(layers).state_dict())


def _shapes(layers: Sequence[DenseLayer]) -> list[tuple[object, ...]]:
    return [
        (tuple(weight.shape), "no bias" if bias is None else "bias", activation) for weight, bias, activation in layers
    ]


class _Head(nn.Module):
    def __init__(self, layer: DenseLayer) -> None:
        super().__init__()
        outputs, inputs = layer.weight.shape
        self.linear = nn.Linear(inputs, outputs, bias=layer.bias is not None, device="meta")
        weights = {"weight": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias})
        self.linear.load_state_dict(weights, assign=True)
        self.activation = getattr(nn, layer.activation)()

    def forward(self, vectors: Tensor) -> Tensor:
        return self.activation(self.linear(vectors)).float()  # type: ignore[no-any-return]

    def layer(self) -> DenseLayer:
        tensors = copied(self.linear.state_dict(), self.linear.weight.dtype)
        return DenseLayer(tensors["weight"], tensors.get("bias"), type(self.activation).__name__)
