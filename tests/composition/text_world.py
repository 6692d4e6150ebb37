"""A tiny Llama, two adapters of it of different ranks, and tasks that are called like them."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tasks"))

from tiny_models import write_model

LETTERS = "abcdefgh"


def build(world: Path) -> Path:
    """base/, lora/{one,two}, tasks/{one,two}."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    write_model(world / "base", tie_word_embeddings=True)
    for seed, (name, rank) in enumerate((("one", 2), ("two", 3))):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
        tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(world / "base"), config)
        for key, parameter in tuned.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.3)
        tuned.save_pretrained(str(world / "lora" / name))
    for name in ("one", "two"):
        dice = random.Random(name)
        place = world / "tasks" / name
        place.mkdir(parents=True)
        for split, count in (("train", 12), ("test", 8)):
            texts = ["".join(dice.choices(LETTERS, k=4)) for _ in range(count)]
            rows = [
                json.dumps({"id": f"{split}{n}", "prompt": f"{t}=", "answer": t[::-1]}) for n, t in enumerate(texts)
            ]
            (place / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
        (place / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 4\n")
    return world
