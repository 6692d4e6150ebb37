"""Which tensors of a model come before a stack of its layers, and which behind it.

The class says, where it is known, by the order in which it holds its tensors; else the part a tensor plays. Slices ask:
what comes before the layers is the first slice's, what comes behind them the last one's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from genepool.merging.matching import Headers

# A class may hold these in any order: BART's layernorm_embedding stands behind its layers, OPT's final_layer_norm and
# project_out before them, and no forward pass reads them there.
_READ_FIRST = re.compile(r"embed")
_READ_LAST = re.compile(r"(^|[._])(final|last|post|out)([._]|$)")
# Settings that move the norm beside the layers: speech models apply it behind them although they hold it before, and
# DeBERTa's is of the relative positions that every layer reads.
_NORM_BEFORE = {"do_stable_layer_norm": False, "norm_rel_ebd": True}


class TensorOrder:
    """The tensors of one model around one stack.

    Args:
        headers: all models.
        model: the one.
        path: what the stack is called in it.
    """

    def __init__(self, headers: Headers, model: str, path: str) -> None:
        self._headers, self._model, self._parent = headers, model, path.rpartition(".")[0]
        self._places = headers.class_order(model)
        own = [name for name, role in headers.roles[model].items() if role.stack == path and role.layer is not None]
        self._layers = self._found(own)

    def before(self, name: str) -> bool:
        """Whether a tensor outside the stack, by its own name in the model, is read before the layers."""
        role = self._headers.role(self._model, name)
        if role.part in ("embedding", "head"):
            return role.part == "embedding"
        if role.layer is None:
            if _READ_FIRST.search(name):
                return True
            if _READ_LAST.search(name):
                return False
        places = self._found([name])
        if not places or not self._layers:
            # Another stack of the module, such as convolutions, comes before the layers.
            return role.layer is not None
        if role.part == "norm" and name.rsplit(".", 2)[0] == self._parent:
            for setting, before in _NORM_BEFORE.items():
                if self._headers.setting(self._model, setting) not in (None, False, "", "none"):
                    return before
        return min(places) < min(self._layers)

    def _found(self, names: Iterable[str]) -> list[int]:
        return [
            self._places[inside]
            for name in names
            for inside in self._headers.in_memory(self._model, name)
            if inside in self._places
        ]
