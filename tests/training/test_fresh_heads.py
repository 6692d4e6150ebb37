"""A base without a head is given one for the classes its task says; what comes out opens here and in PEFT."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import result_bytes, told

from genepool.training import run as running
from genepool.weights import BaseWithHead, ClassHead, open_weights

SETTINGS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
            "initializer_range": 0.1}  # fmt: skip
HERE = ("--steps", 60, "--every", 20, "--batch", 16, "--learning-rate", 0.01, "--quiet")


@pytest.fixture(scope="module")
def world(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bert/ (a body alone), masked/ (one that fills gaps), roberta/, llama/; tasks/{first, sides}, which say their
    classes, and untold/, which does not."""
    import transformers

    folder = tmp_path_factory.mktemp("heads")
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_world / "base")
    small = {**SETTINGS, "vocab_size": len(tokenizer), "pad_token_id": 0}
    torch.manual_seed(0)
    makers = {
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**small)),
        "masked": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**small)),
        "roberta": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**small)),
        "llama": lambda: transformers.LlamaModel(transformers.LlamaConfig(num_key_value_heads=2, **small)),
    }
    for name, make in makers.items():
        make().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    shutil.copytree(small_world / "tasks" / "first", folder / "untold" / "first")
    shutil.copytree(small_world / "tasks" / "first", folder / "tasks" / "first")
    (folder / "tasks" / "first" / "task.yaml").write_text("classes: [a, b, c, d, e, f, g, h]\n")
    return folder


@pytest.mark.parametrize(
    "base", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("masked", "roberta", "llama"))]
)
def test_an_adapter_with_its_head_gives_the_same_logits_in_peft(
    base: str, world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    task, run = world / "tasks" / "first", tmp_path / "run"
    answer = cli("train", task, "--base", world / base, "--lora", 4, "--out", run, *HERE, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["head"]["classes"] == list("abcdefgh")
    assert found["head"]["before"] == "the most frequent class of the training examples"
    assert found["base"]["fingerprint"] == open_weights(world / base).fingerprint()
    (target,) = found["target"]
    assert min(one["loss"] for one in found["validations"]) < 0.7 * found["validations"][0]["loss"]
    # Before stands one answer to all.
    lines = [json.loads(line) for line in (task / "test.jsonl").read_text().splitlines()]
    shares = {label: sum(line["answer"] == label for line in lines) / len(lines) for label in "abcdefgh"}
    assert target["before"] in shares.values()
    tuned = f"{world / base}+{run / 'adapter'}"
    asked = cli("evaluate", tuned, "--tasks", task, "--json")
    assert json.loads(asked.out)["results"][0]["mean"] == pytest.approx(target["after"])
    assert open_weights(tuned).fingerprint() == found["fingerprint"]

    from genepool.tasks import open_model

    ours = open_model(tuned).load()
    theirs = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(world / base, num_labels=8), run / "adapter"
    ).eval()
    for line in lines[:8]:
        ids = torch.tensor([ours.encode(line["prompt"])])  # type: ignore[attr-defined]
        with torch.inference_mode():
            expected = theirs(input_ids=ids).logits[0].log_softmax(-1)
        assert torch.allclose(ours.class_scores([line["prompt"]])[0], expected, atol=1e-5)


@pytest.mark.slow
def test_every_tensor_of_a_base_without_a_head_becomes_a_skill_that_carries_it(
    world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    task, run = world / "tasks" / "first", tmp_path / "run"
    line = ["train", task, "--base", world / "bert", "--full", "--out", run, *HERE, "--learning-rate", 0.003]
    assert cli(*line).code == 0
    (target,) = told(run)["target"]
    losses = [one["loss"] for one in told(run)["validations"]]
    assert min(losses) < 0.7 * losses[0]
    skill = run / "skill.safetensors"
    asked = cli("evaluate", f"{world / 'bert'}+{skill}", "--tasks", task, "--json")
    assert json.loads(asked.out)["results"][0]["mean"] == pytest.approx(target["after"])
    # What is made of it keeps the head, and a folder made of it is a classifier for transformers.
    half = tmp_path / "half.safetensors"
    assert cli("skill", "scale", skill, "--factor", "1.0", "--out", half).code == 0
    assert open_weights(f"{world / 'bert'}+{half}").config["id2label"]["7"] == "h"  # type: ignore[index]
    both = tmp_path / "both.safetensors"
    assert cli("skill", "sum", skill, half, "--out", both).code == 0
    assert open_weights(f"{world / 'bert'}+{both}").config["id2label"]["7"] == "h"  # type: ignore[index]
    # Factors cannot hold the head, so it goes along whole.
    made = cli("skill", "convert", skill, "--to", "peft", "--base", world / "bert", "--out", tmp_path / "lora")
    assert made.code == 0, made.err
    assert open_weights(f"{world / 'bert'}+{tmp_path / 'lora'}").config["id2label"]["7"] == "h"  # type: ignore[index]
    applied = cli("skill", "apply", skill, "--base", world / "bert", "--out", tmp_path / "whole")
    assert applied.code == 0, applied.err
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    assert model.config.id2label[7] == "h"
    whole = cli("evaluate", tmp_path / "whole", "--tasks", task, "--json")
    assert json.loads(whole.out)["results"][0]["mean"] == pytest.approx(target["after"])


@pytest.mark.slow
def test_a_fresh_head_is_the_same_in_every_run_and_goes_on_to_the_same_bits(
    world: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(out: str, *more: Any) -> Any:
        task = world / "tasks" / "first"
        return cli("train", task, "--base", world / "bert", "--lora", 2, "--out", tmp_path / out, *HERE,
                   "--steps", 8, "--every", 4, *more)  # fmt: skip

    assert train("whole").code == 0
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 5:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert train("stopped").code == 130
    assert train("stopped").code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    assert cli("verify-run", tmp_path / "whole", "--step", 2, "-q").code == 0
    assert train("other", "--seed", 1).code == 0
    assert told(tmp_path / "other")["validations"][0] != told(tmp_path / "whole")["validations"][0]
    card = (tmp_path / "whole" / "adapter" / "README.md").read_text()
    assert "The base has no head" in card


def test_the_head_begins_as_transformers_begins_one(world: Path) -> None:
    from genepool.tasks import open_model
    from genepool.training.fresh_head import draw_head

    base = BaseWithHead(open_weights(world / "masked"), ClassHead("BertForSequenceClassification", ("x", "y")))
    assert set(base.modules) == {"classifier", "bert.pooler"}
    model = open_model(base).load()
    draw_head(model, base, 0)  # type: ignore[arg-type]
    tensors = dict(model.model.named_parameters())  # type: ignore[attr-defined]
    for name in ("classifier", "bert.pooler.dense"):
        assert float(tensors[f"{name}.weight"].std()) == pytest.approx(0.1, rel=0.3)
        assert not tensors[f"{name}.bias"].any()
    first = tensors["classifier.weight"].clone()
    draw_head(model, base, 0)  # type: ignore[arg-type]
    assert torch.equal(tensors["classifier.weight"], first)
    stored = open_weights(world / "masked")
    assert torch.equal(
        tensors["bert.encoder.layer.0.output.dense.weight"], stored.read("bert.encoder.layer.0.output.dense.weight")
    )


def test_an_adapter_of_peft_for_a_base_without_a_head_opens(
    world: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(world / "bert", num_labels=3)
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    adapted.save_pretrained(tmp_path / "theirs")
    tuned = open_weights(f"{world / 'bert'}+{tmp_path / 'theirs'}")
    assert tuned.config is not None
    assert list(tuned.config["id2label"].values()) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert torch.equal(
        tuned.read("classifier.weight"), adapted.base_model.model.classifier.modules_to_save["default"].weight
    )


def test_what_gives_no_head_is_refused(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    line = ["--out", tmp_path / "run", *HERE]
    refused = cli("train", world / "untold" / "first", "--base", world / "bert", *line)
    assert refused.code == 2
    assert "does not say its classes, and the base (BertModel) has no head" in refused.err
    assert not (tmp_path / "run").exists()
    wrong = shutil.copytree(world / "tasks" / "first", tmp_path / "wrong")
    (wrong / "task.yaml").write_text("classes: [a, b]\n")
    refused = cli("train", wrong, "--base", world / "bert", *line)
    assert refused.code == 2
    assert "is none of the task's classes" in refused.err or "is not a class of the task" in refused.err
    for classes in ("[a]", "[a, a]", "[a, '']", "a"):
        (wrong / "task.yaml").write_text(f"classes: {classes}\n")
        refused = cli("train", wrong, "--base", world / "bert", *line)
        assert refused.code == 2
        assert "task.yaml:classes" in refused.err
    damaged = tmp_path / "adapter"
    (damaged).mkdir()
    assert cli("train", world / "tasks" / "first", "--base", world / "bert", *line, "--steps", 1).code == 0
    notes = tmp_path / "run" / "adapter" / "genepool.json"
    for head in ({"architecture": "os.system", "classes": ["a", "b"]}, {"architecture": "X", "classes": 3}, [1]):
        notes.write_text(json.dumps({"genepool": 1, "head": head}))
        answer = cli("evaluate", f"{world / 'bert'}+{tmp_path / 'run' / 'adapter'}", "--tasks", world / "tasks")
        assert answer.code == 2
        assert "genepool.json:head" in answer.err


@pytest.mark.slow
def test_a_causal_model_needs_no_head(world: Path, small_world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    answer = cli("train", world / "tasks" / "first", "--base", small_world / "base", "--out", tmp_path / "run", *HERE,
                 "--steps", 1)  # fmt: skip
    assert answer.code == 0, answer.err
    assert "head" not in told(tmp_path / "run")


def test_a_plan_counts_the_head(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    from safetensors import safe_open

    file = tmp_path / "training.yaml"
    file.write_text(f"train: 1\nbase: {world / 'masked'}\ntasks: [{world / 'tasks' / 'first'}]\nlora: {{rank: 3}}\n"
                    "steps: 1\n")  # fmt: skip
    plan = cli("plan", file, "--json")
    assert plan.code == 0, plan.err
    assert cli("train", file, "--out", tmp_path / "run", "-q").code == 0
    with safe_open(tmp_path / "run" / "adapter" / "adapter_model.safetensors", "pt") as tensors:
        trained = sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118 - no mapping
    assert json.loads(plan.out)["parameters"] == trained
