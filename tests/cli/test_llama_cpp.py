"""What `genepool export` writes, loaded by llama.cpp itself: a base and its adapters predict as they do here.

llama.cpp comes in the package `xllamacpp`; these tests are skipped where it is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "weights"))
from gguf_world import byte_level, tiny_model

from genepool.tasks import open_model

pytestmark = pytest.mark.slow
IDS = [5, 17, 40, 8, 61, 33, 12]
ADAPTERS = ("one", "two")
# What `byte_level` numbers the letter n.
LETTER = 80


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base/`, adapters of other ranks and scales, and all of them as GGUF files, as the commands write them."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from genepool.cli.main import run

    folder = tmp_path_factory.mktemp("llama-cpp")
    base = tiny_model(folder / "base", "llama", byte_level("gpt-2"))
    assert run(["export", str(base), str(folder / "base.gguf"), "--type", "f32", "-q"]) == 0
    for seed, (name, rank) in enumerate(zip(ADAPTERS, (4, 3), strict=True)):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=rank, lora_alpha=5, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"],
            rank_pattern={"v_proj": 2}, alpha_pattern={"k_proj": 3},
        )  # fmt: skip
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.data = 0.3 * torch.randn(parameter.shape)
        adapted.save_pretrained(folder / name)
        line = ["export", folder / name, folder / f"{name}.gguf", "--base", base, "--type", "f32", "-q"]
        assert run([str(word) for word in line]) == 0
    return folder


@pytest.fixture(scope="module")
def server(world: Path) -> Any:
    """The base and both adapters, as `llama-server --lora-scaled FILE:0` loads them."""
    return loaded(world / "base.gguf", [world / f"{name}.gguf" for name in ADAPTERS])


def loaded(base: Path, adapters: list[Path]) -> Any:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.warmup = str(base), 64, False
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(one), 0.0) for one in adapters]
    return xllamacpp.Server(settings)


def predicted(server: Any, length: int, scales: tuple[float, ...] = (0.0, 0.0)) -> torch.Tensor:
    """llama.cpp's log-probabilities of the token behind the first `length`, (tokens,)."""
    request = {"prompt": IDS[:length], "n_predict": 1, "temperature": 0, "n_probs": 10_000, "cache_prompt": False}
    # A letter is written, whatever is predicted: of bytes that are no letter yet, nothing would be told.
    request["logit_bias"] = [[LETTER, 1000.0]]
    request["lora"] = [{"id": number, "scale": scale} for number, scale in enumerate(scales)]
    told = server.handle_completions(request)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    found = torch.full((max(one["id"] for one in told) + 1,), float("nan"))
    for one in told:
        found[one["id"]] = one["logprob"]
    return found


def expected(reference: Any, length: int) -> torch.Tensor:
    model: Any = open_model(str(reference)).load()
    with torch.inference_mode():
        found: torch.Tensor = model.model(input_ids=torch.tensor([IDS[:length]])).logits[0, -1].log_softmax(-1)
    return found


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < 0.02


@pytest.mark.parametrize("length", [1, 7])
def test_a_request_names_its_adapter_by_its_scale(server: Any, world: Path, length: int) -> None:
    plain = expected(world / "base", length)
    close(predicted(server, length), plain)
    for number, name in enumerate(ADAPTERS):
        wanted = expected(f"{world / 'base'}+{world / name}", length)
        close(predicted(server, length, tuple(float(number == one) for one in range(2))), wanted)
        assert float((wanted - plain).abs().max()) > 0.3


def test_two_adapters_at_half_are_half_of_each(server: Any, world: Path, cli: Callable[..., Any]) -> None:
    """llama.cpp adds them up as `skill sum` does."""
    mixed, halves = world / "mixed.safetensors", [world / f"half-{name}.safetensors" for name in ADAPTERS]
    for name, half in zip(ADAPTERS, halves, strict=True):
        made = cli("skill", "scale", world / name, "--factor", 0.5, "--base", world / "base", "--out", half)
        assert made.code == 0, made.err
    made = cli("skill", "sum", *halves, "--base", world / "base", "--out", mixed)
    assert made.code == 0, made.err
    close(predicted(server, 7, (0.5, 0.5)), expected(f"{world / 'base'}+{mixed}", 7))


def test_a_model_with_its_adapter_inside_is_the_same(world: Path, cli: Callable[..., Any]) -> None:
    merged = world / "merged.gguf"
    assert cli("export", f"{world / 'base'}+{world / 'one'}", merged, "--type", "f32").code == 0
    close(predicted(loaded(merged, []), 7, ()), expected(f"{world / 'base'}+{world / 'one'}", 7))
