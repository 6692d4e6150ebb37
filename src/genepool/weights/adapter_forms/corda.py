"""CorDA: factors that begin as directions of the weight, told by what the layer reads on examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from genepool.errors import InputError
from genepool.weights.encodings.low_rank import Product
from genepool.weights.formed.adapter_form import Beginning, FormOptions, LinearForm, Parts, Shapes
from genepool.weights.formed.sites import LinearSite, ModelSites

if TYPE_CHECKING:
    import torch

# Of PEFT's and the authors' code.
_DAMP, _ERROR = 0.01, 0.05


class CordaOptions(FormOptions):
    """Options of CorDA."""

    rank: int = Field(default=8, ge=1, le=4096, description="Rank of the factors.")
    mode: Literal["knowledge", "instruction"] = Field(
        default="knowledge",
        description="knowledge: train the directions that the examples need least, so that what they show is kept; "
        "instruction: train those that they need most.",
    )


class Corda(LinearForm):
    """The SVD of W C, C the mean of x x^T over examples, gives W = U S (V^T C^-1); r of its directions are trained.

    A and B begin as sqrt(S) V^T C^-1 and U sqrt(S) of the chosen directions, and W gives these away: the layer computes
    W x + B A x - B0 A0 x. The base stays as it is, and the start (A0, B0) is kept beside A and B.
    """

    name = "corda"
    source = "Yang et al., CorDA (arXiv:2406.05223); arithmetic of PEFT's code"
    when = "Fine-tuning that should forget little of what some examples show, or learn them fast."
    traps = (
        "PEFT writes a base that lacks these directions; here the base is unchanged, so the adapter is twice as wide. "
        "C gets 0.01 of its mean diagonal, doubled until its inverse is within 0.05, as in the authors' code. The "
        "examples are 256 of those that are trained on: name a task of what should be kept for knowledge."
    )
    Options = CordaOptions
    options: CordaOptions

    def parts(self, site: LinearSite, sites: ModelSites) -> Shapes:
        rank = min(self.options.rank, site.inputs, site.outputs)
        down, up = (rank, site.inputs), (site.outputs, rank)
        return {"A": down, "B": up, "start_A": down, "start_B": up}

    def frozen(self, name: str) -> bool:
        return name.endswith((".start_A", ".start_B"))

    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        sites = self.chosen(beginning.sites)
        squares = beginning.squares(sites)
        found: dict[str, torch.Tensor] = {}
        # One pass over the examples serves all layers.
        for site in sites:
            for part, value in self._start(site, beginning, squares).items():
                found[self.key(site, part, beginning.sites)] = value
        return found

    def begin_at(self, site: LinearSite, beginning: Beginning) -> dict[str, torch.Tensor]:
        return self._start(site, beginning, beginning.squares([site]))

    def _start(
        self, site: LinearSite, beginning: Beginning, squares: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        if site.module not in squares:
            raise InputError(
                "no example reaches this layer, so corda cannot begin there",
                where=site.module,
                fix="Train on examples that reach it, or use another form",
            )
        weight, _ = beginning.read(site)
        rank = self.parts(site, beginning.sites)["A"][0]
        a, b = decomposed(weight, squares[site.module], rank, largest=self.options.mode == "instruction")
        return {"A": a, "B": b, "start_A": a.clone(), "start_B": b.clone()}

    def forward(
        self, site: LinearSite, parts: Parts, x: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor], task: int
    ) -> torch.Tensor:
        return plain(x) + x @ parts["A"].T @ parts["B"].T - x @ parts["start_A"].T @ parts["start_B"].T

    def change(
        self, site: LinearSite, parts: Parts, weight: torch.Tensor, bias: torch.Tensor | None, task: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return parts["B"] @ parts["A"] - parts["start_B"] @ parts["start_A"], None

    def product(self, site: LinearSite, parts: Parts, task: int) -> Product:
        import torch

        left = torch.cat([parts["B"], -parts["start_B"]], 1)
        return Product(left, torch.cat([parts["A"], parts["start_A"]]))


def decomposed(
    weight: torch.Tensor, square: torch.Tensor, rank: int, *, largest: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors A (rank, inputs) and B (outputs, rank) of some directions of a weight, float32.

    Args:
        weight: (outputs, inputs).
        square: C, the mean of x x^T of what the layer reads, (inputs, inputs) float64.
        rank: how many directions.
        largest: those that the inputs need most; otherwise those that they need least.

    Raises:
        InputError: an input is NaN or infinite, for which no damping would ever be enough.
    """
    import torch

    identity = torch.eye(len(square), dtype=torch.float64)
    mean = float(square.diagonal().mean())
    if not bool(torch.isfinite(square).all()):
        raise InputError(
            "layers of the base read NaN or infinity on the training examples",
            where="--form corda",
            fix="Compute with --dtype float32, or use another base",
        )
    if mean == 0:
        # Nothing was ever read here: no direction is needed more than another.
        square, mean = identity.clone(), 1.0
    # The authors divide what is read by its largest entry; the product B A is the same whatever C is divided by.
    square, damp = square / mean, _DAMP
    while True:
        fixed = square + damp * identity
        inverse = torch.linalg.inv(fixed.float()).double()
        if float(torch.dist((fixed.float() @ inverse.float()), identity.float())) < _ERROR:
            break
        damp *= 2
    left, values, right = torch.linalg.svd(weight.double() @ fixed, full_matrices=False)
    chosen = slice(0, rank) if largest else slice(len(values) - rank, len(values))
    root = values[chosen].sqrt()
    a = root[:, None] * (right[chosen] @ torch.linalg.inv(fixed))
    return a.float().contiguous(), (left[:, chosen] * root).float().contiguous()
