"""Skills ranked by what they would do for a task, on the tiny testbed, against asking the skilled models directly."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genepool.errors import InputError
from genepool.skills import extract_skill, transfer
from genepool.skills.transfer import COMPONENTS, ENSEMBLE, rank_skills
from genepool.tasks import Example, LanguageModel, Task, TaskSettings, load_tasks
from genepool.tasks.likelihoods import loglikelihoods
from genepool.weights import Form, TensorWeights, Weights, open_weights


@pytest.fixture(scope="module")
def tasks(tiny_testbed: Any) -> dict[str, Task]:
    return {task.name: task for task in load_tasks(tiny_testbed.tasks)}


@pytest.fixture(scope="module")
def skills(tiny_testbed: Any) -> dict[str, Path]:
    found = {f"full/{name}": path for name, path in tiny_testbed.full.items()}
    return found | {f"lora/{name}": path for name, path in tiny_testbed.lora.items()}


def _per_token(weights: Weights, task: Task, examples: Any) -> float:
    """Log-likelihood per token, asked of a model of its own, as tasks ask."""
    model = LanguageModel.load(weights)
    prompts = [task.prompt_for(example, model) for example in examples]
    read = loglikelihoods(model, prompts, [example.answer for example in examples], 16)
    return float(np.mean([answer.logprob / answer.tokens for answer in read]))


@pytest.mark.parametrize("target", ["reverse", "upper"])
@pytest.mark.parametrize("cheap", [False, True])
def test_the_tasks_own_specialists_come_first(
    tiny_testbed: Any, tasks: dict[str, Task], skills: dict[str, Path], target: str, cheap: bool
) -> None:
    examples = tasks[target].examples("train")[:40]
    ranking = rank_skills(tiny_testbed.base, skills, examples, task=tasks[target], cheap=cheap, threads=1)
    assert {skill.name for skill in ranking.skills[:2]} == {f"full/{target}", f"lora/{target}"}
    assert ranking.components == (("alignment",) if cheap else ENSEMBLE)
    assert len(ranking.skills) == 8
    assert not ranking.skipped
    assert ranking.examples == 40
    assert json.loads(json.dumps(ranking.to_dict()))["base"]["likelihood"] == ranking.base["likelihood"]


def test_likelihood_is_that_of_the_model_itself_asked_as_the_task_asks(
    tiny_testbed: Any, tasks: dict[str, Task], skills: dict[str, Path]
) -> None:
    settings = TaskSettings(few_shot=2, separator=" ", prefix="", suffix="", max_new_tokens=6)
    task = Task("sort", tasks["sort"].splits, settings)
    examples = task.examples("train")[:25]
    ranking = rank_skills(tiny_testbed.base, skills, examples, task=task, components=["likelihood"], batch_size=7)
    base = open_weights(tiny_testbed.base)
    assert ranking.base["likelihood"] == pytest.approx(_per_token(base, task, examples), abs=1e-5)
    for skill in ranking.skills[::3]:
        expected = _per_token(open_weights(skills[skill.name], base=base), task, examples)
        assert skill.parts["likelihood"] == pytest.approx(expected, abs=1e-5)
    values = [skill.parts["likelihood"] for skill in ranking.skills]
    assert values == sorted(values, reverse=True)


def test_alignment_is_the_slope_of_the_likelihood(
    tiny_testbed: Any, tasks: dict[str, Task], skills: dict[str, Path]
) -> None:
    task, base = tasks["caesar"], open_weights(tiny_testbed.base)
    examples = task.examples("train")[:20]
    for name in ("full/caesar", "lora/sort"):
        tuned = open_weights(skills[name], base=base)
        deltas = {tensor: tuned.delta(tensor, base) for tensor in base.names()}
        size = sum(float(d.square().sum()) for d in deltas.values() if d is not None) ** 0.5
        step = 0.01 / size

        def moved(by: float, deltas: dict[str, Any] = deltas) -> Weights:
            tensors = {n: base.read(n) + (0 if d is None else by * d) for n, d in deltas.items()}
            return TensorWeights(tensors, "moved", folder=base.folder, config=base.config, aliases=base.aliases())

        up, down = (_per_token(moved(sign * step), task, examples) for sign in (1, -1))
        (ranked,) = rank_skills(base, {name: tuned}, examples, task=task, cheap=True).skills
        assert ranked.parts["alignment"] == pytest.approx((up - down) / 0.02, rel=0.02, abs=1e-3)


def test_each_skill_is_taken_out_again_to_the_last_bit(
    tiny_testbed: Any, tasks: dict[str, Task], skills: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of a few rows, so that tensors take several.
    monkeypatch.setattr(transfer, "_BLOCK_ENTRIES", 1000)
    loaded: list[LanguageModel] = []
    load = LanguageModel.load

    def keep(*arguments: Any, **options: Any) -> LanguageModel:
        loaded.append(load(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(LanguageModel, "load", keep)
    examples = tasks["sort"].examples("train")[:20]
    names = ["full/sort", "lora/sort", "full/upper"]
    forth, back, alone = (
        rank_skills(tiny_testbed.base, {name: skills[name] for name in some}, examples, components=COMPONENTS)
        for some in (names, names[::-1], names[2:])
    )
    parts = {skill.name: skill.parts for skill in forth.skills}
    assert parts == {skill.name: skill.parts for skill in back.skills}
    assert alone.skills[0].parts == parts["full/upper"]
    assert set(parts["full/sort"]) == set(COMPONENTS)
    base = open_weights(tiny_testbed.base)
    for model in loaded:
        for name, tensor in model.model.named_parameters():
            assert torch.equal(tensor, base.read(name)), name


def test_a_skill_counts_the_same_in_every_form(
    tmp_path: Path, tiny_testbed: Any, tasks: dict[str, Task], skills: dict[str, Path]
) -> None:
    base = open_weights(tiny_testbed.base)
    tuned = open_weights(skills["full/sort"], base=base)
    dense = extract_skill(tuned, base, tmp_path / "dense.safetensors")
    low = extract_skill(tuned, base, tmp_path / "low.safetensors", form=Form("low-rank", rank=16))
    examples = tasks["sort"].examples("train")[:20]
    given = [skills["full/sort"], dense, low]
    ranking = rank_skills(base, given, examples, task=tasks["sort"], components=COMPONENTS)
    parts = {skill.name: skill.parts for skill in ranking.skills}
    for part, value in parts[str(given[0])].items():
        assert parts[str(dense)][part] == pytest.approx(value, rel=1e-3, abs=1e-4)
    assert parts[str(low)]["likelihood"] == pytest.approx(parts[str(dense)]["likelihood"], abs=0.2)


def test_what_does_not_fit_is_named_and_the_rest_ranked(
    tmp_path: Path, tiny_testbed: Any, tasks: dict[str, Task], skills: dict[str, Path], save_model: Callable[..., Path]
) -> None:
    base = open_weights(tiny_testbed.base)
    other = save_model("other", {"model.embed_tokens.weight": torch.ones(98, 64)})
    tensors = {name: base.read(name) for name in base.names()}
    wide = save_model("wide", {**tensors, "model.norm.weight": torch.ones(65)})
    more = save_model("more", {**tensors, "model.extra.weight": torch.ones(2)})
    stranger = open_weights(save_model("stranger", {name: tensor + 0.5 for name, tensor in tensors.items()}))
    foreign = extract_skill(open_weights(skills["full/sort"]), stranger, tmp_path / "foreign.safetensors")
    given = {
        "good": skills["lora/sort"], "other": other, "wide": wide, "more": more, "foreign": foreign, "gone": "./gone"
    }  # fmt: skip
    examples = tasks["sort"].examples("train")[:20]
    ranking = rank_skills(base, given, examples, task=tasks["sort"])
    assert [skill.name for skill in ranking.skills] == ["good"]
    assert list(ranking.skipped) == ["other", "wide", "more", "foreign", "gone"]
    for name, reason in (
        ("other", "lacks the tensor"),
        ("wide", r"[65] where"),
        ("more", "has the tensor model.extra.weight"),
        ("foreign", "was extracted from another base"),
        ("gone", "the path does not exist"),
    ):
        assert reason in ranking.skipped[name]
    with pytest.raises(InputError, match="no skill can be ranked: .*lacks"):
        rank_skills(base, [other], examples, cheap=True)


def test_a_skill_that_overflows_comes_last(tiny_testbed: Any, tasks: dict[str, Task], skills: dict[str, Path]) -> None:
    base = open_weights(tiny_testbed.base)
    tensors = {name: base.read(name).clone() for name in base.names()}
    tensors["model.norm.weight"][:] = float("nan")
    broken = TensorWeights(tensors, "broken", aliases=base.aliases())
    given = {"broken": broken, "good": skills["lora/upper"]}
    ranking = rank_skills(base, given, tasks["upper"].examples("train")[:20], components=COMPONENTS)
    assert [skill.name for skill in ranking.skills] == ["good", "broken"]
    assert ranking.to_dict()["skills"][1]["parts"]["likelihood"] is None


def test_features_are_left_out_where_no_classes_are(tiny_testbed: Any, skills: dict[str, Path]) -> None:
    different = [Example(str(i), f"U:{letter}ab=", (f"{letter.upper()}AB",)) for i, letter in enumerate("abcdefgh")]
    some = {name: skills[name] for name in ("lora/upper", "lora/sort")}
    ranking = rank_skills(tiny_testbed.base, some, different, components=["likelihood", "logme", "tmi"])
    assert ranking.components == ("likelihood",)
    assert set(ranking.left_out) == {"logme", "tmi"}
    assert "fewer than two classes" in ranking.left_out["tmi"]
    assert ranking.classes == ""
    with pytest.raises(InputError, match="fewer than two classes"):
        rank_skills(tiny_testbed.base, some, different, components=["h_score"])


def test_answers_that_repeat_are_the_classes(tiny_testbed: Any, skills: dict[str, Path]) -> None:
    words = ["ab", "ac", "ab", "ac", "ab", "ac"]
    repeated = [Example(str(i), f"={i}:", (word,)) for i, word in enumerate(words)]
    some = {"a": skills["lora/upper"]}
    ranking = rank_skills(tiny_testbed.base, some, repeated, components=COMPONENTS)
    assert (ranking.classes, ranking.left_out) == ("answer", {})
    # The same first token throughout, so these tell two classes apart only as whole answers.
    once = [Example(str(i), f"={i}:", (f"a{letter}",)) for i, letter in enumerate("bcdefg")]
    assert set(rank_skills(tiny_testbed.base, some, once, components=COMPONENTS).left_out) == {
        "tmi", "logme", "h_score"
    }  # fmt: skip


def test_input_that_cannot_be_used(tiny_testbed: Any, tasks: dict[str, Task], skills: dict[str, Path]) -> None:
    base, one, good = tiny_testbed.base, [skills["lora/sort"]], tasks["sort"].examples("train")[:4]
    patterns = Task("patterns", {"all": good}, TaskSettings(metric="regex"))
    for expected, arguments, options in (
        ("no component 'likelyhood'.*Did you mean 'likelihood'", (base, one, good), {"components": ["likelyhood"]}),
        ("no component is named", (base, one, good), {"components": []}),
        (
            "cheap uses alignment alone, and components are named",
            (base, one, good),
            {"components": ["tmi"], "cheap": True},
        ),
        ("no skill is named", (base, [], good), {}),
        ("is named twice", (base, one * 2, good), {}),
        ("there are no examples", (base, one, []), {}),
        ("patterns", (base, one, good), {"task": patterns}),
        ("has no tokens", (base, one, [Example("7", "S:ab=", ("",))]), {}),
        ("exceed the context", (base, one, [Example("8", "S:" + "a" * 70, ("b",))]), {}),
    ):
        with pytest.raises(InputError, match=expected):
            rank_skills(*arguments, **options)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_no_more_files_are_open_than_one_skill_has(
    tiny_testbed: Any, tasks: dict[str, Task], skills: dict[str, Path]
) -> None:
    examples = tasks["sort"].examples("train")[:4]
    rank_skills(tiny_testbed.base, [skills["lora/sort"]], examples)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = len(list(Path("/proc/self/fd").iterdir())) + 12
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))
    try:
        many = {str(i): skills["full/sort" if i % 2 else "lora/sort"] for i in range(40)}
        assert len(rank_skills(tiny_testbed.base, many, examples, components=COMPONENTS).skills) == 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
