"""`python -m benchmarks.mixed`: a batch whose requests want different adapters, beside the plain base and beside PEFT.

A Llama of random weights writes 16 tokens after each of 16 prompts of 32 tokens, which want 1, 4 or 16 LoRA adapters
of rank 8 on all matrices of all layers. genepool writes by `LanguageModel.write`, with the adapters and without. PEFT
writes by `generate(adapter_names=...)`, and transformers by `generate` without adapters. All four run in turn, five
times, with one thread. A share is the median, over the rounds, of seconds without adapters over seconds with them.

The rule, written before the figures: at width 512 genepool keeps at least 0.85 of the speed of its plain base, at every
number of adapters; at width 128 its batch is not slower than PEFT's. Every text is that of its adapter alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.measuring import table, tell
from genepool import progress
from genepool.composition import open_skills
from genepool.composition.mixing.attached import AttachedSkills
from genepool.composition.mixing.listeners import SkillByRequest
from genepool.tasks import Decoding, open_model
from genepool.tasks.models.causal_lm import LanguageModel

REQUESTS, PROMPT, NEW, RANK, ROUNDS = 16, 32, 16, 8, 5
COUNTS = (1, 4, 16)
# Layers by width: a run of the widest takes seconds.
LAYERS = {128: 4, 512: 4, 2048: 1}
MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_LETTERS = [chr(0x4E00 + number) for number in range(256)]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed", description=__doc__)
    parser.add_argument("--width", type=int, nargs="*", choices=LAYERS, default=list(LAYERS), help="of the model")
    parser.add_argument("--adapters", type=int, nargs="*", default=list(COUNTS), help="distinct ones in the batch")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="runs of each side")
    asked = parser.parse_args()
    progress.set_quiet(True)
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for width in asked.width:
        with tempfile.TemporaryDirectory() as name:
            world = Path(name)
            write_world(world, width, max(asked.adapters))
            for count in asked.adapters:
                rows.append([str(width), str(count), *_row(world, width, count, asked.rounds)])
                tell(f"width {width}, {count} adapters: {' '.join(rows[-1][2:])}")
    header = (
        "width", "adapters", "plain tokens/s", "genepool tokens/s", "share", "plain `generate` tokens/s",
        "PEFT tokens/s", "share", "rule",
    )  # fmt: skip
    print(table("Mixed batches", "Tokens a CPU second of 16 requests; shares are medians of pairs.", header, rows))


def write_world(world: Path, width: int, count: int) -> None:
    """base/ and skill0/, skill1/, ...: a random model and adapters of it."""
    from peft import LoraConfig, get_peft_model
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    backend = Tokenizer(models.WordLevel({text: n for n, text in enumerate(["<unk>", *_LETTERS])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    config = LlamaConfig(
        vocab_size=len(_LETTERS) + 1, hidden_size=width, intermediate_size=width * 11 // 4 // 8 * 8,
        num_hidden_layers=LAYERS[width], num_attention_heads=max(2, width // 64), max_position_embeddings=128,
        bos_token_id=None, eos_token_id=None, pad_token_id=0, initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(world / "base")
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(world / "base")
    settings = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=MATRICES, init_lora_weights=False)
    tuned = get_peft_model(LlamaForCausalLM.from_pretrained(world / "base"), settings, adapter_name="skill0")
    for number in range(1, count):
        tuned.add_adapter(f"skill{number}", settings)
    tuned.save_pretrained(str(world))


def _row(world: Path, width: int, count: int, rounds: int) -> list[str]:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    adapters = [f"skill{number}" for number in range(count)]
    owners = [number % count for number in range(REQUESTS)]
    dice = torch.Generator().manual_seed(1)
    ids = torch.randint(1, len(_LETTERS) + 1, (REQUESTS, PROMPT), generator=dice)
    skills = open_skills(str(world / "base"), [str(world / name) for name in adapters])
    model = open_model(world / "base").load()
    assert isinstance(model, LanguageModel)
    attached = AttachedSkills(model.model, skills.vectors())
    prompts = [model.decode(row) for row in ids.tolist()]
    plain = LlamaForCausalLM.from_pretrained(world / "base").eval()
    tuned: Any = PeftModel.from_pretrained(
        LlamaForCausalLM.from_pretrained(world / "base"), str(world / "skill0"), adapter_name="skill0"
    )
    for name in adapters[1:]:
        tuned.load_adapter(str(world / name), adapter_name=name)
    tuned.eval()
    decoding = Decoding(max_new_tokens=NEW)
    greedy = {"max_new_tokens": NEW, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    names = [adapters[owner] for owner in owners]

    def mixed() -> list[str]:
        with model.listened(SkillByRequest(attached, owners)):
            return [one.text for one in model.write(prompts, prompts, decoding)]

    def peft() -> list[str]:
        with torch.inference_mode():
            written = tuned.generate(input_ids=ids, adapter_names=names, **greedy)
        return [model.decode(row) for row in written[:, PROMPT:].tolist()]

    def generated() -> Any:
        with torch.inference_mode():
            return plain.generate(input_ids=ids, **greedy)

    if mixed() != peft():
        raise SystemExit("error: the texts of a mixed batch are not those of PEFT's")
    works: list[Callable[[], Any]] = [lambda: model.write(prompts, prompts, decoding), mixed, generated, peft]
    for work in works:
        work()
    seen = [[_seconds(work) for work in works] for _ in range(rounds)]
    speeds = [REQUESTS * NEW / statistics.median(run[place] for run in seen) for place in range(4)]
    ours, theirs = (statistics.median(run[at] / run[at + 1] for run in seen) for at in (0, 2))
    return [
        f"{speeds[0]:,.0f}", f"{speeds[1]:,.0f}", f"{ours:.2f}",
        f"{speeds[2]:,.0f}", f"{speeds[3]:,.0f}", f"{theirs:.2f}", _verdict(width, ours, speeds[1], speeds[3]),
    ]  # fmt: skip


def _verdict(width: int, share: float, ours: float, theirs: float) -> str:
    if width == 512:
        return "holds" if share >= 0.85 else "fails"
    return "holds" if width == 128 and ours >= theirs else "fails" if width == 128 else "none"


def _seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
