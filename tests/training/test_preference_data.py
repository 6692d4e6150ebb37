"""Pairs and labels in TRL's shapes: what is read, what is skipped, and the line that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.tasks import Example, Task
from genepool.tasks.preferences import split_sides
from genepool.tasks.reading import read_examples
from genepool.training.examples import TrainingExamples, pairs_of

USER, GOOD, BAD = (
    {"role": "user", "content": "say a"},
    {"role": "assistant", "content": "a"},
    {"role": "assistant", "content": "b"},
)
SAME: dict[str, tuple[dict[str, Any], tuple[str, str, str]]] = {
    "texts": ({"prompt": "say a", "chosen": "a", "rejected": "b"}, ("say a", "a", "b")),
    "texts with the prompt in both": ({"chosen": "say a: yes", "rejected": "say a: no"}, ("say a:", " yes", " no")),
    "messages": ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, ("say a", "a", "b")),
    "messages with the prompt in both": ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, ("say a", "a", "b")),
}


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("shape", sorted(SAME))
def test_every_shape_of_a_pair_is_a_prompt_and_two_answers(tmp_path: Path, shape: str) -> None:
    line, (prompt, chosen, rejected) = SAME[shape]
    (example,) = read_examples(written(tmp_path, line))
    assert (example.prompt, example.answers, example.rejected) == (prompt, (chosen,), (rejected,))
    assert bool(example.messages) == ("messages" in shape)


@given(st.text(), st.text(min_size=1), st.text(min_size=1))
def test_a_prompt_in_both_sides_is_found_and_nothing_of_them_is_lost(prompt: str, chosen: str, rejected: str) -> None:
    whole = {"chosen": prompt + chosen, "rejected": prompt + rejected}
    found, (worse,) = split_sides(whole, "x")
    assert found["prompt"] + found["answer"] == whole["chosen"]
    assert found["prompt"] + worse == whole["rejected"]
    assert len(found["prompt"]) >= len(prompt) - prompt.endswith(" ")


def test_labelled_completions_of_a_prompt_are_accepted_and_rejected_answers(tmp_path: Path) -> None:
    rows = [("p", "a", True), ("q", "c", False), ("p", "b", False), ("p", "d", True)]
    lines = [{"prompt": prompt, "completion": text, "label": label} for prompt, text, label in rows]
    (example,) = read_examples(written(tmp_path, *lines))  # q has no accepted answer
    assert (example.prompt, example.answers, example.rejected) == ("p", ("a", "d"), ("b",))
    pairs = pairs_of(Task("t", {}), example)
    assert [(one.answer, one.rejected) for one in pairs] == [("a", ("b",)), ("d", ("b",))]
    assert len({one.key for one in pairs} | {example.key}) == 3


WRONG: dict[str, tuple[Any, str]] = {
    "one side": ({"prompt": "p", "chosen": "a"}, "chosen"),
    "a side of numbers": ({"prompt": "p", "chosen": "a", "rejected": 3}, "two texts"),
    "a text and messages": ({"prompt": "p", "chosen": "a", "rejected": [BAD]}, "two texts"),
    "no messages": ({"chosen": [], "rejected": []}, "two texts"),
    "a message of nothing": ({"prompt": "p", "chosen": [{"content": "a"}], "rejected": [BAD]}, "two texts"),
    "other questions": ({"chosen": [USER, GOOD], "rejected": [GOOD, BAD]}, "alike up to the last message"),
    "an answer beside": ({"prompt": "p", "answer": "a", "chosen": "a", "rejected": "b"}, "both `chosen` and `answer`"),
    "a label of a word": ({"prompt": "p", "completion": "a", "label": "good"}, "true or false"),
    "a label of nothing": ({"prompt": "p", "answer": "a", "label": True}, "no `completion`"),
    "no prompt": ({"prompt": 3, "chosen": "a", "rejected": "b"}, "`prompt`"),
    "half a letter": ({"prompt": "p", "chosen": "a", "rejected": "\ud800"}, "Unicode"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_a_wrong_line_is_named(tmp_path: Path, case: str) -> None:
    line, said = WRONG[case]
    path = written(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b"}, line)
    with pytest.raises(InputError, match=said) as caught:
        read_examples(path)
    assert caught.value.where == f"{path}:2"


def test_no_label_that_is_true_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="label true"):
        read_examples(written(tmp_path, {"prompt": "p", "completion": "a", "label": False}))


def test_labels_of_a_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("prompt,completion,label\np,a,True\np,b,false\n")
    (example,) = read_examples(tmp_path / "pairs.csv")
    assert (example.answers, example.rejected) == (("a",), ("b",))


def test_equal_sides_are_skipped_and_counted_and_nothing_else_is_refused() -> None:
    equal, other = (
        Example("1", "p", ("a",), rejected=("a",)),
        Example("2", "p", ("a",), rejected=("b",), where="pairs.jsonl:2"),
    )
    found = TrainingExamples([Task("t", {"train": [equal, other, equal]})], seed=0, valid=4, pairs=True)
    assert found.equal == 2
    assert [lesson.example.id for lesson in found.train] == ["2"]
    with pytest.raises(InputError, match="both answers of every pair are alike"):
        TrainingExamples([Task("t", {"train": [equal]})], seed=0, valid=4, pairs=True)
    with pytest.raises(InputError, match="no rejected answer"):
        TrainingExamples([Task("t", {"train": [Example("1", "p", ("a",))]})], seed=0, valid=4, pairs=True)
