"""What skills change of norms and embeddings, weighed line by line: what does not go through a linear layer.

A norm gives `n(x) * weight + bias`, so a change of its vectors adds `n(x) * dw + db`. An embedding gives rows of its
matrix; a change that is a product of two factors adds the same rows of one times the other. Used by `attached`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.func import functional_call

from genepool.composition.mixing.mixtures import SkillMixture

# Sizes of the probe that tells whether a module is a norm.
_PROBE, _AGREE = (2, 3), 1e-4


def is_norm(module: torch.nn.Module) -> bool:
    """Whether a module gives `n(x) * (weight + c) + bias` for a vector of weights and perhaps one of biases.

    It is asked with some weights. A module on the meta device is believed by its name.
    """
    own = dict(module.named_parameters())
    if "weight" not in own or not own.keys() <= {"weight", "bias"} or any(one.dim() != 1 for one in own.values()):
        return False
    weight = own["weight"]
    if weight.is_meta:
        return "Norm" in type(module).__name__
    drawn = torch.linspace(-1, 2, len(weight), dtype=weight.dtype, device=weight.device)
    x = torch.linspace(-3, 1, 6 * len(weight), dtype=weight.dtype, device=weight.device).sin().view(*_PROBE, -1)
    with torch.inference_mode():
        try:
            zero = _with_weight(module, torch.zeros_like(weight), x)
            normed = _with_weight(module, torch.ones_like(weight), x) - zero
            found = _with_weight(module, drawn, x)
        # Any module of a stranger's network may be asked: one that takes no such input is no norm.
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return False
    return (
        isinstance(found, torch.Tensor)
        and found.shape == x.shape
        and torch.allclose(found - zero, normed * drawn, atol=_AGREE)
    )


class NormChange:
    """What skills change of a norm.

    Args:
        module: the norm.
        weights: of every skill, what it adds to the weight, (width,); None for one that leaves it alone.
        biases: the same of the bias.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        weights: Sequence[torch.Tensor | None],
        biases: Sequence[torch.Tensor | None],
    ) -> None:
        like = module.weight
        assert isinstance(like, torch.Tensor)
        self._module, self._width = module, len(like)
        self._weights, self._biases = _stacked(weights, like), _stacked(biases, like)

    def added(self, name: str, mixture: SkillMixture, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """What the norm gives with the skills: (lines, ..., width)."""
        shares = mixture.weights(name, x).to(output.dtype)
        if self._weights is not None:
            zero, one = (torch.full_like(self._weights[0], value) for value in (0, 1))
            normed = _with_weight(self._module, one, x) - _with_weight(self._module, zero, x)
            output = output + normed * _by_line(shares @ self._weights, x)
        return output if self._biases is None else output + _by_line(shares @ self._biases, x)


class EmbeddingChange:
    """What skills change of an embedding.

    Args:
        pairs: of every skill, (tokens, rank) and (rank, width), whose product it adds; None for one that adds nothing.
        like: the embedding's matrix.
    """

    def __init__(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor] | None], like: torch.Tensor) -> None:
        known = [pair for pair in pairs if pair is not None]
        self._left = torch.cat([left.to(like) for left, _ in known], 1)
        self._right = torch.cat([right.to(like) for _, right in known])
        ranks = torch.tensor([0 if pair is None else pair[0].shape[1] for pair in pairs], device=like.device)
        self._owners = torch.repeat_interleave(torch.arange(len(pairs), device=like.device), ranks)

    def added(self, name: str, mixture: SkillMixture, ids: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """What the embedding gives with the skills, (lines, tokens, width); one line of positions becomes many."""
        shares = mixture.weights(name, ids.unsqueeze(-1))
        columns = shares.to(self._left.dtype).index_select(-1, self._owners)
        return output + (self._left[ids] * columns) @ self._right


def _with_weight(module: torch.nn.Module, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    bias = {"bias": torch.zeros_like(weight)} if getattr(module, "bias", None) is not None else {}
    found: torch.Tensor = functional_call(module, {"weight": weight, **bias}, (x,))
    return found


def _by_line(vectors: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Vectors (lines, 1 or tokens, width) in the shape of an input (lines, tokens, ..., width)."""
    return vectors.view(*vectors.shape[:2], *[1] * (x.dim() - 3), -1) if x.dim() > 2 else vectors[:, 0]


def _stacked(rows: Sequence[torch.Tensor | None], like: torch.Tensor) -> torch.Tensor | None:
    """(skills, width); None where no skill has one."""
    if all(row is None for row in rows):
        return None
    return torch.stack([torch.zeros_like(like) if row is None else row.to(like) for row in rows]).detach()
