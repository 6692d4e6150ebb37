"""PSEC, L2M and CoTASP: their formulas on policies, what they keep of earlier tasks, and the commands that use them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import policy_world
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from genepool.composition.composers.cotasp import switches, task_weights
from genepool.composition.context.modulators import AttachedPool
from genepool.composition.context.sparse_codes import (
    OnlineDictionary,
    new_dictionary,
    sparse_code,
    text_vector,
)
from genepool.composition.kept_fit import HeldOutLooks
from genepool.composition.mixing.mixtures import ChosenSkills
from genepool.composition.saved_model import load_composition
from genepool.errors import InputError
from genepool.tasks import load_tasks, open_model
from genepool.tasks.answers import Question
from genepool.tasks.models.policy.network import PolicyNetwork, PolicyShape

pytest.importorskip("gymnasium")
Cli = Callable[..., Any]
SEEN = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
TEXTS = [" ".join(map(str, row)) for row in SEEN.tolist()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_world.build(tmp_path_factory.mktemp("policies"))


@pytest.fixture
def composed(cli: Cli, world: Path, tmp_path: Path) -> Callable[..., Path]:
    """Composes the skills: `composed("psec", space="output")`."""

    def call(method: str, out: str = "out", *, skills: tuple[str, ...] = policy_world.SKILLS, **options: Any) -> Path:
        settings = {"steps": 4, "every": 2, "batch": 16, **options}
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        tasks = [word for name in skills for word in ("--task", name)]
        answer = cli(
            "compose", method, *(world / "lora" / name for name in skills), "--base", world / "base",
            "--tasks", world / "tasks", *tasks, "--examples", 4, "--out", tmp_path / out, "-q", *words,
        )  # fmt: skip
        assert answer.code == 0, answer.err
        return tmp_path / out

    return call


def logits(world: Path, weights: dict[str, torch.Tensor], seen: np.ndarray = SEEN) -> torch.Tensor:
    """What a policy of some weights gives."""
    network = PolicyNetwork(PolicyShape.of(json.loads((world / "base" / "config.json").read_text()), ""))
    network.load_state_dict(weights)
    with torch.inference_mode():
        return network(torch.from_numpy(seen))


def factors(world: Path, skill: str) -> dict[str, torch.Tensor]:
    """The changes of an adapter, multiplied out."""
    tensors = load_file(world / "lora" / skill / "adapter_model.safetensors")
    modules = {name.split(".lora_")[0] for name in tensors}
    return {
        f"{one.removeprefix('base_model.model.')}.weight": tensors[f"{one}.lora_B.weight"]
        @ tensors[f"{one}.lora_A.weight"]
        for one in modules
    }


def by_hand(world: Path, weights: list[list[float]], space: str) -> torch.Tensor:
    """Log-probabilities of mixtures, observation by observation, from the formulas."""
    base = load_file(world / "base" / "model.safetensors")
    changes = [factors(world, skill) for skill in policy_world.SKILLS]
    rows = []
    for at, row in enumerate(weights):
        seen = SEEN[at : at + 1]
        if space == "parameter":
            moved = dict(base)
            for weight, change in zip(row, changes, strict=True):
                moved |= {name: moved[name] + weight * tensor for name, tensor in change.items()}
            rows.append(logits(world, moved, seen).log_softmax(-1))
            continue
        out = [logits(world, {**base, **{n: base[n] + t for n, t in one.items()}}, seen) for one in changes]
        plain = logits(world, base, seen)
        if space == "action":
            out, plain = [one.softmax(-1) for one in out], plain.softmax(-1)
        mixed = plain + sum(weight * (one - plain) for weight, one in zip(row, out, strict=True))
        if space == "action":
            mixed = mixed.clamp_min(1e-6)
            rows.append((mixed / mixed.sum()).log())
        else:
            rows.append(mixed.log_softmax(-1))
    return torch.cat(rows)


# ---------------------------------------------------------------------- psec


@pytest.mark.parametrize("space", ["parameter", "output", "action"])
def test_psec_mixes_as_its_formula_says_and_acts_so(composed: Any, world: Path, space: str) -> None:
    model = open_model(composed("psec", space=space, hidden=8, learning_rate=0.1)).load()
    weights = model.weights(TEXTS)
    assert weights.std(0).min() > 1e-4  # the state decides
    expected = by_hand(world, weights.tolist(), space)
    torch.testing.assert_close(model.class_scores(TEXTS), expected, atol=2e-5, rtol=1e-4)
    assert model.act(SEEN).tolist() == expected.argmax(-1).tolist()
    assert model.act(SEEN[3:4]).tolist() == expected.argmax(-1)[3:4].tolist()


def test_psec_learns_what_skills_show(composed: Any, world: Path) -> None:
    """The held-out loss falls, and its record says so; the state tells nothing of a constant."""
    out = composed("psec", steps=60, every=20, learning_rate=0.03, pull=0.0, hidden=16)
    record = load_composition(out).record
    held = dict(map(tuple, record["held_out"]))
    assert held[record["best_step"]] < held[0]
    assert set(record["weights"]) == set(policy_world.SKILLS)


def test_constant_psec_folds_into_what_it_answers(cli: Cli, composed: Any, world: Path, tmp_path: Path) -> None:
    out = composed("psec", constant=True, learning_rate=0.05)
    model = open_model(out).load()
    weights = model.weights(TEXTS)
    assert torch.equal(weights, weights[:1].expand_as(weights))
    recipe = tmp_path / "fold.yaml"
    recipe.write_text(json.dumps({"genepool": 1, "method": "linear", "models": [str(out)]}))
    assert cli("merge", recipe, tmp_path / "folded").code == 0
    folded = open_model(tmp_path / "folded").load()
    torch.testing.assert_close(folded.class_scores(TEXTS), model.class_scores(TEXTS), atol=1e-5, rtol=1e-4)
    depends = composed("psec", "depends", hidden=4)
    recipe.write_text(json.dumps({"genepool": 1, "method": "linear", "models": [str(depends)]}))
    answer = cli("merge", recipe, tmp_path / "no")
    assert answer.code == 2
    assert "chooses by what it reads" in answer.err


def test_the_pull_draws_to_the_last_skill(composed: Any) -> None:
    """`(mean a - 1/2)^2 + (mean a_last - 1)^2`, times its weight; 0 where the last of two skills is alone."""
    composition = load_composition(composed("psec", hidden=8, pull=3.0))
    model = composition.load()
    [batch] = model.answer_batches([Question("", text, "1") for text in TEXTS])
    weights = model.weights(TEXTS)
    expected = 3 * ((weights.mean() - 0.5) ** 2 + (weights[:, -1].mean() - 1) ** 2)
    found = composition.composer.pull_of(model)(batch).detach()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    model._weigh = lambda states: torch.tensor([[0.0, 1.0]]).expand(len(states), 2)
    assert float(composition.composer.pull_of(model)(batch)) == 0


def test_an_episode_has_the_same_outcome_through_the_command(cli: Cli, composed: Any, world: Path) -> None:
    out = composed("psec", hidden=8)
    answer = cli("evaluate", out, "--tasks", world / "tasks", "--json")
    assert answer.code == 0, answer.err
    assert {row["task"] for row in json.loads(answer.out)["results"]} == set(policy_world.LENGTHS)
    again = cli("evaluate", out, "--tasks", world / "tasks" / "other", "--json")
    assert json.loads(again.out)["evaluated"] == 0


def test_a_task_that_nobody_shows_is_refused(cli: Cli, world: Path, tmp_path: Path) -> None:
    answer = cli(
        "compose", "psec", world / "lora" / "first", world / "lora" / "second", "--base", world / "base", "--tasks",
        world / "tasks", "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 2
    assert "belongs to no skill, so nobody shows what is right" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["psec", "l2m", "cotasp"])
def test_a_folder_whose_tensors_were_altered_is_refused(composed: Any, cli: Cli, world: Path, method: str) -> None:
    out = composed(method, **({"hidden": 4} if method == "psec" else {}))
    file = out / "router.safetensors"
    tensors = load_file(file)
    name = next(one for one in sorted(tensors) if tensors[one].dim() > 1)
    save_file({**tensors, name: tensors[name][..., :-1].contiguous()}, file)
    model = f"{out}#first" if method == "cotasp" else out
    answer = cli("evaluate", model, "--tasks", world / "tasks" / "first")
    assert answer.code == 2, answer.err
    assert "Traceback" not in answer.err


# ---------------------------------------------------------------------- l2m


def test_l2m_takes_the_nearest_modulator(composed: Any, world: Path) -> None:
    """The answer is that of the base plus twice the product of the one pair whose key is nearest."""
    out = composed("l2m", modulators=3, rank=2, learning_rate=0.05)
    model = open_model(out).load()
    tensors = load_file(out / "router.safetensors")
    base = open_model(world / "base").load()
    states = base.embeddings(TEXTS)
    near = torch.nn.functional.normalize(states, dim=-1) @ torch.nn.functional.normalize(tensors["keys"], dim=-1).T
    chosen = near.argmax(-1).tolist()
    assert model.weights(TEXTS).argmax(-1).tolist() == chosen
    plain, rows = load_file(world / "base" / "model.safetensors"), []
    for at, number in enumerate(chosen):
        moved = dict(plain)
        for name in plain:
            if f"up/{name}" in tensors:
                moved[name] = plain[name] + 2 * tensors[f"up/{name}"][number].T @ tensors[f"down/{name}"][number]
        rows.append(logits(world, moved, SEEN[at : at + 1]).log_softmax(-1))
    torch.testing.assert_close(model.class_scores(TEXTS), torch.cat(rows), atol=1e-5, rtol=1e-4)
    assert model.act(SEEN).tolist() == torch.cat(rows).argmax(-1).tolist()


def test_a_pool_refuses_what_it_cannot_tell_the_lines_of() -> None:
    """DeBERTa puts one line of relative positions through layers of all lines; it is nobody's."""
    network: Any = SimpleNamespace(model=torch.nn.Sequential(torch.nn.Linear(3, 3)))
    tensors = {"keys": torch.ones(2, 3), "down/0.weight": torch.ones(2, 1, 3), "up/0.weight": torch.ones(2, 1, 3)}
    pool = AttachedPool(network, tensors, 1.0)
    with pool.mixing(ChosenSkills(torch.tensor([0, -1]), 2)), torch.inference_mode():
        given = torch.ones(2, 4, 3)
        flat = network.model(given.view(8, 3))
        assert torch.equal(flat.view(2, 4, 3), network.model(given))
        with pytest.raises(InputError, match="1 lines in a batch of 2"):
            network.model(torch.ones(1, 4, 3))


def test_later_tasks_take_modulators_that_are_free(composed: Any) -> None:
    """There is room: what the first task used is divided by its count, so the second takes others."""
    record = load_composition(composed("l2m", modulators=8, rank=1)).record
    first, second = (set(record["tasks"][name]["modulators"]) for name in policy_world.SKILLS)
    assert first
    assert second
    assert not first & second


# ---------------------------------------------------------------------- cotasp


def test_cotasp_keeps_old_policies_to_the_bit(composed: Any, world: Path) -> None:
    """The first task's policy after two tasks is that after one, tensor by tensor; and it was learned."""
    alone = load_composition(composed("cotasp", "alone", skills=("first",), learning_rate=0.05))
    both = load_composition(composed("cotasp", "both", learning_rate=0.05))
    one, two = (each.for_task("first").fold() for each in (alone, both))
    assert one.names() == two.names()
    assert all(torch.equal(one.whole(name), two.whole(name)) for name in one.names())
    second = both.for_task("second").fold()
    assert any(not torch.equal(second.whole(name), two.whole(name)) for name in two.names())
    assert any(
        not torch.equal(both.tensors[name], alone.tensors[name])
        for name in alone.tensors
        if name.startswith("weights/")
    )


@pytest.mark.parametrize("layers", [[], ["layers.0"], ["layers.1", "layers.0"], ["layers.0", "other"]])
def test_cotasp_refuses_other_layers_than_the_bases(composed: Any, cli: Cli, world: Path, layers: list[str]) -> None:
    """A mask that is left out would silently be another layer's."""
    out = composed("cotasp")
    said = json.loads((out / "composition.json").read_text())
    said["labels"]["layers"] = layers
    (out / "composition.json").write_text(json.dumps(said))
    answer = cli("evaluate", f"{out}#first", "--tasks", world / "tasks")
    assert answer.code == 2
    assert "its layers are not those of the base" in answer.err


def test_a_folded_task_is_the_masked_network_to_the_bit(composed: Any, world: Path) -> None:
    tensors = load_file(composed("cotasp") / "router.safetensors")
    weights = {name.removeprefix("weights/"): one for name, one in tensors.items() if name.startswith("weights/")}
    masks = {f"layers.{at}": tensors[f"masks/layers.{at}"][1] for at in range(2)}
    x = torch.from_numpy(SEEN)
    for name, mask in masks.items():
        x = torch.tanh((x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]) * mask)
    masked = x @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(logits(world, task_weights(weights, masks)), masked, atol=1e-6, rtol=1e-6)
    assert all(set(one.unique().tolist()) <= {0.0, 1.0} for one in masks.values())


def test_cotasp_is_asked_by_task_and_refuses_what_is_no_policy(
    cli: Cli, composed: Any, world: Path, text_bed: Path, tmp_path: Path
) -> None:
    out = composed("cotasp")
    answer = cli("evaluate", f"{out}#second", "--tasks", world / "tasks" / "second", "--json")
    assert answer.code == 0, answer.err
    assert cli("evaluate", out, "--tasks", world / "tasks" / "second").code == 2
    assert cli("evaluate", f"{out}#other", "--tasks", world / "tasks" / "second").code == 2
    bed = ("--base", text_bed / "base", "--tasks", text_bed / "tasks")
    texts = cli("compose", "cotasp", text_bed / "lora" / "one", *bed, "--out", tmp_path / "texts")
    assert texts.code == 2, texts.err
    assert "cotasp needs a policy, got a causal language model" in texts.err


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=9))
def test_some_neuron_is_always_on(alpha: list[float]) -> None:
    found = switches(torch.tensor(alpha))
    assert found.sum() >= 1
    assert all(bool(on) == (value > 0) for on, value in zip(found, alpha, strict=True)) or max(alpha) <= 0


@given(st.integers(0, 1000), st.sampled_from([1e-3, 1e-2, 0.1, 1.0]))
def test_codes_are_scikit_learns_lasso(seed: int, strength: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    vector, dictionary = text_vector(f"task {seed}"), new_dictionary(12, seed, "layer")
    theirs = linear_model.LassoLars(alpha=strength / len(vector), fit_intercept=False).fit(dictionary, vector)
    assert sparse_code(vector, dictionary, strength) == pytest.approx(theirs.coef_, abs=1e-6)


@given(st.integers(0, 1000))
def test_a_dictionary_learns_to_say_a_task_with_its_code(seed: int) -> None:
    vector, dictionary = text_vector(f"task {seed}"), OnlineDictionary(new_dictionary(12, seed, "layer"))
    code = sparse_code(vector, dictionary.columns, 1e-2)
    before = dictionary.columns.copy()
    left = np.linalg.norm(vector - dictionary.columns @ code)
    dictionary.learn(vector, code)
    assert np.linalg.norm(vector - dictionary.columns @ code) <= left + 1e-12
    assert np.linalg.norm(dictionary.columns, axis=0).max() <= 1 + 1e-12
    assert np.array_equal(dictionary.columns[:, code == 0], before[:, code == 0])


# ---------------------------------------------------------------------- interrupted


@pytest.mark.parametrize("method", ["psec", "l2m", "slm", "cotasp"])
def test_a_fit_that_was_stopped_goes_on_to_the_same_bits(
    cli: Cli, composed: Any, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Stopped in the second task, where tasks come one after the other."""
    options = {"psec": {"hidden": 4}, "slm": {"deltas": 2, "rank": 2}}.get(method, {})
    whole = (composed(method, "whole", **options) / "router.safetensors").read_bytes()
    add, looks, last = HeldOutLooks.add, [0], 2 if method == "psec" else 5

    def stopping(self: HeldOutLooks, *told: Any) -> bool:
        looks[0] += 1
        if looks[0] == last:
            raise KeyboardInterrupt
        return add(self, *told)

    with monkeypatch.context() as patch:
        patch.setattr(HeldOutLooks, "add", stopping)
        with pytest.raises(AssertionError):
            composed(method, "part", **options)
    assert (tmp_path / ".part.fit").is_dir()
    assert not (tmp_path / "part").exists()
    assert (composed(method, "part", **options) / "router.safetensors").read_bytes() == whole
    assert not (tmp_path / ".part.fit").exists()


# ---------------------------------------------------------------------- texts


@pytest.mark.slow
@pytest.mark.parametrize("method", ["psec", "l2m", "slm"])
def test_a_text_gets_what_its_own_prompt_says(cli: Cli, text_bed: Path, tmp_path: Path, method: str) -> None:
    """Answers of a batch are those of single prompts, and of psec those of the merge of its weights."""
    own = {
        "psec": ["--set", "pull=0", "--set", "hidden=8"],
        "l2m": ["--set", "modulators=4", "--set", "rank=2"],
        "slm": ["--set", "deltas=2", "--set", "rank=2", "--set", "chosen=3"],
    }[method]
    answer = cli(
        "compose", method, text_bed / "lora" / "one", text_bed / "lora" / "two", "--base", text_bed / "base", "--tasks",
        text_bed / "tasks", "--examples", 8, "--out", tmp_path / "out", "--set", "steps=6", "--set", "every=3", "--set",
        "batch=4", "--set", "learning_rate=0.05", *own,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    model = open_model(tmp_path / "out").load()
    prompts, answers = ["abcd=", "hgfe=", "aa=", "cab="], ["dcba", "efgh", "aa", "bac"]
    together = [one.logprob for one in model.loglikelihoods(prompts, answers)]
    alone = [model.loglikelihoods([one], [other])[0].logprob for one, other in zip(prompts, answers, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4)
    assert model.generate(prompts) == [model.generate([one])[0] for one in prompts]
    used = model.skills_used(prompts, answers)
    assert len(used) == 4
    if method == "l2m":
        # One modulator answers; the others of the pool are not listed.
        assert all(list(one.weights.values()) == [1.0] for one in used)
    if method == "slm":
        assert all(1 <= len(one.weights) <= 3 and sum(one.weights.values()) == pytest.approx(1) for one in used)
    if method == "psec":
        weights = model.weights(prompts)
        assert weights.std(0).min() > 1e-6
        row = weights[0].tolist()
        skills = [{"model": f"{text_bed / 'base'}+{text_bed / 'lora' / name}", "parameters": {"weight": weight}}
                  for name, weight in zip(("one", "two"), row, strict=True)]  # fmt: skip
        recipe = {"genepool": 1, "method": "task_arithmetic", "base": str(text_bed / "base"), "models": skills}
        (tmp_path / "sum.yaml").write_text(json.dumps({**recipe, "parameters": {"lambda": 1.0}}))
        assert cli("merge", tmp_path / "sum.yaml", tmp_path / "sum").code == 0
        expected = open_model(tmp_path / "sum").load().loglikelihoods(prompts[:1], answers[:1])[0].logprob
        assert together[0] == pytest.approx(expected, abs=1e-3)


# ---------------------------------------------------------------------- fits of merges


def test_other_composers_learn_from_episodes_too(cli: Cli, world: Path, tmp_path: Path) -> None:
    """What each skill does in its own episodes stands in the place of answers."""
    for name in policy_world.SKILLS:
        shutil.copytree(world / "tasks" / name, tmp_path / "tasks" / name)
    answer = cli(
        "compose", "adamerging", world / "lora" / "first", world / "lora" / "second", "--base", world / "base",
        "--tasks", tmp_path / "tasks", "--examples", 4, "--out", tmp_path / "out", "--set", "steps=4", "--set",
        "every=2", "--set", "check_inputs=false",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert load_tasks(tmp_path / "tasks")
    assert open_model(tmp_path / "out").load().act(SEEN).shape == (12,)


# ---------------------------------------------------------------------- routers that know nothing of policies


def test_token_routers_play_episodes_as_they_classify(cli: Cli, world: Path, tmp_path: Path) -> None:
    answer = cli(
        "compose", "arrow", world / "lora" / "first", world / "lora" / "second", "--base", world / "base", "--out",
        tmp_path / "out", "--set", "top=1",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert cli("evaluate", tmp_path / "out", "--tasks", world / "tasks").code == 0
    model = open_model(tmp_path / "out").load()
    assert model.act(SEEN).tolist() == model.class_scores(TEXTS).argmax(1).tolist()


def test_routers_of_prompts_refuse_episodes(cli: Cli, world: Path, tmp_path: Path) -> None:
    """Episodes show no prompt, so nothing can be routed."""
    for number, name in enumerate(policy_world.SKILLS):
        rows = [{"prompt": text, "answer": str(number)} for text in TEXTS[6 * number : 6 * number + 6]]
        (tmp_path / "tasks" / name).mkdir(parents=True)
        (tmp_path / "tasks" / name / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = cli(
        "compose", "lda_routing", world / "lora" / "first", world / "lora" / "second", "--base", world / "base",
        "--tasks", tmp_path / "tasks", "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    answer = cli("evaluate", tmp_path / "out", "--tasks", world / "tasks")
    assert answer.code == 2
    assert "needs episode" in answer.err
