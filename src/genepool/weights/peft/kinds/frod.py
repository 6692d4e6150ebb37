"""FRoD: the weight in a basis that all layers of a kind share, its entries there trained (PEFT's frod/layer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genepool.weights.peft.kinds.kind import Kind
from genepool.weights.peft.layer import Layer
from genepool.weights.peft.settings import (
    BIAS,
    COMMON,
    START,
    TARGETING,
    TRAINING,
    TRANSPOSED,
    declared,
    refused,
    unused,
)

if TYPE_CHECKING:
    import torch


class FRoD(Kind):
    """`U (S + diag(l)) V^T - W`; V is in the file, U makes `U diag(|..|) V^T` the base's weight."""

    peft_type = "FROD"
    title = "FRoD"
    source = "PEFT's frod/layer.py"
    prefix = "frod_"
    parts = ("frod_lambda_l", "frod_lambda_s_values")
    shared = ("frod_V.*", "frod_s_indices.*", "frod_s_size.*")
    needs_base = True
    settings = declared(
        {
            **COMMON,
            **{key: TARGETING[key] for key in ("target_modules", "layers_to_transform", "layers_pattern")},
            **BIAS,
            **TRANSPOSED,
            "save_projection": refused(
                "the basis of its layers is not in the file and depends on every layer of the model it was made on",
                "Save the adapter again with save_projection=True",
                off=(True, None),
            ),
            "projection_prng_key": unused("the places of the sparse entries are in the file"),
            "sparse_rate": unused("the places of the sparse entries are in the file"),
            "regularization_alpha": unused("the basis is in the file"),
            "progressbar": TRAINING,
            "runtime_offload_base_weight": TRAINING,
            "frod_dropout": TRAINING,
            "init_weights": START,
        }
    )

    def check(self, layer: Layer) -> None:
        size, category = layer.in_features, _category(layer.module)
        if not layer.has_shared(f"frod_V.{category}"):
            raise layer.error(f"holds no basis for {category}", "Save it again with save_projection=True")
        layer.expect("frod_lambda_l", (size,))
        layer.expect(f"frod_V.{category}", (size, size), layer.shared_size(f"frod_V.{category}"))
        places = layer.shared_size(f"frod_s_indices.{category}")
        layer.expect(f"frod_s_indices.{category}", (2, places[-1]), places)
        layer.expect("frod_lambda_s_values", (places[-1],))

    def change(self, layer: Layer, leaf: str) -> torch.Tensor:
        import torch

        size, category = layer.in_features, _category(layer.module)
        basis, weight = layer.shared(f"frod_V.{category}"), layer.weight()
        rows, columns = layer.shared_indices(f"frod_s_indices.{category}")
        if len(rows) and not 0 <= int(min(rows.min(), columns.min())) <= int(max(rows.max(), columns.max())) < size:
            raise layer.error(f"names entries outside the basis of {category}", "Save the adapter again")
        middle = torch.zeros(size * size).index_add_(0, rows * size + columns, layer.read("frod_lambda_s_values"))
        middle = middle.reshape(size, size) + torch.diag(layer.read("frod_lambda_l"))
        try:
            coordinates = torch.linalg.solve(basis.double(), weight.double().T).T
        except RuntimeError:
            coordinates = weight.double() @ torch.linalg.pinv(basis.double(), rtol=1e-6).T
        lengths = coordinates.norm(dim=0)
        units = torch.where(lengths > 1e-12, coordinates / lengths, torch.zeros((), dtype=torch.float64)).float()
        return units @ middle @ basis.T - weight


def _category(module: str) -> str:
    """PEFT's name for the modules that share a basis: the last two words of the module's name."""
    parts = module.split(".")
    if len(parts) == 1 or parts[-2].isdigit():
        return parts[-1]
    if parts[-3:] == ["attention", "output", "dense"]:
        return "attention_output"
    return f"{parts[-2]}_{parts[-1]}"
