"""Bounds on a stranger's work: what takes too long or too much ends in one line, and all else goes on as it was."""

from __future__ import annotations

import os
import re
import resource
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool import bounded as limits
from genepool.bounded import bounded, read_bytes, read_text
from genepool.errors import InputError
from genepool.schema import read_yaml
from genepool.tasks import load_tasks
from genepool.tasks.example import Example
from genepool.tasks.metrics import find_metric
from genepool.tasks.tokenized import templated

HANGS: dict[str, tuple[Callable[[], object], str]] = {
    "a loop": (lambda: [0 for _ in range(10**12)], "0.1 s"),
    "a regular expression": (lambda: re.search(r"(a+)+$", "a" * 60 + "b"), "0.1 s"),
    "a power": (lambda: 10 ** (10**9), "0.1 s"),
    "one allocation": (lambda: "a".ljust(10**12), "64 MB"),
    "many": (lambda: ["a" * 10**6 * i for i in range(10**6)], "64 MB"),
}


@pytest.mark.parametrize("name", HANGS)
def test_what_has_no_end_gets_one(name: str) -> None:
    work, said = HANGS[name]
    # To fill memory takes a processor longer than that where others want it too.
    seconds = 0.1 if said == "0.1 s" else 5.0
    before = resource.getrlimit(resource.RLIMIT_AS)
    with (
        pytest.raises(InputError, match=rf"^task\.yaml: the work takes more than {said}( of memory)?\. Write less\.$"),
        bounded("the work", where="task.yaml", fix="Write less", seconds=seconds, memory=64 << 20),
    ):
        work()
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert signal.getsignal(signal.SIGPROF) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0


@given(st.integers() | st.text())
def test_what_ends_by_itself_is_left_alone(value: object) -> None:
    with bounded("the work", where="x", fix="y"):
        found = [value, value]
    assert found == [value, value]
    with pytest.raises(KeyError, match="own"), bounded("the work", where="x", fix="y"):
        raise KeyError("own")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are reached soon."""
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    monkeypatch.setattr(limits, "BYTES", 64 << 20)


ENDLESS = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubling": "{% set x = namespace(t='a') %}{% for i in range(60) %}{% set x.t = x.t ~ x.t %}{% endfor %}",
    "ljust": "{{ 'a'.ljust(9999999999) }}",
    "center": "{{ 'a' | center(9999999999) }}",
    "format": "{{ '{:>9999999999}'.format(1) }}",
    "lipsum": "{{ lipsum(n=10000000) }}",
    "macros": "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "replace": "{{ ('a' * 9999) | replace('a', 'a' * 9999) | replace('a', 'a' * 9999) }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_has_an_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    monkeypatch.setattr("genepool.tasks.template_texts.SECONDS", 0.2)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "template.yaml").write_text("answer: a\nprompt: |\n  " + ENDLESS[name] + "\n")
    with pytest.raises(InputError, match=r"template\.yaml:prompt"):
        load_tasks(tmp_path)


def test_the_time_of_a_template_is_that_of_all_its_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text is allowed seconds, but not each of thousands."""
    monkeypatch.setattr("genepool.tasks.template_texts.SECONDS", 0.2)
    (tmp_path / "t").mkdir()
    slow = "{% for a in range(99999) %}{{ '' }}{% endfor %}"
    (tmp_path / "t" / "template.yaml").write_text(
        f'variables: {{a: {{integer: [0, 99999]}}}}\nanswer: a\nprompt: "{slow}{{{{ a }}}}"\ncounts: {{valid: 5000}}\n'
    )
    (task,) = load_tasks(tmp_path)
    with pytest.raises(InputError, match=r"template\.yaml:prompt: the template takes more than"):
        task.examples("valid")


def test_a_pattern_and_a_chat_template_have_an_end(small: None) -> None:
    from tests.tasks.tiny_models import character_tokenizer

    example = Example("7", "?", ("(a+)+$",), where="test.jsonl:3")
    with pytest.raises(InputError, match=r"^test\.jsonl:3: the regular expression takes more than 0\.2 s\."):
        find_metric("regex").score("a" * 60 + "b", example, True)
    tokenizer = character_tokenizer()
    for template in ENDLESS.values():
        tokenizer.chat_template = template
        with pytest.raises(InputError, match="^model: the chat template"):
            templated(tokenizer, [{"role": "user", "content": "hello"}], "model")
    tokenizer.chat_template = "{{ messages[0].content.nothing.at.all }}{{ 1 / 0 }}"
    with pytest.raises(InputError, match="refuses the messages"):
        templated(tokenizer, [{"role": "user", "content": "hello"}], "model")


def test_a_pipe_or_a_device_is_no_file(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Opening a pipe that nobody writes to waits for ever, and /dev/zero has no end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (pipe, Path("/dev/zero"), Path("/dev/null")):
        for typed in (("inspect", place), ("plan", place), ("skill", "show", place), ("outcomes", "import", place)):
            answer = cli(*typed)
            assert (answer.code, answer.err.count("error: ")) == (2, 1), (typed, answer.err)
            assert str(place) in answer.err
    with pytest.raises(InputError, match="holds more than 3 bytes"):
        read_bytes(_written(tmp_path / "four", "1234"), 3)
    assert read_bytes(_written(tmp_path / "three", "123"), 3) == b"123"


def test_what_a_shell_pipes_in_is_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"genepool: 1\n")
    os.close(writing)
    assert read_text(Path(f"/dev/fd/{reading}"), fix="") == "genepool: 1\n"
    os.close(reading)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_json_of_too_many_values_is_refused_before_it_is_parsed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genepool.weights.formats.safetensors import SafetensorsFile
    from genepool.weights.json_file import read_json

    monkeypatch.setattr(limits, "MOST_VALUES", 100)
    text = ('{"a": [' + "[]," * 60 + "[]]}").encode()
    head = struct.pack("<Q", len(text)) if name.endswith(".safetensors") else b""
    (tmp_path / name).write_bytes(head + text)
    with pytest.raises(InputError, match=rf"{name}: holds 123 values, expected at most 100\."):
        (SafetensorsFile if head else read_json)(tmp_path / name)


def test_a_long_yaml_file_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "recipe.yaml"
    monkeypatch.setattr("genepool.schema._MOST_WRITTEN", 100)
    file.write_text("models: [" + "[]," * 96 + "[]]\n")
    assert len(read_yaml(file)["models"]) == 97
    file.write_text("models: [" + "[]," * 97 + "[]]\n")
    with pytest.raises(InputError, match=r"recipe\.yaml: holds more than 100 values\. Write it shorter\."):
        read_yaml(file)
    monkeypatch.setattr("genepool.schema._MOST_BYTES", 100)
    with pytest.raises(InputError, match=r"recipe\.yaml: holds more than 100 bytes\."):
        read_yaml(file)


@pytest.mark.parametrize(
    ("rows", "text", "said"),
    [(10_000_000, "a", "claims 10,000,000 rows in "), (2_000, "a" * 200_000, "says 4[0-9,]* characters in ")],
)
def test_a_table_that_says_much_in_few_bytes_is_refused(rows: int, text: str, said: str, tmp_path: Path) -> None:
    import numpy as np

    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(rows, np.int8)), pyarrow.array([text]))
    (tmp_path / "task").mkdir()
    file = tmp_path / "task" / "test.parquet"
    parquet.write_table(pyarrow.table({"prompt": column, "answer": column}), file)
    assert file.stat().st_size < 10**6
    with pytest.raises(InputError, match=rf"test\.parquet: {said}.*\. Write it as JSONL\."):
        load_tasks(tmp_path)
