"""Samplers of single examples: each does what its definition says, and the first training leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policy_models import write_policy
from training_runs import result_bytes, rows, told

from genepool.errors import InputError
from genepool.training.first_training import FirstTraining
from genepool.training.projected_gradients import projected
from genepool.training.samplers import Arms, ExampleSampler, FirstModel, make_sampler, samplers
from genepool.training.samplers.adapt_inf import AdaptInf, budgets, histogram_entropy, least_alike, stratified
from genepool.training.samplers.compatible import Compatible
from genepool.training.samplers.cyclical import Cyclical
from genepool.training.samplers.less import Less

OF_EXAMPLES = sorted(name for name, kind in samplers().items() if issubclass(kind, ExampleSampler))
ARMS = Arms(("a", "b"), (30, 10), 0)


def scored(name: str, scores: Sequence[float], **options: Any) -> ExampleSampler:
    sampler = make_sampler(name, options, ARMS)
    assert isinstance(sampler, ExampleSampler)
    sampler.take(scores)
    return sampler


@pytest.mark.parametrize("name", OF_EXAMPLES)
@given(step=st.integers(0, 1000), size=st.integers(1, 64), scores=st.lists(st.floats(0, 9), min_size=40, max_size=40))
def test_places_are_a_function_of_seed_and_scores(name: str, step: int, size: int, scores: list[float]) -> None:
    first, second = (scored(name, scores) for _ in range(2))
    # The other one was asked of other steps before.
    second.places(step + 1, size)
    places = first.places(step, size)
    assert places.tolist() == second.places(step, size).tolist()
    assert len(places) == size
    assert places.min() >= 0
    assert places.max() < 40
    assert first.counts(step, size).tolist() == [(places < 30).sum(), (places >= 30).sum()]


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_the_control_shuffles_the_scores(name: str) -> None:
    scores = list(range(40))
    values = scored(name, scores, permuted=True).values
    assert values is not None
    assert sorted(values.tolist()) == scores
    assert values.tolist() != scores


# ---------------------------------------------------------------------- cyclical


@pytest.mark.parametrize(
    ("smallest", "largest", "factor", "wanted"),
    [
        (0.25, 1.0, 0.5, [0.25, 0.5, 1.0, 0.5]),
        (0.3, 1.0, 0.5, [0.3, 0.6, 1.0, 0.5]),
        (0.5, 0.5, 0.5, [0.5]),
    ],
)
def test_the_sizes_of_a_cycle(smallest: float, largest: float, factor: float, wanted: list[float]) -> None:
    sampler = make_sampler("cyclical", {"smallest": smallest, "largest": largest, "factor": factor}, ARMS)
    assert isinstance(sampler, Cyclical)
    assert sampler.sizes() == pytest.approx(wanted)


@given(size=st.integers(1, 50))
def test_steps_take_the_epochs_one_after_the_other(size: int) -> None:
    sampler = scored("cyclical", [1.0] * 40)
    assert isinstance(sampler, Cyclical)
    assert sampler.lengths == [10, 20, 40, 20]
    row = np.concatenate([sampler.epoch(number) for number in range(9)])
    count = len(row) // size
    assert (
        np.concatenate([sampler.places(step, size) for step in range(count)]).tolist() == row[: count * size].tolist()
    )
    assert all(len(set(sampler.epoch(number).tolist())) == len(sampler.epoch(number)) for number in range(9))


def test_easy_examples_come_oftener_and_not_first() -> None:
    losses = [1.0] * 20 + [4.0] * 20
    sampler = scored("cyclical", losses, smallest=0.025, largest=0.025)
    assert isinstance(sampler, Cyclical)
    # One example an epoch: the chance of an easy one is 1 / (1 + 1/4).
    drawn = np.array([sampler.epoch(number)[0] < 20 for number in range(2000)])
    assert drawn.mean() == pytest.approx(0.8, abs=0.03)
    whole = scored("cyclical", losses, smallest=1.0)
    assert isinstance(whole, Cyclical)
    early = np.mean([(whole.epoch(number)[:20] < 20).mean() for number in range(200)])
    assert early == pytest.approx(0.5, abs=0.03)


# ---------------------------------------------------------------------- less


class Drawn:
    """A model whose gradients and moments were drawn; they turn with every pause."""

    tasks: tuple[str, ...] = ("b", "a", "a")
    steps, batch = 10, 4

    def __init__(self, parameters: int = 6) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = {
            "train": torch.randn(3, 40, parameters, generator=generator),
            "valid": torch.randn(3, 3, parameters, generator=generator),
        }
        self.adam = torch.rand(3, 2, parameters, generator=generator)
        self.at = -1
        self.warm: Sequence[int] = ()

    def train(
        self,
        steps: int,
        places: Sequence[int] | None,
        pauses: Collection[int] = (),
        pause: Callable[[Sequence[float]], None] = lambda _: None,
    ) -> None:
        self.warm = places or ()
        rates: list[float] = []
        for step in range(1, steps + 1):
            rates.append(float(steps - step + 1))
            if step in pauses:
                self.at += 1
                pause(tuple(rates))
                rates = []

    def losses(self) -> np.ndarray:
        raise NotImplementedError

    def outputs(self) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def gradients(self, split: Literal["train", "valid"], place: int) -> torch.Tensor:
        return self.rows[split][self.at, place]

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = self.adam[self.at]
        return first, second


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_less_by_hand() -> None:
    model = Drawn()
    sampler = make_sampler("less", {"warmup": 0.2, "epochs": 3}, ARMS)
    assert isinstance(sampler, Less)
    found = sampler.scores(model)
    # 8 of 40 examples, in steps of 4: two steps a round, at rates 6, 5 | 4, 3 | 2, 1.
    assert len(set(model.warm)) == 8
    total = np.zeros((40, 2))
    for at, rate in enumerate((5.5, 3.5, 1.5)):
        train, valid = (model.rows[split][at].double().numpy() for split in ("train", "valid"))
        first, second = model.adam[at].double().numpy()
        adam = (0.9 * first + 0.1 * train) / np.sqrt(0.999 * second + 0.001 * train**2 + 1e-8)
        cosines = unit(adam) @ unit(valid).T
        total += rate / 10.5 * np.stack([cosines[:, 1:].mean(1), cosines[:, 0]], axis=1)
    assert np.allclose(found, total.max(1), atol=1e-5)


def shown(rows: torch.Tensor) -> torch.Tensor:
    return projected(rows, 512, seed=0, name="less")


def test_directions_are_projected_by_signs_that_keep_angles() -> None:
    rows = torch.randn(4, 3000, generator=torch.Generator().manual_seed(1))
    rows[1] = rows[0] + 0.3 * rows[1]
    found = shown(rows)
    assert found.shape == (4, 512)
    assert torch.equal(found, shown(rows))
    kept, wanted = (unit(one.numpy()) @ unit(one.numpy()).T for one in (found, rows))
    assert np.allclose(kept, wanted, atol=0.15)
    # A row of one 1 shows the signs themselves.
    signs = shown(torch.eye(3000)[:2]) * 512**0.5
    assert set(signs.flatten().round(decimals=4).tolist()) == {-1.0, 1.0}
    assert not torch.equal(signs[0], signs[1])
    assert torch.equal(shown(rows[:, :512]), rows[:, :512])


def test_less_trains_on_the_best_in_rounds() -> None:
    scores = np.random.default_rng(0).permutation(40).astype(float)
    sampler = scored("less", scores.tolist(), part=0.2)
    best = set(np.argsort(scores)[-8:].tolist())
    drawn = [sampler.places(step, 4).tolist() for step in range(6)]
    for number in range(3):
        assert {*drawn[2 * number], *drawn[2 * number + 1]} == best


def test_less_needs_validation_examples() -> None:
    model = Drawn()
    model.tasks = ()
    sampler = make_sampler("less", {}, ARMS)
    assert isinstance(sampler, Less)
    with pytest.raises(InputError, match="there are none"):
        sampler.scores(model)


# ---------------------------------------------------------------------- compatible


class Members:
    """A model that gives answers the chances of one member after the other; it remembers who learned from what."""

    tasks: tuple[str, ...] = ()
    steps, batch = 7, 4

    def __init__(self, chances: np.ndarray) -> None:
        self.chances, self.trained = chances, []

    trained: list[tuple[int, list[int]]]

    def train(
        self,
        steps: int,
        places: Sequence[int] | None,
        pauses: Collection[int] = (),
        pause: Callable[[Sequence[float]], None] = lambda _: None,
    ) -> None:
        self.trained.append((steps, list(places or ())))
        pause((1.0,) * steps)

    def losses(self) -> np.ndarray:
        losses: np.ndarray = -np.log(self.chances[len(self.trained) - 1])
        return losses

    def outputs(self) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def gradients(self, split: Literal["train", "valid"], place: int) -> torch.Tensor:
        raise NotImplementedError

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError


def test_compatible_by_hand() -> None:
    sampler = make_sampler("compatible", {"base": "b", "members": 2, "novelty": 0.2, "error": 0.5}, ARMS)
    assert isinstance(sampler, Compatible)
    chances = np.full((2, 40), 0.9)
    # Surely not; hardly so; both members disagree; and one of the base's own, whatever is said of it.
    chances[:, 0], chances[:, 1], chances[:, 2], chances[:, 35] = 0.1, 0.6, [0.1, 0.7], 0.1
    model = Members(chances)
    found = sampler.scores(model)
    assert found[:4] == pytest.approx([0, 1 - 0.4 / 0.5, 1, 1 - 0.1 / 0.5])
    assert found[30:].tolist() == [1.0] * 10
    assert [steps for steps, _ in model.trained] == [7, 7]
    for _, places in model.trained:
        assert set(places) < set(range(30, 40))
    assert model.trained[0] != model.trained[1]
    sampler.take(found.tolist())
    drawn = {place for step in range(40) for place in sampler.places(step, 4).tolist()}
    assert drawn == set(range(1, 40))


def test_the_control_of_compatible_leaves_out_as_many() -> None:
    scores = [0.0] * 12 + [1.0] * 28
    sampler = scored("compatible", scores, base="a", permuted=True)
    first = {place for step in range(40) for place in sampler.places(step, 4).tolist()}
    # The base's own ones stay, though they were given 0.
    assert first == set(range(40))
    other = scored("compatible", scores[::-1], base="b", permuted=True)
    kept = {place for step in range(80) for place in other.places(step, 4).tolist()}
    assert set(range(30, 40)) <= kept
    assert len(kept) == 10 + 28
    with pytest.raises(InputError, match="'c' is no task of this training"):
        make_sampler("compatible", {"base": "c"}, ARMS)
    with pytest.raises(InputError, match="chooses among tasks, and there is one"):
        make_sampler("compatible", {}, Arms(("a",), (30,), 0))


@pytest.mark.slow
def test_demonstrations_of_another_habit_are_left_out(cli: Callable[..., Any], tmp_path: Path) -> None:
    write_policy(tmp_path / "base", 0)
    generator = np.random.default_rng(0)
    for name, habit in (("mine", 1), ("theirs", 0)):
        seen = generator.normal(size=(64, 4)).round(3)
        # The habits differ where the pole falls to the right.
        acts = [habit if row[2] > 0 else 0 for row in seen]
        lines = [
            json.dumps({"prompt": " ".join(map(str, row)), "answer": str(act)})
            for row, act in zip(seen.tolist(), acts, strict=True)
        ]
        (tmp_path / "shown" / name).mkdir(parents=True)
        for split, own in (("train", lines[:48]), ("test", lines[48:])):
            (tmp_path / "shown" / name / f"{split}.jsonl").write_text("\n".join(own) + "\n")
        (tmp_path / "shown" / name / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 1\n")
    answer = cli(
        "train", tmp_path / "shown" / "mine", tmp_path / "shown" / "theirs", "--base", tmp_path / "base", "--full",
        "--sampler", "compatible", "--set", "sampler.members=3", "--steps", 60, "--every", 60, "--batch", 32,
        "--learning-rate", 0.05, "--seed", 0, "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    drawn = rows(tmp_path / "run", "SELECT task, example, count(*) FROM examples GROUP BY task, example")
    by_task = {name: sum(task == name for task, _, _ in drawn) for name in ("mine", "theirs")}
    assert by_task["mine"] == 48
    # Of the others about a half agrees.
    assert 12 < by_task["theirs"] < 36
    said = {row["task"]: row["after"] for row in told(tmp_path / "run")["target"]}
    assert said["mine"] > 0.8


# ---------------------------------------------------------------------- adapt-inf


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8), total=st.integers(0, 200))
def test_budgets_are_equal_as_far_as_groups_reach(sizes: list[int], total: int) -> None:
    found = budgets(sizes, total)
    assert sum(found) == min(total, sum(sizes))
    assert all(0 <= one <= size for one, size in zip(found, sizes, strict=True))
    # Only a group that gives all it has gets less than another one less 1.
    assert all(one == size or one >= max(found) - 1 for one, size in zip(found, sizes, strict=True))


def test_the_entropy_of_a_histogram_by_hand() -> None:
    # Two values, a half of the examples each: one deviation below and above the mean.
    assert histogram_entropy(np.array([0.0, 0.0, 6.0, 6.0])) == pytest.approx(1.0)
    assert histogram_entropy(np.full(9, 0.1)) == 0.0
    scores = np.random.default_rng(0).normal(size=500)
    assert histogram_entropy(3 * scores + 7) == pytest.approx(histogram_entropy(scores), abs=0.05)


@given(
    scores=st.lists(st.floats(-5, 5), min_size=1, max_size=80), size=st.integers(1, 80), tail=st.sampled_from([0, 0.1])
)
def test_strata_are_drawn_without_repetition(scores: list[float], size: int, tail: float) -> None:
    values = np.array(scores)
    found = stratified(values, size, tail, np.random.default_rng(0))
    assert len(set(found.tolist())) == len(found) <= size
    if not tail:
        assert len(found) == min(size, len(scores))


def test_strata_get_equally_many_and_ends_none() -> None:
    # 100 low scores and 10 high ones, far apart, and one at each end.
    scores = np.concatenate([[-50.0], np.linspace(0, 0.4, 100), np.linspace(9.6, 10, 10), [99.0]])
    found = stratified(scores, 2, 0.02, np.random.default_rng(0))
    assert sorted(scores[found] > 5) == [False, True]
    everything = stratified(scores, 112, 0.02, np.random.default_rng(0))
    assert scores[everything].min() >= 0
    assert scores[everything].max() <= 10


def test_the_least_alike_stay() -> None:
    vectors = unit(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.0]]))
    # The first is like none before it; the last one repeats it.
    assert least_alike(vectors).tolist() == [0, 1, 2, 3]
    assert least_alike(vectors[::-1]).tolist() == [0, 2, 1, 3]


def test_adapt_inf_takes_as_much_of_every_group() -> None:
    generator = np.random.default_rng(0)
    # 32 gradients point one way and 8 another.
    vectors = unit(
        np.repeat([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [32, 8], axis=0) + 0.01 * generator.normal(size=(40, 3))
    )
    flat, spread = np.zeros(40), np.linspace(0, 1, 40)
    sampler = make_sampler("adapt_inf", {"clusters": 2, "part": 0.25, "tail": 0.0}, ARMS)
    assert isinstance(sampler, AdaptInf)
    marks = sampler.marks(vectors, {"flat": flat, "spread": spread})
    assert [(marks[:32] == 1).sum(), (marks[32:] == 1).sum()] == [5, 5]
    # Five strata of the score that tells examples apart, one example of each.
    assert sorted((spread[:32][marks[:32] == 1] / spread[31] * 5).astype(int).clip(max=4)) == [0, 1, 2, 3, 4]
    pruned = make_sampler("adapt_inf", {"clusters": 2, "part": 0.25, "keep": 0.5, "tail": 0.0}, ARMS)
    assert isinstance(pruned, AdaptInf)
    marks = pruned.marks(vectors, {"spread": spread})
    assert ((marks == -1).sum(), (marks == 1).sum()) == (20, 10)
    assert (marks[32:] == -1).sum() == 0


def test_adapt_inf_asks_gradients_and_four_scores() -> None:
    class Told(Drawn):
        at = 0

        def __init__(self) -> None:
            super().__init__()
            self.at = 0

        def losses(self) -> np.ndarray:
            return np.arange(40.0)

        def outputs(self) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros(40), np.zeros(40)

    sampler = make_sampler("adapt_inf", {"part": 0.5}, ARMS)
    assert isinstance(sampler, AdaptInf)
    marks = sampler.scores(Told())
    assert 0 < (marks == 1).sum() <= 20
    sampler.take(marks.tolist())
    assert set(sampler.places(0, 50).tolist()) <= set(np.flatnonzero(marks == 1).tolist())


# ---------------------------------------------------------------------- through the command

SHORT = ("--steps", 6, "--every", 4, "--test", 2)
CYCLICAL = ("--sampler", "cyclical", "--set", "sampler.first_steps=3")
LESS = ("--sampler", "less", "--set", "sampler.epochs=2", "--set", "sampler.projection=64", "--set", "sampler.part=0.1")
ADAPT = ("--sampler", "adapt_inf", "--set", "sampler.projection=64", "--set", "sampler.clusters=3")


@pytest.mark.slow
@pytest.mark.parametrize("options", [CYCLICAL, LESS, ADAPT])
def test_the_first_training_leaves_nothing_behind(
    cli: Callable[..., Any], train: Callable[..., Any], tmp_path: Path, options: tuple[str, ...]
) -> None:
    answer = train("run", *options, *SHORT)
    assert answer.code == 0, answer.err
    assert told(tmp_path / "run")["sampler"] == options[1]
    # Taken again from the beginning, without a first training: its scores are on record.
    assert cli("verify-run", tmp_path / "run", "--step", 3).code == 0
    assert cli("verify-run", tmp_path / "run", "--step", 6).code == 0
    ((scores,),) = rows(tmp_path / "run", "SELECT value FROM meta WHERE key = 'scores'")
    taken = rows(tmp_path / "run", "SELECT DISTINCT example FROM examples")
    if options is LESS:
        assert len(taken) == int(0.1 * len(json.loads(scores)))


@pytest.mark.slow
def test_outputs_of_examples_by_hand(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def scores(self: AdaptInf, model: FirstModel) -> np.ndarray:
        assert isinstance(model, FirstTraining)
        seen["outputs"], seen["losses"] = model.outputs(), model.losses()
        trainer, lessons = model._trainer, model._lessons.train
        with torch.no_grad():
            ((batch, _),) = trainer.encoded(lessons[:1])
            seen["logits"], seen["targets"] = trainer.model.answer_logits(batch), batch.targets
        return np.ones(len(lessons))

    monkeypatch.setattr(AdaptInf, "scores", scores)
    answer = train("run", *ADAPT, *SHORT)
    assert answer.code == 0, answer.err
    chances = seen["logits"].double().softmax(-1).numpy()
    truth = np.eye(chances.shape[-1])[seen["targets"].numpy()]
    entropies, distances = seen["outputs"]
    assert entropies[0] == pytest.approx(-(chances * np.log(chances)).sum(-1).mean(), rel=1e-4)
    assert distances[0] == pytest.approx(np.linalg.norm(chances - truth, axis=-1).mean(), rel=1e-4)
    assert len(entropies) == len(seen["losses"])


@pytest.mark.slow
def test_what_a_sampler_sees_of_the_first_training(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def scores(self: Less, model: FirstModel) -> np.ndarray:
        assert isinstance(model, FirstTraining)
        parameters = model._parameters
        begun = {name: one.detach().clone() for name, one in parameters.items()}

        def pause(rates: Sequence[float]) -> None:
            seen["moved"] = any(not torch.equal(one, begun[name]) for name, one in parameters.items())
            seen["rates"], seen["moments"], seen["losses"] = rates, model.moments(), model.losses()
            seen["after"] = model.gradients("train", 0)

        before = [model.gradients("train", place) for place in (0, 1)]
        model.train(1, [1], (), pause)
        seen["before"] = before
        seen["back"] = all(torch.equal(one, begun[name]) for name, one in parameters.items())
        return np.zeros(sum(self.arms.sizes))

    monkeypatch.setattr(Less, "scores", scores)
    answer = train("run", *LESS, *SHORT)
    assert answer.code == 0, answer.err
    assert seen["moved"]
    assert seen["back"]
    assert len(seen["rates"]) == 1
    assert len(seen["losses"]) == told(tmp_path / "run")["examples"]["train"]
    # The one step was on example 1 alone: Adam's first moment is a tenth of its gradient, clipped to length 1.
    gradient = seen["before"][1]
    clipped = gradient / max(1.0, float(gradient.norm()))
    assert torch.allclose(seen["moments"][0], 0.1 * clipped, rtol=1e-3, atol=1e-7)
    assert torch.allclose(seen["moments"][1], 0.001 * clipped**2, rtol=1e-3, atol=1e-9)
    assert not torch.equal(seen["after"], seen["before"][0])


@pytest.mark.slow
@pytest.mark.parametrize("options", [CYCLICAL, LESS, ADAPT])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    from genepool.training.run import Run

    typed = (*options, "--steps", 8, "--every", 4, "--test", 2)
    assert train("whole", *typed).code == 0
    for at in (1, 6):
        out = f"stopped {at}"
        after = Run._after

        def stopped(self: Run, step: Any, *others: Any, at: int = at, after: Any = after) -> bool:
            if step.number == at:
                raise KeyboardInterrupt
            return bool(after(self, step, *others))

        with monkeypatch.context() as patch:
            patch.setattr(Run, "_after", stopped)
            assert train(out, *typed).code == 130
        assert train(out, *typed).code == 0
        assert result_bytes(tmp_path / out) == result_bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sampler", "cyclical", "--set", "sampler.smallest=0.5", "--set", "sampler.largest=0.4"], "is above"),
        (["--sampler", "less", "--set", "sampler.part=0"], "error: --set sampler.part: input should be greater"),
        (["--sampler", "adapt_inf", "--set", "sampler.keep=0.1"], "is below `part`, 0.25"),
        (["--sampler", "less", "--objective", "dpo"], "the sampler less scores answers"),
        (["--sampler", "less", "--objective", "hard"], "the sampler less scores answers"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    train: Callable[..., Any], tmp_path: Path, options: list[Any], said: str
) -> None:
    answer = train("run", *options)
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "run").exists()
