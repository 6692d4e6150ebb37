"""The composers that fold: each does what its formula says, and its fold is what it is without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compose_world
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from genepool.composition import all_composers, load_composition
from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.composers import lorahub as lorahub_file
from genepool.composition.composers.scalearn import OutputScales, ScaLearnOptions
from genepool.composition.fitting import CoefficientFit
from genepool.composition.learned_merge import LearnedMerge
from genepool.composition.trimmed import TrimmedVectors
from genepool.composition.vectors import TaskVectors
from genepool.tasks import open_model
from genepool.weights import TensorWeights, open_weights
from genepool.weights.in_memory import ResidentChange

Cli = Callable[..., Any]
LEARNED = sorted(name for name, composer in all_composers().items() if issubclass(composer, LearnedMerge))
ODD: dict[str, dict[str, Any]] = {"atlas": {"partitions": 3}, "scalearn": {"scales": "layer", "shared": True}}


def told(answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    return dict(json.loads(answer.out))


def coefficients(folder: Path) -> torch.Tensor:
    return load_file(folder / "router.safetensors")["coefficients"]


@pytest.mark.slow
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", LEARNED)
def test_a_fold_is_what_the_composition_is(compose: Any, tmp_path: Path, name: str, odd: bool) -> None:
    """The same fit, written both ways, has the same tensors; and a fit is a function of its inputs."""
    settings = ODD.get(name, {"learning_rate": 0.05}) if odd else {}
    assert compose("kept", "--keep", method=name, **settings).code == 0
    record = told(compose("folded", "--json", method=name, **settings))["record"]
    assert record["steps"] == 4
    kept, folded = open_weights(tmp_path / "kept"), open_weights(tmp_path / "folded")
    assert set(kept.names()) == set(folded.names())
    assert all(torch.equal(kept.read(name), folded.read(name)) for name in kept.names())
    assert load_composition(tmp_path / "kept").fingerprint == load_composition(tmp_path / "kept").fingerprint
    assert record["loss"][0] != record["loss"][-1]


# ---------------------------------------------------------------------- trimmed vectors


values = st.lists(st.integers(-5, 5), min_size=12, max_size=12)


@given(first=values, second=values, density=st.sampled_from([0.25, 0.5, 1.0]))
def test_trimmed_vectors_keep_the_largest_of_the_elected_sign(
    first: list[int], second: list[int], density: float
) -> None:
    base = TensorWeights({"a": torch.zeros(2, 4), "b": torch.zeros(4)})
    flat = [torch.tensor(one, dtype=torch.float32) for one in (first, second)]
    changes = [ResidentChange({"a": one[:8].view(2, 4), "b": one[8:]}, base, "t") for one in flat]
    found = TrimmedVectors(TaskVectors(base, changes), density).changes()

    kept = []
    for one in flat:
        # A tensor that the skill does not move is none of its entries.
        size = sum(len(part) for part in (one[:8], one[8:]) if part.any())
        limit = one.abs().sort(descending=True).values[max(1, round(density * size)) - 1]
        kept.append(torch.where(one.abs() >= limit, one, 0.0))
    sign = (kept[0] + kept[1]).sign()
    for change, one in zip(found, kept, strict=True):
        expected = torch.where(one * sign > 0, one, 0.0)
        assert torch.equal(torch.cat([change.whole("a").flatten(), change.whole("b").flatten()]), expected)


@pytest.mark.slow
def test_a_bundled_skill_is_trimmed_like_the_fine_tune_that_it_is_a_copy_of(
    compose: Any, small_bed: Path, tmp_path: Path
) -> None:
    """A fine-tune holds tensors that it left as they were; its skill file does not name them."""
    base = load_file(small_bed / "base" / "model.safetensors")
    tuned = load_file(small_bed / "full" / "first" / "model.safetensors")
    biggest = max(base, key=lambda name: base[name].numel())
    frozen = compose_world.save(tmp_path / "frozen", {**tuned, biggest: base[biggest]})
    for out, more in (("kept", ()), ("bundled", ("--bundle",))):
        answer = compose(out, "--keep", *more, method="adamerging_pp", skills=(frozen, "second"))
        assert answer.code == 0, answer.err
    kept, bundled = open_weights(tmp_path / "kept"), open_weights(tmp_path / "bundled")
    assert all(torch.equal(kept.read(name), bundled.read(name)) for name in kept.names())


# ---------------------------------------------------------------------- aTLAS


@pytest.mark.slow
def test_parts_have_scales_of_their_own(compose: Any, tmp_path: Path) -> None:
    # So few that none is held out, and the last state is the result.
    every = ("--examples", 3)
    compose("one", "--keep", *every, method="atlas", partitions=4)
    found = coefficients(tmp_path / "one")
    assert found.shape[2] == 4
    assert len(found[0, 0].unique()) > 1
    compose("two", "--keep", *every, method="atlas", partitions=4, parts_seed=1)
    assert not torch.equal(found, coefficients(tmp_path / "two"))


@pytest.mark.slow
def test_a_single_skill_unlearns_its_task_while_another_is_held(compose: Any, small_bed: Path, tmp_path: Path) -> None:
    record = told(
        compose("out", "--task", "first", "--task", "plain", "--json", method="atlas", skills=("first",),
                forget="[first]", control=0, steps=12, batch=100, patience=0, every=1)
    )["record"]  # fmt: skip
    # Both losses are in one number, which falls: that of the task to unlearn counts with a minus.
    assert record["loss"][-1] < record["loss"][0]
    base, after = (open_model(path).load() for path in (small_bed / "base", tmp_path / "out"))
    rows = [json.loads(line) for line in (small_bed / "tasks" / "first" / "train.jsonl").read_text().splitlines()]
    prompts, answers = [row["prompt"] for row in rows], [int(row["answer"]) for row in rows]

    def likelihood(model: Any) -> float:
        return float(model.class_scores(prompts)[range(len(rows)), answers].mean())

    assert likelihood(after) < likelihood(base)


@pytest.mark.slow
def test_a_task_is_forgotten_and_the_control_set_holds(cli: Cli, tiny_testbed: Any, tmp_path: Path) -> None:
    """A model that was taught a cipher loses it, and keeps what it could before."""
    bed, out = tiny_testbed.folder, tmp_path / "out"
    base = bed / "full" / "caesar"
    made = cli(
        "compose", "atlas", bed / "full" / "reverse", bed / "base", "--base", base, "--tasks", bed / "tasks",
        "--task", "caesar", "--task", "generic", "--examples", 32, "--out", out, "--json",
        *compose_world.quick(forget="[caesar]", learning_rate=0.1, steps=40, every=4, batch=16, patience=0),
    )  # fmt: skip
    record = told(made)["record"]
    control = dict(record["control"])
    assert control[record["best_step"]] >= 0.95 * control[0]
    # By how much it falls hangs on how the processor rounds.
    assert min(control.values()) < control[0], "nothing was at stake"
    asked = ("--tasks", bed / "tasks", "--task", "caesar", "--task", "generic", "--limit", 60, "--json")
    rows = told(cli("evaluate", base, out, *asked))["results"]
    means = {(Path(row["model"]).name, row["task"]): row["mean"] for row in rows}
    assert means["out", "caesar"] < means["caesar", "caesar"] - 0.5
    assert means["out", "generic"] > means["caesar", "generic"] - 0.15


@pytest.mark.slow
def test_where_no_state_keeps_the_control_nothing_changes_and_it_is_said(
    compose: Any, small_bed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.8, *[0.75] * 9])
    monkeypatch.setattr(CoefficientFit, "_controls_right", lambda *_: next(shares))
    answer = compose("out", "--json", method="atlas", forget="[first]", learning_rate=0.1, steps=6, every=2, patience=0)
    record = told(answer)["record"]
    assert record["best_step"] == 0
    assert record["control"] == [[0, 0.8], [2, 0.75], [4, 0.75], [6, 0.75]]
    assert "Warning: No state after the start" in (tmp_path / "out" / "README.md").read_text()
    base, found = open_weights(small_bed / "base"), open_weights(tmp_path / "out")
    assert all(torch.equal(base.read(name), found.read(name)) for name in base.names())


@pytest.mark.slow
def test_without_held_out_examples_no_control_can_hold(compose: Any) -> None:
    answer = compose("out", "--examples", 3, method="atlas", forget="[first]")
    assert answer.code == 2
    assert "has too few examples to hold any out, so nothing tells whether it is kept" in answer.err


@pytest.mark.parametrize(
    ("forget", "message"),
    [("[nosuch]", "there is no task 'nosuch'"), ("[first, second, third, plain]", "every task is to be unlearned")],
)
def test_tasks_to_unlearn_that_make_no_sense_are_refused(compose: Any, forget: str, message: str) -> None:
    answer = compose("out", method="atlas", forget=forget)
    assert answer.code == 2
    assert message in answer.err


# ---------------------------------------------------------------------- LoraHub


def lorahub(cli: Cli, bed: Path, out: Path, *options: Any) -> Any:
    adapters = [bed / "lora" / name for name in ("one", "two")]
    return cli(
        "compose", "lorahub", *adapters, "--base", bed / "base", "--tasks", bed / "tasks", "--examples", 4,
        "--out", out, "--set", "evaluations=9", "-q", *options,
    )  # fmt: skip


@pytest.mark.slow
def test_lorahub_finds_what_is_best_of_what_it_tried(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    record = told(lorahub(cli, text_bed, tmp_path / "out", "--json"))["record"]
    assert len(record["loss"]) == record["evaluations"] == 9
    assert record["loss"][record["best_evaluation"] - 1] == min(record["loss"])
    assert all(-1.5 <= weight <= 1.5 for weight in record["coefficients"].values())


@pytest.mark.slow
def test_an_adapter_holds_the_weighted_sum_of_adapters_without_loss(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    """As PEFT loads it: ranks of 2 and 3 side by side, each product by its weight, minus signs too."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    record = told(lorahub(cli, text_bed, tmp_path / "out", "--json"))["record"]
    assert lorahub(cli, text_bed, tmp_path / "kept", "--keep").code == 0
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == 5
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(text_bed / "base"), tmp_path / "out")
    tensors = merged.merge_and_unload().state_dict()
    kept = open_weights(tmp_path / "kept")
    base = open_weights(text_bed / "base")
    parts = [open_weights(text_bed / "lora" / name, base=base) for name in ("one", "two")]
    for name in base.names():
        weights = record["coefficients"].values()
        deltas = [part.delta(name, base) for part in parts]
        change = sum((w * d for w, d in zip(weights, deltas, strict=True) if d is not None), torch.zeros(()))
        assert torch.allclose(tensors[name], base.read(name) + change, atol=1e-5), name
        assert torch.allclose(kept.read(name), tensors[name], atol=1e-5), name
    asked = cli("evaluate", f"{text_bed / 'base'}+{tmp_path / 'out'}", "--tasks", text_bed / "tasks")
    assert asked.code == 0, asked.err


@pytest.mark.slow
def test_an_interrupted_search_goes_on_where_it_was(
    cli: Cli, text_bed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = told(lorahub(cli, text_bed, tmp_path / "whole", "--json"))["record"]
    loss, calls = lorahub_file.answers_loss, [0]

    def counted(*arguments: Any) -> float:
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return float(loss(*arguments))

    monkeypatch.setattr(lorahub_file, "answers_loss", counted)
    assert lorahub(cli, text_bed, tmp_path / "out").code == 130
    calls[0] = 100
    assert told(lorahub(cli, text_bed, tmp_path / "out", "--json"))["record"] == whole
    # Five of the nine were known.
    assert calls[0] == 104


# ---------------------------------------------------------------------- ScaLearn


@pytest.mark.slow
def test_scaled_outputs_fold_into_one_adapter(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    """Row j of a layer's change is the sum over the skills of omega_ij times row j of theirs."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapters = [text_bed / "lora" / name for name in ("one", "two")]
    call = (
        "compose",
        "scalearn",
        *adapters,
        "--base",
        text_bed / "base",
        "--tasks",
        text_bed / "tasks",
        "--examples",
        8,
    )
    assert cli(*call, *compose_world.quick(), "--out", tmp_path / "out").code == 0
    assert cli(*call, *compose_world.quick(), "--keep", "--out", tmp_path / "kept").code == 0
    omega = coefficients(tmp_path / "kept")
    names = json.loads((tmp_path / "kept" / "composition.json").read_text())["labels"]["tensors"]
    base = open_weights(text_bed / "base")
    parts = [open_weights(adapter, base=base) for adapter in adapters]
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(text_bed / "base"), tmp_path / "out")
    tensors = merged.merge_and_unload().state_dict()
    assert names
    for place, name in enumerate(names):
        rows = base.info(name).shape[0]
        deltas = [part.delta(name, base) for part in parts]
        change = sum(omega[i, place, :rows, None] * delta for i, delta in enumerate(deltas) if delta is not None)
        assert torch.allclose(tensors[name], base.read(name) + change, atol=1e-5), name
    # Around 2 / k at the start, and learned from there.
    assert float((omega - 1).abs().max()) < 0.1
    assert len(omega[0, 0].unique()) > 1


def test_dropped_scales_belong_to_the_step_and_count_on_the_average() -> None:
    layout = CoefficientLayout(2, ("a.0.w", "a.1.w"), 500, by_rows=True)
    scales = OutputScales(layout, ScaLearnOptions(dropout=0.25), seed=3)
    learned = scales.start()
    whole, dropped = scales.coefficients(learned), scales.in_step(learned, 4)
    assert torch.equal(dropped, scales.in_step(learned, 4))
    assert not torch.equal(dropped, scales.in_step(learned, 5))
    kept = dropped != 0
    assert 0.2 < 1 - float(kept.double().mean()) < 0.3
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    plain = OutputScales(layout, ScaLearnOptions(dropout=0), seed=3)
    assert torch.equal(plain.in_step(learned, 4), whole)


@pytest.mark.slow
def test_dropout_of_scales_is_an_option(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    adapters = [text_bed / "lora" / name for name in ("one", "two")]
    call = ("compose", "scalearn", *adapters, "--base", text_bed / "base", "--tasks", text_bed / "tasks", "--keep")
    for name, share in (("none", 0), ("some", 0.5)):
        quick = compose_world.quick(dropout=share, patience=0)
        assert cli(*call, "--examples", 8, *quick, "--out", tmp_path / name).code == 0
    assert not torch.equal(coefficients(tmp_path / "none"), coefficients(tmp_path / "some"))


@pytest.mark.slow
def test_text_without_labels(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    """Each adapter writes its own answers, and the merge learns to predict their tokens as it does."""
    adapters = [text_bed / "lora" / name for name in ("one", "two")]
    answer = cli(
        "compose", "adamerging", *adapters, "--base", text_bed / "base", "--tasks", text_bed / "tasks",
        "--examples", 12, "--out", tmp_path / "out", "--json", "-q",
        *compose_world.quick(steps=12, batch=100, learning_rate=0.05),
    )  # fmt: skip
    record = told(answer)["record"]
    assert record["loss"][-1] < record["loss"][0]
    assert told(cli("evaluate", tmp_path / "out", "--tasks", text_bed / "tasks", "--json"))["results"]
