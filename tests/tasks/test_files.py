"""Tasks on disk: what is read, and that every mistake is told with its file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.tasks import Example, Task, callable_task, load_tasks

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
GOOD = '{"prompt": "1+1=", "answer": "2"}'


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes tasks/t/test.jsonl (and task.yaml); gives tasks/."""

    def write(*lines: str, settings: str = "", split: str = "test") -> Path:
        task = tmp_path / "tasks" / "t"
        task.mkdir(parents=True, exist_ok=True)
        (task / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if settings:
            (task / "task.yaml").write_text(settings)
        return tmp_path / "tasks"

    return write


@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, list[str]]]) -> None:
    # Unicode has line separators of its own; they may stand inside an answer, and are no ends of lines.
    path = tmp_path_factory.mktemp("tasks") / "copy.jsonl"
    lines = [json.dumps({"prompt": prompt, "answer": answers}, ensure_ascii=False) for prompt, answers in drawn]
    path.write_text("\n".join(lines), encoding="utf-8")
    (task,) = load_tasks(path)
    assert task.name == "copy"
    assert [(e.prompt, list(e.answers)) for e in task.examples("test")] == drawn


@pytest.mark.parametrize(
    ("line", "settings", "said"),
    [
        ("nonsense", "", "this line is not JSON"),
        ('{"prompt": "a", "answer": ', "", "this line is not JSON"),
        ("[" * 100_000, "", "this line is not JSON"),
        ('["prompt"]', "", "not an object"),
        ('{"answer": "2"}', "", "`prompt` must be text"),
        ('{"prompt": "a"}', "", "`answer` must be text, or a list of accepted texts. Add it"),
        ('{"prompt": "a", "answer": 2}', "", "Write numbers in quotes"),
        ('{"prompt": "a", "answer": []}', "", "`answer` must be text"),
        ('{"prompt": "a", "answr": "2"}', "", "Did you mean 'answer'?"),
        ('{"prompt": "a", "answer": "2", "id": null}', "", "`id` must be text"),
        ('{"prompt": "a", "answer": "2", "id": "1"}', "", "id '1' is already on line 1"),
        ('{"prompt": "a\\ud800", "answer": "2"}', "", "not valid Unicode"),
        ('{"prompt": "a", "answer": "2", "choices": "23"}', "", "`choices` must be a list"),
        ('{"prompt": "a", "answer": "2", "choices": ["3", "4"]}', "", "not among the choices"),
        ('{"prompt": "a", "answer": "2", "choices": ["2", ""]}', "", "a choice is empty"),
        ('{"prompt": "a", "answer": "(2"}', "metric: regex", "not a regular expression"),
        ('{"prompt": "a", "answer": ""}', "metric: contains", "an empty answer"),
    ],
)
def test_a_bad_line_is_named(folder: Callable[..., Path], line: str, settings: str, said: str) -> None:
    tasks = folder(GOOD, "", line, settings=settings)
    with pytest.raises(InputError) as caught:
        load_tasks(tasks)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{tasks / 't' / 'test.jsonl'}:3: ")


def test_multiple_choice_without_choices_is_named(folder: Callable[..., Path]) -> None:
    tasks = folder('{"prompt": "a", "answer": "2", "choices": ["2", "3"]}', GOOD, settings="metric: multiple_choice")
    with pytest.raises(InputError, match=r"test.jsonl:2: multiple_choice needs `choices`"):
        load_tasks(tasks)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("metrik: regex", "task.yaml:metrik: unknown key 'metrik'. Did you mean 'metric'?"),
        ("metric: exact", "unknown metric 'exact'. Did you mean 'exact_match'?"),
        ("max_new_tokens: 0", "task.yaml:max_new_tokens"),
        ("top_p: 1.5", "task.yaml:top_p"),
        ("temperature: -1", "task.yaml:temperature"),
        ("stop: ['', x]", "an empty text would end every answer"),
        ("system: Be brief.", "needs `chat_template: true`"),
        ("- metric", "is not a mapping"),
        ("metric: [", "task.yaml:1: is not valid YAML"),
    ],
)
def test_bad_settings_are_named(folder: Callable[..., Path], settings: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_tasks(folder(GOOD, settings=settings))
    assert said in str(caught.value)
    assert "task.yaml" in str(caught.value)


def test_folders_files_and_names(folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = folder(GOOD)
    folder(GOOD, GOOD.replace("1+", "2+"), split="train")
    (tasks / "lone.jsonl").write_text(GOOD)
    (tasks / "notes").mkdir()
    assert [task.name for task in load_tasks(tasks)] == ["t", "lone"]
    assert [task.name for task in load_tasks(tasks, ["lone", "t", "lone"])] == ["lone", "t"]
    (task,) = load_tasks(tasks / "t")
    assert (task.name, len(task.examples("train")), len(task.examples("test"))) == ("t", 2, 1)
    with pytest.raises(InputError, match="no split 'tset'. Did you mean 'test'?"):
        task.examples("tset")
    monkeypatch.chdir(tasks / "t")
    assert load_tasks(".")[0].name == "t"
    for where, names, said in [
        (tasks, ["tt"], "no task 'tt'. Did you mean 't'?"),
        (tasks / "lone.jsonl", ["t"], "no task 't'"),
        (tasks / "notes", None, "holds no tasks"),
        (tmp_path / "nowhere", None, "no such file or folder"),
    ]:
        with pytest.raises(InputError) as caught:
            load_tasks(where, names)
        assert said in str(caught.value)
        assert str(where) in str(caught.value)


def test_one_name_for_two_tasks_is_refused(folder: Callable[..., Path]) -> None:
    tasks = folder(GOOD)
    (tasks / "t.jsonl").write_text(GOOD)
    with pytest.raises(InputError, match="t is also the task 't'"):
        load_tasks(tasks)


@pytest.mark.parametrize(("content", "said"), [(b"", "no examples"), (b"\n\n", "no examples"), (b"\xff\xfe", "UTF-8")])
def test_an_empty_or_unreadable_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        load_tasks(path)
    assert caught.value.where == str(path)


def test_the_key_is_of_the_content_alone() -> None:
    one = Example("1", "p", ("a",))
    assert one.key == Example("2", "p", ("a",)).key
    others: list[Any] = [("p", ("b",), ()), ("p", ("a", "b"), ()), ("p", ("a",), ("a", "b")), ("pa", ("",), ())]
    assert len({one.key, *(Example("1", *other).key for other in others)}) == 5


def test_a_callable_task_needs_examples() -> None:
    with pytest.raises(InputError, match="no examples"):
        callable_task("t", lambda model, example: 1.0, [])
    with pytest.raises(InputError, match=r"t\[1\]: `prompt` must be text"):
        callable_task("t", lambda model, example: 1.0, [{"prompt": "a", "answer": "b"}, {"answer": "b"}])


# ---------------------------------------------------------------------- other files


def test_csv_and_parquet_say_the_same_as_jsonl(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {
            "id": "a",
            "prompt": 'say "hi",\nplease',
            "answer": ["hi", "ho"],
            "choices": ["hi", "ho", "ha"],
            "tags": ["x"],
        },
        {"id": "b", "prompt": "1,5 + 1 =", "answer": "2,5", "choices": [], "tags": []},
    ]
    (tmp_path / "j.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with open(tmp_path / "c.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        lists = ("answer", "choices", "tags")
        writer.writerows(
            {key: json.dumps(value) if key in lists and value != "2,5" else value for key, value in row.items()}
            for row in rows
        )
    alike = [{**row, "answer": row["answer"] if isinstance(row["answer"], list) else [row["answer"]]} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(alike), tmp_path / "p.parquet")
    (expected,) = load_tasks(tmp_path / "j.jsonl")
    for name in ("c.csv", "p.parquet"):
        (task,) = load_tasks(tmp_path / name)
        assert task.examples("all") == expected.examples("all")
    assert [task.name for task in load_tasks(tmp_path)] == ["c", "j", "p"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt,answer\n1,2\na,b,c\n", ":3: has another number of fields"),
        ("prompt,answer\na\n", ":2: has another number of fields"),
        ('prompt,answer\n"a"b,c\n', ":2: is not CSV"),
        ("prompt,answr\na,b\n", ":2: unknown key 'answr'. Did you mean 'answer'?"),
        ("prompt,answer,choices\na,b,b|c\n", ":2: `choices` is not a JSON list"),
        ("prompt,answer\n", "no examples"),
        ("", "no examples"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_tasks(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_what_is_no_parquet_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="Name a Parquet file") as caught:
        load_tasks(path)
    assert caught.value.where == str(path)


def test_columns_may_have_other_names_and_change_no_outcome(folder: Callable[..., Path]) -> None:
    tasks = folder(
        '{"question": "a", "target": "b", "level": 3}', settings="columns: {prompt: question, answer: target}"
    )
    (task,) = load_tasks(tasks)
    assert [(e.prompt, e.answers) for e in task.examples("test")] == [("a", ("b",))]
    assert task.asking == Task("t", {}).asking
    with pytest.raises(InputError, match="no key 'target'. Did you mean 'targat'?"):
        load_tasks(folder('{"question": "a", "targat": "b"}', settings="columns: {prompt: question, answer: target}"))
    with pytest.raises(InputError, match=r"task.yaml:columns: examples have no 'promt'. Did you mean 'prompt'?"):
        load_tasks(folder(GOOD, settings="columns: {promt: question}"))


def test_a_split_stands_in_one_file(folder: Callable[..., Path]) -> None:
    tasks = folder(GOOD)
    (tasks / "t" / "test.csv").write_text("prompt,answer\na,b\n")
    with pytest.raises(InputError, match="test.jsonl holds the same split"):
        load_tasks(tasks)


def test_a_python_file_is_run_when_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from genepool.tasks import callable_task\n"
        "polite = callable_task('polite', lambda model, example: 1.0, [{'prompt': 'a', 'answer': 'b'}])\n"
        "again = polite\n"
        "short = callable_task('short', lambda model, example: 0.0, [{'prompt': 'a', 'answer': 'b'}])\n"
    )
    assert [task.name for task in load_tasks(path, trusted=[path])] == ["polite", "short"]
    assert [task.name for task in load_tasks(path, ["short"], trusted=[str(path)])] == ["short"]
    monkeypatch.chdir(tmp_path)
    assert len(load_tasks("mine.py", trusted=[path])) == len(load_tasks(path, trusted=["mine.py"])) == 2
    with pytest.raises(InputError, match="holds no tasks"):
        load_tasks(tmp_path, trusted=[path])
    path.write_text("1 / 0")
    with pytest.raises(InputError, match="running it failed .ZeroDivisionError"):
        load_tasks(path, trusted=[path])
    path.write_text("x = 1")
    with pytest.raises(InputError, match="defines no tasks"):
        load_tasks(path, trusted=[path])


@pytest.mark.parametrize("named", ["evil.py", "lm-eval:evil.yaml", "lm-eval:gsm8k@2,evil.yml@1"])
def test_code_that_nobody_trusts_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = named.removeprefix("lm-eval:").split(",")[-1].partition("@")[0]
    (tmp_path / "other.py").touch()
    for name in ("evil.py", "evil.yaml", "evil.yml"):
        (tmp_path / name).write_text("open('ran', 'w')")
    with pytest.raises(InputError, match=f"pass --trust-tasks {file}") as caught:
        load_tasks(named, trusted=["other.py"])
    assert caught.value.where == file
    assert not (tmp_path / "ran").exists()
