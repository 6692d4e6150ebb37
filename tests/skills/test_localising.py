"""Masks: the head of an order, found by bisection; scores learned by gradient find what magnitudes cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.errors import InputError
from genepool.skills import Graft, TopK
from genepool.skills.localising import MaskScorer, smallest
from genepool.tasks import LanguageModel, load_tasks
from genepool.training.batches import encode_examples
from genepool.weights import Change, open_change, open_weights
from genepool.weights.header import Header
from genepool.weights.skill_file import SkillFile


class Made(Change):
    """A change in memory."""

    name, header = "made", Header()

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def names(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensors[name][start:stop].clone()


def _entries(changes: Change) -> int:
    return sum(int((changes.whole(name) != 0).sum()) for name in changes.names())


def test_bisection_finds_where_the_gain_is_kept() -> None:
    changes = Made({"w": torch.arange(1.0, 10_001).reshape(100, 100)})
    # The gain grows with the entries, and 95% of it is there with 300 of them.
    found = smallest(changes, lambda d: TopK(changes, d), lambda c: 0.1 + 0.8 * min(1.0, _entries(c) / 300 * 0.95), 0.1)
    assert found.density == pytest.approx(0.03, rel=0.02)
    assert found.score >= 0.1 + 0.95 * (found.full - 0.1)
    assert _entries(found.changes) == int(found.density * 10_000)


def test_nothing_gained_is_nothing_to_keep() -> None:
    changes = Made({"w": torch.ones(4, 4)})
    with pytest.raises(InputError, match="gains nothing"):
        smallest(changes, lambda d: TopK(changes, d), lambda _: 0.2, 0.2)
    with pytest.raises(InputError, match="at most 1, got 1.5"):
        smallest(changes, lambda d: TopK(changes, d), lambda _: 0.9, 0.2, keep=1.5)


def test_a_graft_is_the_entries_of_the_highest_scores() -> None:
    changes = Made({"a": torch.ones(2, 3), "b": torch.ones(1, 4)})
    scores = {"a": torch.tensor([[1.0, 5.0, 2.0], [0.5, 9.0, 0.1]]), "b": torch.tensor([[7.0, 3.0, 0.2, 0.3]])}
    graft = Graft(changes, scores, 0.3)
    assert graft.whole("a").tolist() == [[0, 1, 0], [0, 1, 0]]
    assert graft.whole("b").tolist() == [[1, 0, 0, 0]]
    some = Graft(changes, {"a": scores["a"]}, 0.9)
    assert some.names() == ("a",)
    assert torch.equal(some.whole("a"), torch.ones(2, 3))


@pytest.fixture(scope="module")
def reverse(tiny_testbed: Any) -> tuple[MaskScorer, Change, Any]:
    base = open_weights(tiny_testbed.base)
    changes = open_change(str(tiny_testbed.full["reverse"]), base)
    model = LanguageModel.load(base)
    task = load_tasks(tiny_testbed.tasks / "reverse")[0]
    return MaskScorer(model, changes, encode_examples(model, task.examples("valid")[:128], task)), changes, model


def test_the_base_comes_back_to_the_last_bit(reverse: tuple[MaskScorer, Change, Any]) -> None:
    bench, changes, model = reverse
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    alone, whole = bench.score(None), bench.score(changes)
    assert whole > alone + 0.5
    assert bench.score(None) == alone
    assert all(torch.equal(before[name], value) for name, value in model.model.state_dict().items())


def test_learned_scores_find_the_skill_that_noise_hides_from_magnitudes(
    reverse: tuple[MaskScorer, Change, Any],
) -> None:
    bench, changes, model = reverse
    generator = torch.Generator().manual_seed(0)
    name = "model.layers.0.mlp.down_proj.weight"
    real = {n: changes.whole(n) for n in changes.names() if len(changes.shape(n)) == 2 and "embed" not in n}
    largest = max(float(v.abs().max()) for v in real.values())
    noise = 2 * largest * torch.where(torch.rand(real[name].shape, generator=generator) < 0.05, 1.0, 0.0)
    hidden = Made({**real, name: real[name] + noise})
    hidden.base = changes.base
    before = {n: value.clone() for n, value in model.model.state_dict().items()}
    scores = bench.learn(hidden, steps=8)
    assert all(torch.equal(before[n], value) for n, value in model.model.state_dict().items())
    assert bench.score(Graft(hidden, scores, 0.1)) > bench.score(TopK(hidden, 0.1))
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("by", [["--by", "magnitude"], ["--by", "graft", "--steps", 20]], ids=lambda by: by[1])
def test_the_command_line(by: list[Any], tiny_testbed: Any, tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "s.safetensors"
    answer = cli(
        "skill", "localise", tiny_testbed.full["reverse"], "--base", tiny_testbed.base, *by,
        "--tasks", tiny_testbed.tasks / "reverse", "--limit", 64, "--out", out, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["score"] >= told["base_score"] + 0.95 * (told["full"] - told["base_score"])
    assert told["density"] < 0.6
    assert SkillFile(out).form == "sparse"
    whole = cli("skill", "localise", tiny_testbed.full["reverse"], "--base", tiny_testbed.base, "--tasks",
                tiny_testbed.tasks, "--out", tmp_path / "t.safetensors")  # fmt: skip
    assert whole.code == 2
    assert "expected one" in whole.err
