"""The model and the data that both are trained on: a Llama of random weights and texts of random words.

Every prompt and every answer has the same number of words, each one token, so a step is as large for both whatever the
order of the examples. Nothing of genepool and nothing of TRL is imported.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A model and how it is trained.

    Attributes:
        kind: transformers' word for the architecture.
        config: its settings; every word of the vocabulary is a token.
        dtype: what the model computes in.
        prompt, answer: words of each.
        batch: examples of a step; pairs for DPO; prompts with eight samples each for GRPO.
        steps: of a training; the first `WARM` are not timed.
    """

    kind: str
    config: dict[str, Any]
    dtype: str
    prompt: int
    answer: int
    batch: int
    steps: int


#: Steps that are not timed: imports, caches, the first allocations.
WARM = 2
RANK, ALPHA, SAMPLES, RATE = 8, 32.0, 8, 1e-4
SHAPES = {
    "small": Shape(
        "llama",
        {"vocab_size": 8192, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
         "num_attention_heads": 6, "num_key_value_heads": 6, "max_position_embeddings": 256,
         "tie_word_embeddings": True},
        "float32", prompt=48, answer=16, batch=16, steps=10,
    ),
    # The shape of Qwen2.5 0.5B. Not its class, for which transformers takes no other tokenizer than Qwen's.
    "qwen": Shape(
        "llama",
        {"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
         "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 4096,
         "tie_word_embeddings": True},
        "bfloat16", prompt=384, answer=128, batch=16, steps=20,
    ),
}  # fmt: skip
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def write(folder: Path, shape: Shape) -> None:
    """Writes the model to `base`, and the data as answers, pairs and prompts: for genepool a folder, for TRL a file."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(shape.kind, **shape.config, **ids)
    network = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype))
    network.save_pretrained(folder / "base")
    words = [f"w{number}" for number in range(shape.config["vocab_size"] - len(_SPECIAL))]
    backend = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate((*_SPECIAL, *words))}, unk_token=_SPECIAL[3])
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), _SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder / "base")

    draw = random.Random(0)

    def text(count: int) -> str:
        return " ".join(draw.choices(words, k=count))

    examples = [
        {"prompt": text(shape.prompt), "answer": text(shape.answer), "other": text(shape.answer)}
        for _ in range(shape.batch * shape.steps)
    ]
    (folder / "examples.json").write_text(json.dumps(examples))
    rows = {
        "sft": [{"prompt": one["prompt"] + " ", "answer": one["answer"]} for one in examples],
        "dpo": [{"prompt": one["prompt"] + " ", "chosen": one["answer"], "rejected": one["other"]} for one in examples],
    }
    for name, lines in rows.items():
        task = folder / "tasks" / name / "words"
        task.mkdir(parents=True)
        for split, part in (("train", lines), ("valid", lines[:1]), ("test", rows["sft"][:1])):
            (task / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part))
        (task / "task.yaml").write_text(f"metric: even_end\nmax_new_tokens: {shape.answer}\n")


def even_end(text: str) -> float:
    """1 when the last word has an even number, which half of all texts do: the reward of both."""
    return float(text.strip().endswith(tuple("02468")))


class Clock:
    """The times at which steps begin, written to a file.

    Args:
        path: a JSON file.
        device: torch's name; the memory of an accelerator is told too, and waited for.
    """

    def __init__(self, path: Path, device: str) -> None:
        self._path, self._device = path, device
        self._times: list[tuple[float, float]] = []

    def tick(self) -> None:
        """One more step begins."""
        if self._device != "cpu":
            import torch

            torch.cuda.synchronize()
        self._times.append((time.perf_counter(), time.process_time()))

    def ticking(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, with a tick before it."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self.tick()
            return call(*arguments, **named)

        return timed

    def write(self) -> None:
        """Wall and processor seconds of a step beyond the first ones, and the peak of an accelerator's memory in GB."""
        timed = self._times[WARM:]
        steps = len(timed) - 1
        wall, cpu = ((timed[-1][kind] - timed[0][kind]) / steps for kind in (0, 1))
        peak = 0.0
        if self._device != "cpu":
            import torch

            peak = torch.cuda.max_memory_allocated() / 1e9
        self._path.write_text(json.dumps({"wall": wall, "cpu": cpu, "steps": steps, "device_memory": peak}))
