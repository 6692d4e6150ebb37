"""What no composer can use is one clear line and exit 2, whichever it is; and a plan counts what each keeps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compose_world
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_models import write_model

from genepool.composition import all_composers
from genepool.composition.composers import fisher, lorahub
from genepool.composition.fitting import FitOptions
from genepool.composition.learned_merge import LearnedMerge
from genepool.composition.steps import FusedSteps, WholeSteps

Cli = Callable[..., Any]
COMPOSERS = all_composers()
OF_CHANGES = [name for name, one in COMPOSERS.items() if one.members == "changes"]
LEARNED = [name for name, one in COMPOSERS.items() if issubclass(one, LearnedMerge)]
UNLABELLED = [
    name
    for name, one in COMPOSERS.items()
    if issubclass(one.Options, FitOptions) and one.Options.model_fields["objective"].default == "match"
]


def refused(answer: Any, *parts: str) -> None:
    """Exit 2, one line that says all of this."""
    lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert answer.code == 2, answer.err
    assert len(lines) == 1
    assert "Traceback" not in answer.err
    for part in parts:
        assert part in lines[0]


class Bed:
    """A copy of the text world that a test may damage, and the command on it."""

    def __init__(self, cli: Cli, world: Path, place: Path) -> None:
        self._cli, self.place = cli, place / "bed"
        shutil.copytree(world, self.place)

    def compose(self, method: str, *options: Any, base: str = "base", count: int | None = None, **skills: Path) -> Any:
        low, high = COMPOSERS[method].skills
        count = (min(2, high) if high else max(2, low)) if count is None else count
        named = [skills.get(name, self.place / "lora" / name) for name in ("one", "two")[:count]]
        out = self.place / "out"
        answer = self._cli(
            "compose", method, *named, "--base", self.place / base, "--tasks", self.place / "tasks", "--examples", 8,
            "--out", out, *options,
        )  # fmt: skip
        if answer.code == 2:
            assert not out.exists()
            assert not list(self.place.glob(".out*"))
        return answer


@pytest.fixture
def bed(cli: Cli, text_bed: Path, tmp_path: Path) -> Bed:
    return Bed(cli, text_bed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(COMPOSERS))
def test_a_skill_with_nan_is_named_with_its_tensor(bed: Bed, method: str) -> None:
    file = bed.place / "lora" / "one" / "adapter_model.safetensors"
    tensors = load_file(file)
    broken = next(name for name in tensors if "layers.1.mlp.up_proj.lora_B" in name)
    tensors[broken][1, 0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    refused(bed.compose(method), "lora/one:", "layers.1.mlp.up_proj", "holds NaN or infinity")


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(COMPOSERS))
def test_skills_of_another_base_a_wrong_number_and_no_examples(bed: Bed, method: str) -> None:
    write_model(bed.place / "wider", hidden_size=24)
    refused(bed.compose(method, base="wider"), "lora/one")
    low, high = COMPOSERS[method].skills
    if low > 1:
        refused(bed.compose(method, count=1), f"{method} needs {low} or more skills, got 1")
    if high is not None:
        refused(bed.compose(method, count=high + 1), f"{method} needs {high} skill{'s' * (high != 1)}, got {high + 1}")
    (bed.place / "tasks" / "one" / "train.jsonl").write_text("")
    refused(bed.compose(method), "one")


@pytest.mark.slow
@pytest.mark.parametrize("method", OF_CHANGES)
def test_a_skill_that_numbers_its_tokens_otherwise(bed: Bed, method: str) -> None:
    """Weights of the same shapes, whose rows are other tokens: nothing but the tokenizer tells."""
    other = bed.place / "other"
    shutil.copytree(bed.place / "base", other)
    tensors = load_file(other / "model.safetensors")
    save_file({n: one + 0.01 for n, one in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    said = json.loads((other / "tokenizer.json").read_text())
    vocabulary = said["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(said))
    refused(bed.compose(method, one=other), "other", "vocabular")


@pytest.mark.slow
@pytest.mark.parametrize("method", UNLABELLED)
def test_inputs_on_which_a_skill_always_answers_alike(bed: Bed, method: str) -> None:
    """Without labels nothing can be learned from one class; a skill writes the same after texts of one end."""
    file = bed.place / "lora" / "one" / "adapter_model.safetensors"
    save_file({name: one * 0 for name, one in load_file(file).items()}, file, {"format": "pt"})
    base = bed.place / "base" / "model.safetensors"
    tensors = load_file(base)
    # Without attention and MLP the last token alone decides, and it is the same in all prompts.
    quiet = {name: one * 0 if "o_proj" in name or "down_proj" in name else one for name, one in tensors.items()}
    save_file(quiet, base, {"format": "pt"})
    refused(bed.compose(method), "one", "nearly alike", "so nothing can be learned from them without labels")


@pytest.mark.slow
@pytest.mark.parametrize("method", LEARNED)
def test_a_loss_that_is_no_number_ends_at_the_last_good_state(
    bed: Bed, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def failing(plain: Callable[..., float]) -> Callable[..., float]:
        def counted(self: Any, number: int, losses: Any) -> float:
            calls[0] += 1
            return float("nan") if calls[0] == 4 else plain(self, number, losses)

        return counted

    for kind in (WholeSteps, FusedSteps):
        monkeypatch.setattr(kind, "gradients", failing(kind.gradients))
    quick = compose_world.quick(steps=8, every=1, check_inputs=False)
    answer = bed.compose(method, "--json", *quick)
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)["record"]
    assert record["steps"] == 3
    assert "the loss of step 4 is not a finite number" in record["stopped"]
    calls[0] = 3
    shutil.rmtree(bed.place / "out")
    refused(bed.compose(method, *quick), "the loss of step 1 is not a finite number before anything was learned")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "file", "setting"), [("lorahub", lorahub, ""), ("fisher", fisher, "search=3")])
def test_a_search_without_a_finite_loss(
    bed: Bed, method: str, file: Any, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "answers_loss", lambda *_: float("nan"))
    options = ("--set", setting) if setting else ("--set", "evaluations=3")
    refused(bed.compose(method, *options), "no composition has a finite loss")


# ---------------------------------------------------------------------- plans


def planned(cli: Cli, bed: Path, tmp_path: Path, method: str, **options: Any) -> dict[str, int]:
    file = tmp_path / f"{method}.yaml"
    skills = [str(bed / "lora" / name) for name in ("one", "two")]
    said = {"compose": 1, "method": method, "base": str(bed / "base"), "skills": skills, "tasks": str(bed / "tasks")}
    file.write_text(yaml.safe_dump({**said, "options": options}))
    answer = cli("plan", file, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["peak_bytes"] == found["total_bytes"]
    return dict(found)


def test_a_plan_counts_statistics_and_factors(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    """Two layers of q_proj (16 x 16) and up_proj (24 x 16), two skills of ranks 2 and 3."""
    matrices = ((16, 16), (24, 16)) * 2
    entries = sum(rows * columns for rows, columns in matrices)
    grams = sum(columns**2 for _, columns in matrices)
    rank = 2 + 3
    between = sum(rank * (rows + columns) + 2 * rank**2 for rows, columns in matrices)
    for method, kept in (
        ("fisher", 2 * 4 * entries),
        ("regmean", 2 * 4 * grams + 8 * grams),
        ("knots", 4 * between),
        ("emr", 0),
        ("adamerging", 0),
    ):
        assert planned(cli, text_bed, tmp_path, method)["kept_bytes"] == kept, method
    # A quarter of 16 singular values is 4; the largest matrix is worked on whole.
    factors = 2 * 4 * sum(4 * (rows + columns) for rows, columns in matrices)
    found = planned(cli, text_bed, tmp_path, "twin_merging", rank=0.25)
    assert found["kept_bytes"] == factors + 8 * 24 * 16 + 16 * 16**2
    assert planned(cli, text_bed, tmp_path, "knots")["network_bytes"] == 0


@pytest.mark.slow
def test_what_is_kept_is_what_was_planned(cli: Cli, bed: Bed, tmp_path: Path) -> None:
    for method in ("fisher", "regmean", "twin_merging"):
        plan = planned(cli, bed.place, tmp_path, method)
        assert bed.compose(method, "--keep").code == 0
        held = load_file(bed.place / "out" / "router.safetensors")
        took = sum(one.numel() * 4 for name, one in held.items() if not name.startswith("router/"))
        assert took <= plan["kept_bytes"]
        # A decomposition takes more than the few factors of these tiny matrices.
        assert method == "twin_merging" or plan["kept_bytes"] <= 3 * took
        shutil.rmtree(bed.place / "out")


# ---------------------------------------------------------------------- Fisher's weights


@pytest.mark.slow
def test_searched_weights_are_the_best_of_those_tried_and_are_saved(bed: Bed) -> None:
    answer = bed.compose("fisher", "--keep", "--json", "--set", "search=6", "--set", "labels=sampled")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)["record"]
    assert len(record["loss"]) == record["evaluations"] == 6
    assert record["loss"][record["best_evaluation"] - 1] == min(record["loss"])
    said = json.loads((bed.place / "out" / "composition.json").read_text())
    assert said["parameters"]["weights"] == list(record["weights"].values())
    assert said["parameters"]["search"] == 0
    assert all(0 < weight <= 1 for weight in record["weights"].values())
    shutil.rmtree(bed.place / "out")
    refused(bed.compose("fisher", "--set", "search=6", "--set", "weights=[1, 2]"), "set one of the two")


@pytest.mark.slow
def test_a_router_whose_loss_is_no_number_keeps_its_last_good_state(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    entropy, calls = nn.functional.cross_entropy, [0]

    def failing(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls[0] += logits.requires_grad
        loss = entropy(logits, targets)
        return loss * float("nan") if logits.requires_grad and calls[0] == 4 else loss

    monkeypatch.setattr(nn.functional, "cross_entropy", failing)
    answer = bed.compose("twin_merging", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["record"]["steps"] == 3
    calls[0] = 3
    shutil.rmtree(bed.place / "out")
    refused(bed.compose("twin_merging"), "the loss of step 1 is not a finite number before the router learned anything")
