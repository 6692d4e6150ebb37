"""Plain texts as tasks: windows, files, and how likely they are."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import write_model

from genepool.errors import InputError
from genepool.tasks import LanguageModel, load_tasks
from genepool.tasks.texts import windows
from genepool.weights import open_weights


@given(text=st.text(alphabet="ab \n", max_size=200), size=st.integers(2, 30))
def test_windows_together_are_the_text_and_none_is_too_long(text: str, size: int) -> None:
    found = list(windows(text, size))
    assert "".join(found) == text
    assert all(0 < len(one) <= size for one in found[:-1])
    for here, behind in itertools.pairwise(found):
        # A word is cut only where the second half of a window has no white space.
        assert behind[0].isspace() or not any(letter.isspace() for letter in here[size // 2 + 1 :])


def test_a_window_ends_before_a_blank_line_rather_than_within_a_paragraph() -> None:
    assert list(windows("one two three\n\nfour five six seven", 20)) == ["one two three", "\n\nfour five six", " seven"]
    assert list(windows("short", 20)) == ["short"]


@pytest.fixture
def texts(tmp_path: Path) -> Callable[..., Path]:
    """`texts("train.txt", "...", window=20)`: a task folder with this file."""

    def write(name: str, content: str, **settings: Any) -> Path:
        folder = tmp_path / "tasks" / "prose"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
        if settings:
            (folder / "task.yaml").write_text(yaml.safe_dump(settings))
        return folder

    return write


def test_files_of_texts_become_tasks_of_windows(texts: Callable[..., Path]) -> None:
    texts("train.txt", "one two three\n\nfour five six seven", window=20)
    folder = texts("test.jsonl", '{"text": "a b"}\n{"text": "' + "abc " * 8 + '", "id": "long"}\n')
    (task,) = load_tasks(folder)
    assert task.settings.metric == "likelihood"
    assert [one.answer for one in task.examples("train")] == ["one two three", "\n\nfour five six", " seven"]
    assert [one.id for one in task.examples("test")] == ["1", "long, part 1", "long, part 2"]
    assert {one.prompt for split in task.splits.values() for one in split} == {""}
    # Where texts are cut decides the examples, not how they are asked.
    texts("train.txt", "one two three", window=21)
    assert load_tasks(folder)[0].asking == task.asking


def test_a_metric_that_is_named_stays_and_other_text_files_are_no_tasks(texts: Callable[..., Path]) -> None:
    folder = texts("test.txt", "one two", metric="contains")
    assert load_tasks(folder)[0].settings.metric == "contains"
    (folder.parent / "notes.txt").write_text("not a task")
    assert [task.name for task in load_tasks(folder.parent)] == ["prose"]
    assert load_tasks(folder.parent / "notes.txt")[0].settings.metric == "likelihood"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("test.jsonl", '{"text": "a", "answer": "b"}', "test.jsonl:1: has both `text` and `answer`"),
        ("test.jsonl", '{"text": "  "}', "test.jsonl:1: `text` must be text that is not empty"),
        ("test.jsonl", '{"text": 3}', "test.jsonl:1: `text` must be text that is not empty"),
        ("test.txt", " \n ", "test.txt: the file has no examples"),
    ],
)
def test_texts_that_are_none_are_named(texts: Callable[..., Path], name: str, content: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_tasks(texts(name, content))
    assert said in str(caught.value)


def test_the_score_is_one_over_the_perplexity(
    cli: Callable[..., Any], texts: Callable[..., Path], tmp_path: Path
) -> None:
    import torch

    base = write_model(tmp_path / "base")
    folder = texts("test.jsonl", '{"text": "abca"}\n{"text": "cab"}\n')
    answer = cli("evaluate", base, "--tasks", folder, "--ledger", tmp_path / "l.sqlite", "--json", "--quiet")
    assert answer.code == 0, answer.err
    model = LanguageModel.load(open_weights(str(base)))
    scores = []
    for text in ("abca", "cab"):
        ids = [*model.encode(""), *model.tokenizer(text, add_special_tokens=False).input_ids]
        with torch.inference_mode():
            logs = model.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        scores.append(math.exp(sum(float(logs[at, one]) for at, one in enumerate(ids[1:])) / (len(ids) - 1)))
    (row,) = json.loads(answer.out)["results"]
    assert row["mean"] == pytest.approx(sum(scores) / 2, rel=1e-5)


def test_a_classifier_is_not_asked_how_likely_a_text_is(
    cli: Callable[..., Any], texts: Callable[..., Path], tmp_path: Path
) -> None:
    from genepool.tasks.answering import check_fits
    from genepool.tasks.models.sequence_classifier import SequenceClassifier

    (task,) = load_tasks(texts("test.txt", "one two"))
    with pytest.raises(InputError, match="needs likelihood"):
        check_fits(task, SequenceClassifier, "classifier")
