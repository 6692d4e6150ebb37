"""What a step of learning the coefficients of a merge takes: of ours every way, of autograd, and of fusion_bench.

`python -m benchmarks.composition.memory [--peer PYTHON] [--rows NAME ...]`; PYTHON is that of an environment with
fusion_bench. A Llama-shaped model of 26 million random entries, full fine-tunes and LoRA adapters of it are written to
a temporary folder. Every row is a process of its own with one thread, which takes one step to warm up and `STEPS` that
count, on 4 rows of 64 tokens. Two rules were written before the first figure:

- flat: at 8 skills that are read from the disk, a step takes at most a tenth more memory than at 2;
- below training: and less than a plain training step of the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import CommandFailed, measure, table, tell

if TYPE_CHECKING:
    import torch

SHAPE = {
    "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 7,
    "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip
MOST, RANK, STEPS = 8, 8, 2
#: What is measured: what is said of it, its name, and with how many skills.
ROWS: list[tuple[str, str, Sequence[int]]] = [
    ("plain backward pass and gradient step", "plain", (0,)),
    ("fine-tunes on the disk, all gradients first", "streamed", (2, 4, 8)),
    ("fine-tunes on the disk, each tensor moves in the backward pass", "fused", (2, 4, 8)),
    ("fine-tunes in memory, each tensor moves in the backward pass", "resident", (2, 4, 8)),
    ("adapters, multiplied out", "multiplied", (2, 8)),
    ("adapters beside the base", "beside", (2, 4, 8)),
    ("autograd through the merge", "autograd", (2, 8)),
    ("fusion_bench, `LayerWiseMergedModel`", "peer", (2, 4, 8)),
]


def run(peer: Path | None = None, names: Sequence[str] = ()) -> str:
    """The table, and whether the rules hold.

    Args:
        peer: the Python of an environment with fusion_bench; without it, its rows are left out.
        names: of the rows to measure; all when empty.
    """
    chosen = [row for row in ROWS if (not names or row[1] in names) and (peer is not None or row[1] != "peer")]
    seen: dict[tuple[str, int], tuple[float, float]] = {}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        for said, mode, counts in chosen:
            for count in counts:
                tell(f"{mode} {count}")
                try:
                    seen[mode, count] = memory, seconds = _row(folder, mode, count, peer)
                except CommandFailed as error:
                    rows.append([said, str(count), str(error), ""])
                    continue
                rows.append([said, str(count or ""), f"{memory:.0f}", f"{seconds:.2f}"])
    note = (
        "A Llama-shaped model of 26 million entries in float32, 4 x 64 tokens. Anonymous memory is that of the whole "
        "process, which has loaded torch and transformers; seconds are of the processor, for one step of loss, "
        "gradient, Adam and merge, on one thread."
    )
    head = ("what", "skills", "peak anonymous MB", "CPU s a step")
    return table("A step of a learned merge", note, head, rows) + "\n" + "\n".join(_verdicts(seen))


def _verdicts(seen: dict[tuple[str, int], tuple[float, float]]) -> list[str]:
    found = []
    for mode in ("streamed", "fused"):
        if not {(mode, 2), (mode, MOST), ("plain", 0)} <= seen.keys():
            continue
        few, many, plain = (seen[key][0] for key in ((mode, 2), (mode, MOST), ("plain", 0)))
        found.append(
            f"{mode}: {many / few - 1:+.1%} memory from 2 to {MOST} skills "
            f"({'holds' if many <= 1.1 * few else 'FAILS'})"
            f", {many / plain:.2f} of plain training ({'holds' if many < plain else 'FAILS'})"
        )
    return found


def _row(folder: Path, mode: str, count: int, peer: Path | None) -> tuple[float, float]:
    """Peak anonymous MB, and processor seconds a step."""
    told = folder / f"{mode}-{count}.json"
    module = "benchmarks.composition.peer" if mode == "peer" else "benchmarks.composition.memory"
    python = str(peer) if mode == "peer" else sys.executable
    more = [] if mode == "peer" else ["--child", mode]
    usage = measure([python, "-m", module, *more, str(count), str(folder), str(told)])
    return 1000 * usage.anonymous, json.loads(told.read_text())["seconds"]


def write_models(folder: Path) -> None:
    """base/, and `MOST` of each: full/N, steps away from it in every entry, and lora/N, of rank `RANK`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SHAPE))
    base.save_pretrained(folder / "base")
    start = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    with torch.no_grad():
        for number in range(MOST):
            for name, parameter in base.named_parameters():
                parameter.copy_(start[name] + 0.01 * torch.randn_like(parameter))
            base.save_pretrained(folder / "full" / str(number))
    base.load_state_dict(start)
    adapted = get_peft_model(base, LoraConfig(r=RANK, target_modules="all-linear", init_lora_weights=False))
    for number in range(MOST):
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.02)
        adapted.save_pretrained(str(folder / "lora" / str(number)))


def batch() -> torch.Tensor:
    """The tokens of every step, shape (4, 64)."""
    import torch

    return torch.randint(0, SHAPE["vocab_size"], (4, 64), generator=torch.Generator().manual_seed(0))


def step_of(mode: str, count: int, folder: Path) -> Callable[[int], None]:
    """What one step does; it takes its number."""
    import torch

    from genepool.composition import open_skills
    from genepool.composition.branches import BranchedNetwork
    from genepool.composition.coefficients import CoefficientLayout, SharedScales
    from genepool.composition.gradient import MergedNetwork
    from genepool.composition.residence import plan_residence
    from genepool.composition.steps import CoefficientSteps, FusedSteps, WholeSteps
    from genepool.tasks.pretrained import build_network
    from genepool.training import Optimisation
    from genepool.weights import open_weights

    base = open_weights(folder / "base")
    network = build_network(base, torch.float32, "AutoModelForCausalLM", "causal language model")
    ids = batch()

    def loss_of(model: Any) -> torch.Tensor:
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten())

    if mode == "plain":
        optimiser = torch.optim.SGD(network.parameters(), lr=1e-4)

        def plain(_: int) -> None:
            optimiser.zero_grad()
            loss_of(network).backward()  # type: ignore[no-untyped-call]
            optimiser.step()

        return plain
    kind = "lora" if mode in ("multiplied", "beside") else "full"
    skills = open_skills(str(folder / "base"), [str(folder / kind / str(number)) for number in range(count)])
    vectors = skills.vectors(range(count) if mode in ("resident", "multiplied") else ())
    layout = CoefficientLayout(count, vectors.names)
    if mode == "autograd":
        return _through_the_merge(network, vectors, torch.full(layout.shape, 0.3, requires_grad=True), loss_of)
    made, settings = SharedScales(layout, range(len(layout.names)), 0.3), Optimisation(100, 1e-3, clip=0.0)
    held = Held(network)
    steps: CoefficientSteps
    if mode == "beside":
        branched = BranchedNetwork(held, vectors, layout)  # type: ignore[arg-type]
        steps = WholeSteps(branched, made, settings)
        # For as long as this process runs.
        held.kept = branched.adding()
        held.kept.__enter__()
    else:
        at_hand = plan_residence(skills, way="fused").at_hand
        merged = MergedNetwork(held, vectors, layout, at_hand=at_hand)  # type: ignore[arg-type]
        own = made.by_tensor()
        assert own is not None
        steps = WholeSteps(merged, made, settings) if mode == "streamed" else FusedSteps(merged, made, own, settings)

    def ours(number: int) -> None:
        steps.gradients(number, [lambda: loss_of(network)])
        steps.clip()
        steps.step(number)

    return ours


class Held:
    """As much of `Network` as the core asks for: no tokenizer is needed here."""

    title = "benchmark"
    kept: Any = None

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = next(model.parameters()).device

    def changing(self, names: Any) -> Any:
        from genepool.tasks.network import Network

        return Network.changing(self, names)  # type: ignore[arg-type]


def _through_the_merge(network: Any, vectors: Any, coefficients: Any, loss_of: Any) -> Callable[[int], None]:
    import torch
    from torch.func import functional_call

    base = {name: parameter.detach() for name, parameter in network.named_parameters()}
    held = {name: vectors.block(name, 0, vectors.matrix(name)[0]).flatten(1) for name in vectors.names}
    optimiser = torch.optim.Adam([coefficients], 1e-3)

    def step(_: int) -> None:
        merged = {
            name: base[name] + (coefficients[:, place] * held[name]).sum(0).view(base[name].shape)
            for place, name in enumerate(vectors.names)
        }
        loss_of(lambda **inputs: functional_call(network, base | merged, (), inputs)).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def timed(step: Callable[[int], None], told: Path) -> None:
    """Takes one step to warm up and those that count, and writes what one took."""
    step(0)
    began = time.process_time()
    for number in range(STEPS):
        step(number + 1)
    told.write_text(json.dumps({"seconds": (time.process_time() - began) / STEPS}))


def _child(mode: str, count: str, folder: str, told: str) -> None:
    """One row, in a process of its own."""
    import torch

    torch.set_num_threads(1)
    timed(step_of(mode, int(count), Path(folder)), Path(told))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1:2] == ["--child"]:
        _child(*sys.argv[2:])
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--peer", type=Path, metavar="PYTHON", help="of an environment with fusion_bench")
        parser.add_argument("--rows", nargs="+", default=(), choices=[row[1] for row in ROWS])
        asked = parser.parse_args()
        print(run(asked.peer, asked.rows))
