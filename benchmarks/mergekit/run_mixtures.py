"""Makes mixtures by mergekit in one process, as `mergekit-moe` makes them, with random numbers that it is given.

Run by the Python of mergekit's own environment; uses nothing of genepool. Arguments: a safetensors file of random
numbers, the seed of the gates, then pairs of a file and an output folder. The normal numbers that `noise_scale`
multiplies lie under the names of the tensors that get them. The model that hidden states are asked of is loaded in
float32; mergekit says bfloat16.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from mergekit.io.tasks import LoaderCache
from mergekit.moe import common, deepseek, qwen
from mergekit.moe.config import MoEMergeConfig
from mergekit.options import MergeOptions
from mergekit.scripts.moe import build
from safetensors.torch import load_file


def draw_from(numbers: dict[str, torch.Tensor]) -> None:
    """Makes the architectures that copy tensor by tensor add this noise."""
    copy = common.copy_tensor_out
    place: dict[str, str] = {}

    def copy_named(weight_info: Any, *words: Any, output_name: str | None = None, **settings: Any) -> None:
        place["name"] = output_name or weight_info.name
        copy(weight_info, *words, output_name=output_name, **settings)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return numbers[place["name"]].reshape(like.shape).to(like.dtype)

    deepseek.copy_tensor_out = qwen.copy_tensor_out = copy_named
    torch.randn_like = noise


def load_in_float32() -> None:
    """Makes transformers load models in float32, whatever they are asked for in."""
    load = transformers.AutoModelForCausalLM.from_pretrained

    def loaded(*words: Any, **settings: Any) -> Any:
        return load(*words, **{**settings, "torch_dtype": torch.float32})

    transformers.AutoModelForCausalLM.from_pretrained = loaded


def main() -> None:
    draws, seed, *words = sys.argv[1:]
    draw_from(load_file(draws))
    load_in_float32()
    for file, out in zip(words[::2], words[1::2], strict=True):
        LoaderCache().loaders.clear()
        config = MoEMergeConfig.model_validate(yaml.safe_load(Path(file).read_text(encoding="utf-8")))
        torch.manual_seed(int(seed))
        build(config, out, MergeOptions(quiet=True), device="cpu")


if __name__ == "__main__":
    main()
