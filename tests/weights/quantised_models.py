"""The example files of `quantised_examples` as checkpoints, whole or damaged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_FOLDER = Path(__file__).parent / "quantised_examples"
CASES = sorted(path.stem for path in _FOLDER.glob("*.safetensors"))
_EXPECTED = "expected:"


@dataclass
class Example:
    """One quantised tensor.

    Attributes:
        settings: its `quantization_config`.
        maker: the library that says what it stands for.
        dtype: the type that it was dequantised to.
        stored: the tensors of the file.
        expected: the floats.
    """

    settings: dict[str, Any]
    maker: str
    dtype: str
    stored: dict[str, torch.Tensor]
    expected: dict[str, torch.Tensor]

    def write(self, folder: Path) -> Path:
        """A checkpoint of it and of a tensor that is not quantised."""
        folder.mkdir()
        config = {"quantization_config": self.settings, "dtype": self.dtype}
        (folder / "config.json").write_text(json.dumps(config))
        save_file({**self.stored, "norm.weight": torch.ones(4)}, folder / "model.safetensors")
        return folder


def example(case: str) -> Example:
    """One of the files."""
    with safe_open(_FOLDER / f"{case}.safetensors", "pt") as file:
        said = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = {name.removeprefix(_EXPECTED): one for name, one in tensors.items() if name.startswith(_EXPECTED)}
    stored = {name: one for name, one in tensors.items() if not name.startswith(_EXPECTED)}
    return Example(json.loads(said["settings"]), said["maker"], said["dtype"], stored, expected)


def pack_fp8(
    tensors: dict[str, torch.Tensor], side: int = 16
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The matrices of layers in FP8 with a scale for every block, by its definition, entry by entry of the grid.

    Returns:
        What a file stores, and the floats that this stands for.
    """
    stored, floats = dict(tensors), dict(tensors)
    for name, value in tensors.items():
        if not name.endswith("proj.weight"):
            continue
        rows, columns = value.shape
        scales = torch.zeros(-(-rows // side), -(-columns // side))
        codes, back = torch.zeros_like(value), torch.zeros_like(value)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                block = slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side)
                scales[i, j] = value[block].abs().max() / 448
                codes[block] = (value[block] / scales[i, j]).to(torch.float8_e4m3fn).float()
                back[block] = codes[block] * scales[i, j]
        stored[name], floats[name] = codes.to(torch.float8_e4m3fn), back
        stored[f"{name}_scale_inv"] = scales
    return stored, floats
