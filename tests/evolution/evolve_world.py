"""A world small enough for tests: a random Llama, two "fine-tunes" of it, and tasks on which their scores differ."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml


def build_world(folder: Path, **changes: Any) -> Path:
    """Writes `folder`/{base, skills/a, skills/b, tasks/pick, tasks/say, study.yaml}; `changes` are of the config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from genepool.testbed.tokenizer import VOCABULARY, fast_tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **changes},
    )
    base = LlamaForCausalLM(config)
    _save(base, folder / "base")
    for name in ("a", "b"):
        skill = LlamaForCausalLM(config)
        skill.load_state_dict(base.state_dict())
        with torch.no_grad():
            for tensor in skill.parameters():
                # Large steps: the scores of merges must differ, whatever they mean.
                tensor.add_(torch.randn_like(tensor) * 0.5 * tensor.std())
        _save(skill, folder / "skills" / name)
    tokenizer = fast_tokenizer(64)
    for model in ("base", "skills/a", "skills/b"):
        tokenizer.save_pretrained(folder / model)
    dice = random.Random(0)
    for task, settings in (
        ("pick", {"metric": "multiple_choice"}),
        ("say", {"metric": "contains", "max_new_tokens": 3}),
    ):
        (folder / "tasks" / task).mkdir(parents=True)
        (folder / "tasks" / task / "task.yaml").write_text(yaml.safe_dump(settings))
        for split, count in (("train", 2), ("valid", 24), ("test", 32)):
            lines = [_example(dice, f"{split}{i}", task) for i in range(count)]
            path = folder / "tasks" / task / f"{split}.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return folder


def build_adapter(world: Path) -> None:
    """Writes `world`/adapter: a LoRA adapter of the base, of rank 2 on two matrices of each of the two layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(world / "base"),
        LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "up_proj"], init_lora_weights=False),
    )
    tuned.save_pretrained(str(world / "adapter"))


STUDY: dict[str, Any] = {
    "study": 1,
    "base": "base",
    "skills": ["skills/a", "skills/b"],
    "method": "task_arithmetic",
    "parameters": {"lambda": 1.0},
    "search": {"weight": {"low": 0.0, "high": 1.0, "start": 0.4, "per": {"layer_groups": 2}}},
    "tasks": {"dir": "tasks", "valid": 20},
    "budget": {"evaluations": 20},
    "seed": 1,
    "batch": 8,
}


def _save(model: Any, folder: Path) -> None:
    model.generation_config.eos_token_id = 1
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)


def _example(dice: random.Random, name: str, task: str) -> dict[str, Any]:
    prompt = "".join(dice.choices("abcdefgh", k=5)) + "="
    choices = ["".join(dice.choices("ijklmnop", k=2)) for _ in range(3)]
    if task == "pick":
        return {"id": name, "prompt": prompt, "choices": choices, "answer": choices[0]}
    return {"id": name, "prompt": prompt, "answer": list("abcdefghijklmnopqrstuvwxyz")[:: dice.choice([2, 3])]}
