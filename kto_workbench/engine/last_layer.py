"""The last layer, for those tokens alone whose hidden states are read.

Where completions are scored, nobody reads what the last layer makes of a prompt's tokens, but for their keys and
values. So its attention asks for what is read alone; and what it does beside that is done position by position
(queries, attention's way out, the feed-forward block): each of these modules is given the positions that are read, and
leaves zeros at the others. Nothing is known here of a family's layers but what their parts are called; whether it comes
out the same is what `trial.py` finds.
"""

import dataclasses
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from kto_workbench.engine.attention import NotKnown, Packed
from kto_workbench.engine.models import base_of, body_of

_narrowed: "weakref.WeakKeyDictionary[nn.Module, _Narrowed]" = weakref.WeakKeyDictionary()


def narrow(model: nn.Module) -> None:
    """Let the last layer of a model do no more than is read of it."""
    layer = last_layer(model)
    if layer is not None and layer not in _narrowed:
        _narrowed[layer] = _Narrowed(layer)


def widen(model: nn.Module) -> None:
    """Let the last layer do all positions again."""
    layer = last_layer(model)
    if layer in _narrowed:
        _narrowed.pop(layer).remove()


def last_layer(model: nn.Module) -> nn.Module | None:
    """A model's last layer; None if its parts have other names than those known here."""
    layers = getattr(body_of(base_of(model)), "layers", None)
    layer = layers[-1] if isinstance(layers, nn.ModuleList) and len(layers) else None
    attention = getattr(layer, "self_attn", None)
    named = (hasattr(attention, "q_proj"), hasattr(attention, "o_proj"), hasattr(layer, "mlp"))
    return layer if all(named) else None


class _Narrowed:
    """The hooks of one layer. They go by the mask of the pass, which a recomputation in a backward pass has too."""

    def __init__(self, layer: nn.Module) -> None:
        self._read: Tensor | None = None
        self._length = 0
        self._handles = [layer.self_attn.register_forward_pre_hook(self._look, with_kwargs=True)]
        for module in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp):
            self._handles += [module.register_forward_pre_hook(self._take), module.register_forward_hook(self._put)]
        self._handles.append(layer.mlp.register_forward_hook(self._forget))

    def remove(self) -> None:
        """Leave the layer as it was."""
        for handle in self._handles:
            handle.remove()

    def _look(self, attention: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        name, packed = next(((name, a) for name, a in kwargs.items() if isinstance(a, Packed)), ("", None))
        if packed is None or packed.ragged.tails is None:
            self._read = None
            return None
        self._read = packed.ragged.read(next(attention.parameters()).device)
        self._length = sum(packed.ragged.lengths)
        return args, kwargs | {name: dataclasses.replace(packed, tails=True)}

    def _take(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
        """[1, T, H] → [1, n, H]."""
        if self._read is None:
            return None
        if len(args) != 1 or args[0].shape[:-1] != (1, self._length):
            raise NotKnown("its last layer takes more than the hidden states of all tokens")
        return (args[0].index_select(1, self._read),)

    def _put(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> Tensor | None:
        """[1, n, F] → [1, T, F]."""
        if self._read is None:
            return None
        if not isinstance(out, torch.Tensor) or out.shape[:-1] != (1, len(self._read)):
            raise NotKnown("its last layer gives more than a vector for each token")
        return out.new_zeros(1, self._length, out.shape[-1]).index_copy(1, self._read, out)

    def _forget(self, module: nn.Module, args: Any, out: Any) -> None:
        self._read = None
