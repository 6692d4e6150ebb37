"""One training by TRL in a process of its own; see `side_by_side`. Nothing of genepool is imported.

What TRL does by default and genepool does not is off: bfloat16 where the model is in float32, activation checkpoints,
checkpoints on the disk, rows of a log. The losses are those that genepool's are held against in its tests.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.training.world import ALPHA, RANK, RATE, SAMPLES, SHAPES, Clock, even_end


def main(shape_name: str, device: str, method: str, form: str, folder: str, told: str) -> None:
    """Trains, and writes what a step took to `told`."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    shape, place, clock = SHAPES[shape_name], Path(folder), Clock(Path(told), device)

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.tick()

    examples = json.loads((place / "examples.json").read_text())
    two_bytes = shape.dtype != "float32"
    # What is trained is kept in float32 by both, and computed with in the type of the model.
    kept = shape.dtype if form == "lora" else "float32"
    network = AutoModelForCausalLM.from_pretrained(place / "base", dtype=getattr(torch, kept))
    tokenizer = AutoTokenizer.from_pretrained(place / "base")
    factors = None
    if form == "lora":
        factors = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    settings = {
        "output_dir": str(place / f"peer-{method}-{form}"), "max_steps": shape.steps,
        "per_device_train_batch_size": shape.batch, "learning_rate": RATE, "use_cpu": device == "cpu",
        "bf16": two_bytes, "gradient_checkpointing": False, "save_strategy": "no", "report_to": [], "seed": 0,
        "logging_steps": shape.steps, "disable_tqdm": True, "max_grad_norm": 1.0,
    }  # fmt: skip
    more: dict[str, Any] = {"processing_class": tokenizer, "peft_config": factors, "callbacks": [Ticking()]}
    trainer: Any
    if method == "sft":
        rows = [{"prompt": one["prompt"], "completion": " " + one["answer"]} for one in examples]
        trainer = SFTTrainer(network, SFTConfig(**settings), train_dataset=Dataset.from_list(rows), **more)
    elif method == "dpo":
        rows = [
            {"prompt": one["prompt"], "chosen": " " + one["answer"], "rejected": " " + one["other"]} for one in examples
        ]
        trainer = DPOTrainer(network, args=DPOConfig(**settings), train_dataset=Dataset.from_list(rows), **more)
    else:
        rows = [{"prompt": one["prompt"]} for one in examples]
        asked = GRPOConfig(
            **settings, num_generations=SAMPLES, max_completion_length=shape.answer, temperature=1.0, beta=0.0
        )

        def reward(completions: list[str], **_: Any) -> list[float]:
            return [even_end(text) for text in completions]

        trainer = GRPOTrainer(network, reward, args=asked, train_dataset=Dataset.from_list(rows), **more)
    trainer.train()
    trainer.save_model()
    clock.write()


if __name__ == "__main__":
    main(*sys.argv[1:])
