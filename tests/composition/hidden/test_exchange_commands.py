"""`compose calm` and `compose x_cross` as they are typed: what they learn, how they resume, and what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import write_model

from genepool.composition.kept_fit import HeldOutLooks
from genepool.tasks import Decoding, open_model

Cli = Callable[..., Any]
SKILLS = {"calm": ("one",), "x_cross": ("one", "two")}


def compose(cli: Cli, bed: Path, out: Path, method: str, *options: Any, base: str = "base", **settings: Any) -> Any:
    skills = [bed / "lora" / name for name in SKILLS[method]]
    usual = {"steps": 6, "every": 3, "batch": 4, "learning_rate": 0.01, **settings}
    chosen = [word for key, value in usual.items() for word in ("--set", f"{key}={value}")]
    return cli(
        "compose", method, *skills, "--base", bed / base, "--tasks", bed / "tasks", "--examples", 12, "--out", out,
        "--json", *chosen, *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exchange")


@pytest.fixture(params=SKILLS)
def made(cli: Cli, text_bed: Path, kept: Path, request: pytest.FixtureRequest) -> Path:
    """A composition of either kind, made once."""
    out = kept / request.param
    if not out.exists():
        answer = compose(cli, text_bed, out, request.param)
        assert answer.code == 0, answer.err
        said = json.loads(answer.out)
        assert said["form"] == "composition"
        record = said["record"]
        assert record["steps"] == 6
        assert record["examples"]["one"] == {"learn": 9, "held": 3}
        looks = dict(record["held_out"])
        # What was learned helps with inputs that were not learned from.
        assert min(looks.values()) < looks[0]
    return out


def test_what_is_composed_stands_wherever_a_model_is_named(cli: Cli, made: Path, text_bed: Path) -> None:
    tasks = text_bed / "tasks"
    assert cli("evaluate", made, "--tasks", tasks, "--json").code == 0
    again = cli("evaluate", made, "--tasks", tasks, "--json")
    assert json.loads(again.out)["evaluated"] == 0
    assert cli("compare", text_bed / "base", made, "--tasks", tasks).code == 0
    told = cli("generate", made, "--prompt", "abc=", "--prompt", "fgh=", "--max-new-tokens", 4)
    assert told.code == 0, told.err
    written = open_model(made).load().generate(["abc=", "fgh="], Decoding(max_new_tokens=4))
    assert told.out.splitlines() == written
    folded = cli("inspect", made)
    assert folded.code == 2
    assert "no weights do the same" in folded.err


def test_a_damaged_folder_is_refused(cli: Cli, made: Path, text_bed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    tensors = load_file(made / "router.safetensors")
    name = "0.key.weight" if "0.key.weight" in tensors else "maps.1.weight"
    calm = "1.project.weight" in tensors
    for wrong, message in (
        ({name: None}, f"{name}: "),
        ({name: tensors[name][:, :-1].contiguous()}, f"{name}: has shape"),
        ({name: tensors[name] * float("nan")}, "no finite numbers"),
        # The last connection alone is of another width.
        *([({"1.project.weight": torch.zeros(16, 1600)}, "its connections are of widths [16, 1600]")] * calm),
    ):
        held = {key: value for key, value in {**tensors, **wrong}.items() if value is not None}
        save_file(held, out / "router.safetensors", {"format": "pt"})
        answer = cli("evaluate", out, "--tasks", text_bed / "tasks")
        assert answer.code == 2
        assert message in answer.err
        assert "Traceback" not in answer.err
    if calm:
        save_file(tensors, out / "router.safetensors", {"format": "pt"})
        said = json.loads((out / "composition.json").read_text())
        said["parameters"]["connections"] = 1
        (out / "composition.json").write_text(json.dumps(said))
        answer = cli("evaluate", out, "--tasks", text_bed / "tasks")
        assert answer.code == 2
        assert "router.safetensors:1.gain: the composition has no such tensor, by its options" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("method", SKILLS)
def test_a_stopped_command_goes_on_to_the_same_folder(
    cli: Cli, text_bed: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole = tmp_path / "whole"
    assert compose(cli, text_bed, whole, method).code == 0
    add = HeldOutLooks.add

    def stopped(self: HeldOutLooks, step: int, *others: Any) -> bool:
        ended = add(self, step, *others)
        if step == 3:
            raise KeyboardInterrupt
        return ended

    monkeypatch.setattr(HeldOutLooks, "add", stopped)
    assert compose(cli, text_bed, tmp_path / "out", method).code == 130
    monkeypatch.setattr(HeldOutLooks, "add", add)
    again = compose(cli, text_bed, tmp_path / "out", method)
    assert "going on after step 3" in again.err
    for name in ("router.safetensors", "composition.json"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()


def test_what_cannot_read_side_by_side_is_one_line(cli: Cli, text_bed: Path, small_bed: Path, tmp_path: Path) -> None:
    bed = tmp_path / "bed"
    shutil.copytree(text_bed, bed)
    shutil.rmtree(bed / "lora")
    write_model(bed / "lora" / "one", seed=5, merging=True)
    write_model(bed / "lora" / "two", seed=5, num_hidden_layers=1)
    answer = compose(cli, bed, tmp_path / "out", "x_cross")
    assert answer.code == 2
    assert "has other tokens than" in answer.err
    assert not (tmp_path / "out").exists()
    write_model(bed / "lora" / "one", seed=6)
    answer = compose(cli, bed, tmp_path / "out", "x_cross")
    assert answer.code == 2
    assert "has width 16 and 1 layers, and" in answer.err
    answer = compose(cli, bed, tmp_path / "out", "calm", connections=3)
    assert answer.code == 2
    assert "got 3 connections, and a model has 2 layers" in answer.err
    answer = cli(
        "compose", "calm", small_bed / "full" / "first", "--base", small_bed / "base", "--tasks", small_bed / "tasks",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 2
    assert "calm needs a causal language model, got a model of the digits testbed" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("method", SKILLS)
def test_two_bytes_are_enough_and_small_batches_give_the_same(
    cli: Cli, text_bed: Path, tmp_path: Path, method: str
) -> None:
    assert compose(cli, text_bed, tmp_path / "half", method, "--dtype", "bfloat16", steps=2).code == 0
    losses = []
    for name, options in (("whole", {}), ("parts", {"micro_batch": 1})):
        answer = compose(cli, text_bed, tmp_path / name, method, steps=4, **options)
        assert answer.code == 0, answer.err
        losses.append(json.loads(answer.out)["record"]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
