"""What the gradient of a merge's coefficients takes, against autograd through the merge and a plain backward pass.

A Llama-shaped model of 26 million random entries and full fine-tunes of it are written to a temporary folder. Every row
is a process of its own that takes one step to warm up and three that count: 4 rows of 64 tokens, one thread.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, measure, table

SHAPE = {
    "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 7,
    "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip
STEPS = 3
#: What is measured, and with how many skills.
ROWS: list[tuple[str, str, int]] = [
    ("plain backward and gradient step", "plain", 0),
    *((f"genepool, skills on the disk, {k}", "streamed", k) for k in (2, 4, 8)),
    *((f"genepool, skills in memory, {k}", "held", k) for k in (2, 8)),
    *((f"autograd through the merge, {k}", "autograd", k) for k in (2, 8)),
]


def run() -> str:
    """The table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, 8)
        rows = [_row(folder, said, mode, count) for said, mode, count in ROWS]
    return table(
        "The gradient of a merge's coefficients",
        "A Llama-shaped model of 26 million entries in float32, 4 x 64 tokens. Anonymous memory is that of the whole "
        "process, which has loaded torch and transformers; seconds are of the processor, for one step of merging, "
        "loss, gradient and update.",
        ("what, number of skills", "peak anonymous MB", "CPU s a step"),
        rows,
    )


def _row(folder: Path, said: str, mode: str, count: int) -> list[str]:
    told = folder / f"{mode}-{count}.json"
    seen = measure([sys.executable, "-m", "benchmarks.composition_memory", mode, str(count), str(folder), str(told)])
    return [said, f"{1000 * seen.anonymous:.0f}", f"{json.loads(told.read_text())['seconds']:.2f}"]


def write_models(folder: Path, count: int) -> None:
    """base/ and 0/ to count-1/: random weights, and steps away from them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SHAPE))
    base.save_pretrained(folder / "base")
    start = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for number in range(count):
        with torch.no_grad():
            for name, parameter in base.named_parameters():
                parameter.copy_(start[name] + 0.01 * torch.randn_like(parameter))
        base.save_pretrained(folder / str(number))


def step_of(mode: str, count: int, folder: Path) -> Callable[[], None]:
    """What one step does."""
    import torch

    from genepool.composition import open_skills
    from genepool.composition.coefficients import CoefficientLayout
    from genepool.composition.gradient import MergedNetwork
    from genepool.tasks.pretrained import build_network
    from genepool.weights import open_weights

    torch.set_num_threads(1)
    base = open_weights(folder / "base")
    network = build_network(base, torch.float32, "AutoModelForCausalLM", "causal language model")
    ids = torch.randint(0, SHAPE["vocab_size"], (4, 64), generator=torch.Generator().manual_seed(0))

    def loss_of(model: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(
            model(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        )

    if mode == "plain":
        optimiser = torch.optim.SGD(network.parameters(), lr=1e-4)

        def plain() -> None:
            optimiser.zero_grad()
            loss_of(network).backward()
            optimiser.step()

        return plain
    skills = open_skills(str(folder / "base"), [str(folder / str(number)) for number in range(count)])
    vectors = skills.vectors(range(count) if mode == "held" else ())
    layout = CoefficientLayout(count, vectors.names)
    coefficients = torch.full(layout.shape, 0.1, requires_grad=True)
    if mode == "autograd":
        return _through_the_merge(network, vectors, coefficients, loss_of)

    class Held:
        """As much of `Network` as the core asks for: no tokenizer is needed here."""

        model, title = network, "benchmark"
        changing = _changing

    merged = MergedNetwork(Held(), vectors, layout)  # type: ignore[arg-type]

    def ours() -> None:
        with torch.no_grad():
            merged.put(coefficients)
            _, slopes = merged.gradient([lambda: loss_of(network)])
            coefficients.sub_(1e-3 * slopes)

    return ours


def _changing(self: Any, names: Any) -> Any:
    from genepool.tasks.network import Network

    return Network.changing(self, names)


def _through_the_merge(network: Any, vectors: Any, coefficients: Any, loss_of: Any) -> Callable[[], None]:
    import torch
    from torch.func import functional_call

    base = {name: parameter.detach() for name, parameter in network.named_parameters()}
    held = {name: vectors.block(name, 0, vectors.matrix(name)[0]).flatten(1) for name in vectors.names}

    def step() -> None:
        merged = {
            name: base[name] + (coefficients[:, place] * held[name]).sum(0).view(base[name].shape)
            for place, name in enumerate(vectors.names)
        }
        loss = loss_of(lambda **inputs: functional_call(network, base | merged, (), inputs))
        loss.backward()
        with torch.no_grad():
            coefficients.sub_(1e-3 * coefficients.grad)
        coefficients.grad = None

    return step


def child(mode: str, count: int, folder: Path, told: Path) -> None:
    """One row, in a process of its own."""
    step = step_of(mode, count, folder)
    step()
    began = time.process_time()
    for _ in range(STEPS):
        step()
    told.write_text(json.dumps({"seconds": (time.process_time() - began) / STEPS}))


if __name__ == "__main__":
    assert ROOT.is_dir()
    child(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
