"""What a merge will write: its tensors and what each is made from. Plain data, made by `genepool.merging.layout`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from genepool.weights import Role, TensorInfo
from genepool.weights.stacks import Stack

# Small tensors share a survey's summary until they have so many entries: a histogram is half a megabyte.
BATCH_ENTRIES = 1 << 21


@dataclass(frozen=True)
class Input:
    """One model's tensor that goes into an output tensor."""

    model: str
    tensor: str


@dataclass
class OutputTensor:
    """One tensor of the output and what it is made from.

    Attributes:
        name: its name in the output.
        info: its shape, and the widest type any model stores it in.
        role: its part, and its layer in the output.
        position: how far through its slice the layer is, 0 to 1; 0 outside the layers.
        base: the base's tensor; None when the merge has no base.
        inputs: the models' tensors, in the recipe's order.
        input_layers: the layer each input has in its own model.
        part: which of `Recipe.parts` it belongs to.
        kept: the tensor it is a copy of, where it is not merged; then there are neither base nor inputs.
    """

    name: str
    info: TensorInfo
    role: Role
    position: float
    base: Input | None
    inputs: tuple[Input, ...]
    input_layers: tuple[int | None, ...]
    part: int
    kept: Input | None = None

    @property
    def reads(self) -> tuple[Input, ...]:
        """Every tensor it is made from."""
        more = [given for given in (self.base, self.kept) if given is not None]
        return (*self.inputs, *more)


@dataclass(frozen=True)
class Depth:
    """A stack of the output that was put together from slices.

    Attributes:
        stack: the stack, as the reference has it.
        origin: for each output layer, the layer of the first source it came from.
    """

    stack: Stack
    origin: tuple[int, ...]


@dataclass
class Layout:
    """Every output tensor, in the order they are written.

    Attributes:
        outputs: the tensors.
        reference: the model that the output is like: whose config, and whose other tensors, it has.
        depths: the stacks that were put together from slices.
        copies: second names under which the reference stores a tensor all the same -> the output of that tensor.
        labels: the model whose head the output has, where that is not the reference.
        left_out: tensors that some model has and the output has not, by model.
    """

    outputs: list[OutputTensor]
    reference: str
    depths: list[Depth] = field(default_factory=list)
    copies: dict[str, str] = field(default_factory=dict)
    labels: str | None = None
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def merged(self) -> list[OutputTensor]:
        """The tensors that are computed, not copied."""
        return [out for out in self.outputs if out.kept is None]

    @property
    def kept(self) -> dict[str, list[str]]:
        """The tensors that are copies, by the model they are from."""
        found: dict[str, list[str]] = {}
        for out in self.outputs:
            if out.kept is not None:
                found.setdefault(out.kept.model, []).append(out.name)
        return found

    def remarks(self) -> list[str]:
        """What is not as in a merge of whole models, in sentences."""
        lines = [
            f"{_counted(names)} as in {model}, not merged: {_abridged(names)}" for model, names in self.kept.items()
        ]
        lines += [
            f"{_counted(names)} of {model} left out: {_abridged(names)}" for model, names in self.left_out.items()
        ]
        return lines


def in_batches(outputs: Sequence[OutputTensor]) -> list[list[OutputTensor]]:
    """Neighbours together until they have `BATCH_ENTRIES`; decided by sizes alone, so that sums never differ."""
    batches: list[list[OutputTensor]] = []
    entries = BATCH_ENTRIES
    for out in outputs:
        if entries >= BATCH_ENTRIES:
            batches.append([])
            entries = 0
        batches[-1].append(out)
        entries += out.info.numel
    return batches


def _counted(names: Sequence[str]) -> str:
    return f"{len(names):,} tensor{'s are' if len(names) != 1 else ' is'}"


def _abridged(names: Sequence[str], most: int = 6) -> str:
    """Names, those below one module as `module.*`, so that all of them fit into a line."""
    for depth in range(max(name.count(".") for name in names) + 1, 0, -1):
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(".".join(name.split(".")[:depth]), []).append(name)
        if len(groups) <= most or depth == 1:
            break
    shown = [group if [group] == of else of[0] if len(of) == 1 else f"{group}.*" for group, of in groups.items()]
    return ", ".join([*shown[:most], *(["..."] if len(shown) > most else [])])
