"""Distillation across tokenizers: the alignment against brute force and by hand, what is carried, and the command."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import write_classifier, write_model
from training_runs import QUICK, result_bytes, rows, told

from genepool.tasks import open_model
from genepool.training import find_objective
from genepool.training import run as running
from genepool.training.objectives import AlignedObjective
from genepool.training.token_alignment import TokenAlignment, edit_distance, warped

BYTES = st.binary(max_size=5)
ROWS = st.lists(st.sampled_from([b"a", b"b", b"ab", b"ba", b"abb"]), min_size=1, max_size=4)


def specialise(**options: Any) -> AlignedObjective:
    found = find_objective("specialise", options)
    assert isinstance(found, AlignedObjective)
    return found


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are pairs of letters too."""
    folder = tmp_path_factory.mktemp("merging") / "model"
    write_model(folder, seed=2, merging=True, initializer_range=0.2, hidden_size=32, intermediate_size=48)
    return folder


@given(first=BYTES, second=BYTES, third=BYTES)
def test_the_edit_distance_is_a_metric(first: bytes, second: bytes, third: bytes) -> None:
    assert edit_distance(first, second) == edit_distance(second, first)
    assert (edit_distance(first, second) == 0) == (first == second)
    assert edit_distance(first, third) <= edit_distance(first, second) + edit_distance(second, third)
    assert abs(len(first) - len(second)) <= edit_distance(first, second) <= max(len(first), len(second))


def test_the_edit_distance_by_hand() -> None:
    assert edit_distance(b"kitten", b"sitting") == 3
    assert edit_distance(b"", b"abc") == 3


@given(first=ROWS, second=ROWS)
def test_no_monotone_alignment_is_cheaper(first: list[bytes], second: list[bytes]) -> None:
    found = warped(first, second, edit_distance)
    path = [(one, at) for at, beside in enumerate(found) for one in beside]
    assert path[0] == (0, 0)
    assert path[-1] == (len(first) - 1, len(second) - 1)
    moves = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(path)]
    assert set(moves) <= {(1, 1), (1, 0), (0, 1)}

    def cheapest(row: int, column: int) -> int:
        here = edit_distance(first[row], second[column])
        before = [(row - 1, column - 1), (row - 1, column), (row, column - 1)]
        costs = [cheapest(*at) for at in before if min(at) >= 0]
        return here + (min(costs) if costs else 0)

    cost = sum(edit_distance(first[one], second[at]) for one, at in path)
    assert cost == cheapest(len(first) - 1, len(second) - 1)


def test_an_alignment_by_hand() -> None:
    # "2" costs 1 beside "1" as well as beside "23": both rows go on at once, seen from the end.
    assert warped([b"1", b"23", b"+"], [b"1", b"2", b"3", b"+"], edit_distance) == [[0], [0], [1], [2]]
    assert warped([b"1", b"2", b"3", b"+"], [b"12", b"3", b"+"], edit_distance) == [[0, 1], [2], [3]]


def test_only_tokens_of_one_text_take_the_teachers_prediction(small_world: Path, merging: Path) -> None:
    student: Any = open_model(small_world / "base").load()
    teacher: Any = open_model(merging).load()
    text = "abc1+ab"
    ours, theirs = student.encode_whole(text), teacher.encode_whole(text)
    assert len(theirs) < len(ours) == len(text)
    alignment = TokenAlignment(student, teacher, None)
    places = alignment.places(ours, theirs)
    texts = [teacher.decode([number]) for number in theirs]
    for letter, place in zip(text, places, strict=True):
        assert place == -1 or texts[place] == letter
    # Each token of one letter that the teacher has is found, in order.
    assert [place for place in places if place >= 0] == [at for at, one in enumerate(texts) if len(one) == 1]
    end = alignment.places([*ours, student.tokenizer.eos_token_id], [*theirs, teacher.tokenizer.eos_token_id])
    assert end == [*places, -1]
    logits = torch.randn(len(theirs), teacher.vocabulary_size, generator=torch.Generator().manual_seed(0))
    wanted = alignment.wanted(ours, theirs, logits)
    assert torch.allclose(wanted.sum(-1), torch.ones(len(ours)))
    shares = logits.softmax(-1)
    for row, (token, place) in enumerate(zip(ours, places, strict=True)):
        if place < 0:
            assert wanted[row, token] == 1
            continue
        a, b = (model.tokenizer.convert_tokens_to_ids("d") for model in (student, teacher))
        c, d = (model.tokenizer.convert_tokens_to_ids("e") for model in (student, teacher))
        assert float(wanted[row, a] / wanted[row, c]) == pytest.approx(
            float(shares[place, b] / shares[place, d]), rel=1e-4
        )
    two = TokenAlignment(student, teacher, 2).wanted(ours, theirs, logits)
    assert int((two > 0).sum(-1).max()) <= 2


def test_between_equal_tokenizers_it_is_plain_distillation(small_world: Path) -> None:
    student: Any = open_model(small_world / "base").load()
    teacher: Any = open_model(small_world / "other").load()
    alignment = TokenAlignment(student, teacher, None)
    tokens = student.encode_whole("abc=")
    logits = torch.randn(4, teacher.vocabulary_size, generator=torch.Generator().manual_seed(1))
    logits[:, teacher.tokenizer.all_special_ids] = -1e4  # special tokens have no text that could be compared
    assert alignment.places(tokens, tokens) == [0, 1, 2, 3]
    wanted = alignment.wanted(tokens, tokens, logits)
    assert torch.allclose(wanted, logits.softmax(-1), atol=1e-6)
    logs = torch.randn(4, student.vocabulary_size, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
    expected = torch.nn.functional.kl_div(logs, wanted, reduction="none").sum(-1)
    assert torch.allclose(specialise(top=None).losses(logs, wanted), expected, atol=1e-5)


@pytest.fixture
def taught(small_world: Path, merging: Path, tmp_path: Path, cli: Callable[..., Any]) -> Any:
    """`taught("run", ...)`: the base learns `first` from a teacher of other tokens."""

    def call(out: str, *options: Any, teacher: Any = merging, base: Any = None) -> Any:
        return cli(
            "train", small_world / "tasks" / "first", "--base", base or small_world / "base", "--teacher", teacher,
            "--objective", "specialise", "--test", 4, "--others", small_world / "tasks", "--out", tmp_path / out,
            *QUICK, *options,
        )  # fmt: skip

    return call


@pytest.mark.slow
def test_a_student_learns_from_a_teacher_of_other_tokens(
    cli: Callable[..., Any], taught: Callable[..., Any], small_world: Path, merging: Path, tmp_path: Path
) -> None:
    task = small_world / "tasks" / "first"
    answer = cli("train", task, "--base", merging, "--test", 4, "--out", tmp_path / "teacher", *QUICK)
    assert answer.code == 0, answer.err
    teacher = f"{merging}+{tmp_path / 'teacher' / 'adapter'}"
    answer = taught("run", "--set", "top=3", "--json", teacher=teacher)
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["options"] == {"top": 3}
    losses = [one["loss"] for one in found["validations"]]
    assert min(losses[1:]) < 0.7 * losses[0]
    assert rows(tmp_path / "run", "SELECT DISTINCT length FROM examples") == [(2.0,)]
    assert cli("verify-run", tmp_path / "run", "--step", 13, "--quiet").code == 0


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    taught: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert taught("whole", "--steps", 12, "--every", 5).code == 0
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 8:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert taught("stopped", "--steps", 12, "--every", 5).code == 130
    assert taught("stopped", "--steps", 12, "--every", 5).code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")


def test_who_has_no_tokens_to_align_is_refused(taught: Callable[..., Any], tmp_path: Path) -> None:
    write_classifier(tmp_path / "classifier", labels=tuple("abcdefgh"))
    answer = taught("run", teacher=tmp_path / "classifier")
    assert answer.code == 2
    assert "is no causal language model, so its tokens are not aligned" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    answer = taught("top", "--set", "top=0")
    assert answer.code == 2
    assert "top" in answer.err
