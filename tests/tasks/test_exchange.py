"""Outcomes leave a ledger and come back the same; a wrong line stops all of them; lm-eval's logs are understood."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.tasks import Example, Ledger, Outcome
from genepool.tasks.exchange import export_outcomes, import_outcomes

words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=4)
evaluations = st.lists(
    st.tuples(
        words,
        words,
        words,
        words,
        st.lists(
            st.tuples(words, words, st.builds(Outcome, st.floats(0, 1), st.none() | words)),
            min_size=1,
            max_size=3,
            unique_by=lambda row: row[0],
        ),
    ),
    max_size=3,
)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        ledger.record("f1", "one", "add", "asked", [("k1", "1", Outcome(1.0, "2 \u2028", {"logprob": -0.5}))])
        ledger.record("f2", "two", "add", "asked", [("k1", "1", Outcome(0.0)), ("k2", "2", Outcome(0.5))])
    return path


@pytest.mark.slow
@settings(max_examples=20)
@given(evaluations)
def test_out_and_in_again_is_the_same_and_in_twice_is_in_once(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("exchange")
    with Ledger(folder / "a.sqlite") as first, Ledger(folder / "b.sqlite") as second:
        first.record_all(drawn)
        rows = list(first.rows())
        assert export_outcomes(first, folder / "o.jsonl") == len(rows)
        if not rows:
            return
        assert import_outcomes(second, folder / "o.jsonl") == (len(rows), len(rows))
        assert import_outcomes(second, folder / "o.jsonl") == (len(rows), 0)
        by_place = [json.dumps(row, sort_keys=True) for row in rows]
        assert sorted(by_place) == sorted(json.dumps(row, sort_keys=True) for row in second.rows())


def test_from_the_command_line(filled: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "o.jsonl"
    answer = cli("outcomes", "export", "--ledger", filled, out, "--json")
    assert (answer.code, json.loads(answer.out)["exported"], json.loads(answer.out)["schema"]) == (0, 3, 1)
    assert cli("outcomes", "export", "--ledger", filled, out).code == 2
    assert cli("outcomes", "export", "--ledger", filled, out, "--overwrite").code == 0
    other = tmp_path / "other.sqlite"
    answer = cli("outcomes", "import", "--ledger", other, out, "--json")
    assert (answer.code, json.loads(answer.out)["rows"], json.loads(answer.out)["imported"]) == (0, 3, 3)
    assert "0 outcomes" in cli("outcomes", "import", "--ledger", other, out).out
    missing = cli("outcomes", "export", "--ledger", tmp_path / "none.sqlite", out, "--overwrite")
    assert (missing.code, "no such file" in missing.err) == (2, True)
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ('{"fingerprint": "f"}', "`model` must be text"),
        ({"score": 2}, "`score` must be a number from 0 to 1, got 2"),
        ({"score": "1"}, "`score` must be a number"),
        ({"output": 3}, "`output` must be text or null"),
        ({"detail": {"a": "b"}}, "`detail` must hold numbers"),
        ({"id": "\ud800"}, "not JSON"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_imported(filled: Path, tmp_path: Path, line: Any, said: str) -> None:
    path = tmp_path / "o.jsonl"
    with Ledger(filled) as ledger:
        export_outcomes(ledger, path)
    good = path.read_text(encoding="utf-8").split("\n")[:-1]
    wrong = line if isinstance(line, str) else json.dumps({**json.loads(good[0]), **line})
    path.write_text("\n".join([*good, wrong]), encoding="utf-8")
    with Ledger(tmp_path / "new.sqlite") as ledger:
        with pytest.raises(InputError, match=said) as caught:
            import_outcomes(ledger, path)
        assert caught.value.where == f"{path}:4"
        assert list(ledger.rows()) == []


def sample(**changes: Any) -> dict[str, Any]:
    """A line as lm-eval 0.4.9 logs it for a task that writes its answer."""
    return {
        "doc_id": 7,
        "doc": {"question": "1+1"},
        "target": "2",
        "arguments": {"gen_args_0": {"arg_0": "Q: 1+1\nA:", "arg_1": {"until": ["\n"]}}},
        "resps": [[" 2"]],
        "filtered_resps": ["2"],
        "filter": "strict-match",
        "metrics": ["exact_match"],
        "doc_hash": "0",
        "exact_match": 1.0,
        **changes,
    }


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_samples_of_lm_eval(tmp_path: Path, cli: Callable[..., Any]) -> None:
    path = write(
        tmp_path / "samples_gsm8k_cot_2025-01-31T10-00-00.123456.jsonl",
        sample(),
        sample(doc_id=8, exact_match=0.0, filtered_resps=["3"], target="4"),
        sample(filter="flexible-extract", exact_match=0.0),
    )
    assert cli("outcomes", "import", "--ledger", tmp_path / "l.sqlite", path).err.startswith("error: --model: ")
    answer = cli("outcomes", "import", "--ledger", tmp_path / "l.sqlite", path, "--model", "org/m", "--json")
    assert json.loads(answer.out)["imported"] == 3
    with Ledger(tmp_path / "l.sqlite") as ledger:
        rows = list(ledger.rows())
    # Two filters of one answer are two scores, not two examples.
    tasks = {"gsm8k_cot:strict-match": [1.0, 0.0], "gsm8k_cot:flexible-extract": [0.0]}
    assert {row["model"] for row in rows} == {"org/m"}
    assert {task: [row["score"] for row in rows if row["task"] == task] for task in tasks} == tasks
    named = ("outcomes", "import", path, "--ledger", tmp_path / "named.sqlite", "--model", "org/m", "--task", "mine")
    assert cli(*named).code == 0
    with Ledger(tmp_path / "named.sqlite") as ledger:
        assert {row["task"] for row in ledger.rows()} == {"mine:strict-match", "mine:flexible-extract"}
    alone = write(tmp_path / "samples_gsm8k.jsonl", sample(), sample(doc_id=8))
    assert cli("outcomes", "import", alone, "--ledger", tmp_path / "alone.sqlite", "--model", "org/m").code == 0
    with Ledger(tmp_path / "alone.sqlite") as ledger:
        assert {row["task"] for row in ledger.rows()} == {"gsm8k"}
    # What two filters make of one answer are two ways of asking.
    assert len({row["asking"] for row in rows}) == 2
    first = next(row for row in rows if row["id"] == "7" and row["score"] == 1)
    assert first["output"] == "2"
    assert first["example"] == Example("7", "Q: 1+1\nA:", ("2",)).key
    assert len({row["fingerprint"] for row in rows}) == 1
    assert len(rows[0]["fingerprint"]) == 64


def test_multiple_choice_samples_keep_their_choices(tmp_path: Path) -> None:
    line = sample(
        target="1",
        arguments=[["Sky:", " red"], ["Sky:", " blue"]],
        resps=[[["-3.0", "False"]], [["-1.0", "True"]]],
        filtered_resps=[["-3.0", "False"], ["-1.0", "True"]],
        metrics=["acc", "acc_norm"],
        acc=1.0,
        acc_norm=0.0,
    )
    del line["exact_match"], line["filter"]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        import_outcomes(ledger, write(tmp_path / "mine.jsonl", line), model="m", task="sky")
        (row,) = ledger.rows()
    assert row["example"] == Example("7", "Sky:", (" blue",), (" red", " blue")).key
    assert (row["task"], row["score"], row["output"]) == ("sky", 0.0, None)
    assert row["detail"] == {"acc": 1.0, "acc_norm": 0.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exact_match": 3}, "`exact_match` must be a number"),
        ({"exact_match": None}, "`exact_match` must be a number"),
        ({"arguments": []}, "does not hold what the model read"),
    ],
)
def test_wrong_samples_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "s.jsonl", sample(), sample(**changes))
    with Ledger(tmp_path / "l.sqlite") as ledger, pytest.raises(InputError, match=said) as caught:
        import_outcomes(ledger, path, model="m")
    assert caught.value.where == f"{path}:2"


def test_samples_without_a_score_and_empty_files_are_refused(tmp_path: Path) -> None:
    line = sample()
    del line["exact_match"]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        with pytest.raises(InputError, match="no known metric"):
            import_outcomes(ledger, write(tmp_path / "s.jsonl", line), model="m")
        with pytest.raises(InputError, match="no outcomes"):
            import_outcomes(ledger, write(tmp_path / "e.jsonl"))
        with pytest.raises(InputError, match="is not a regular file"):
            import_outcomes(ledger, tmp_path)
