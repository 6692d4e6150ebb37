"""Metrics from outside the package: the how-to's own code, typed as commands, and everything a file can get wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_model

Cli = Callable[..., Any]

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "add-a-metric.md").read_text()
(CLOSENESS,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(SETTINGS,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^genepool (.* --tasks .*)$", PAGE, re.MULTILINE)
METHOD = """
from genepool.merging.method import Method
from genepool.merging.registry import register

@register
class Halfway(Method):
    name, source, when, formula, inputs, base = "halfway", "none", "Never.", "mean", "models", "optional"

    def merge(self, group, survey):
        return group.models.mean(0)
"""


def metric_of(body: str, name: str = "own", above: str = '@metric("1")') -> str:
    return f"from genepool.tasks.metrics import metric\n\n{above}\ndef {name}(output, example, strip):\n    {body}\n"


pytestmark = pytest.mark.usefixtures("own_registry")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models, and a task of the page's metric."""
    for seed, name in enumerate("ab"):
        write_model(tmp_path / "models" / name, seed=seed)
    folder = tmp_path / "tasks" / "say"
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text(f"{SETTINGS}max_new_tokens: 4\n")
    rows = [{"id": f"e{i}", "prompt": f"{letter}=", "answer": letter * 3} for i, letter in enumerate("abcdefgh")]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "closeness.py").write_text(CLOSENESS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plugin(world: Path, code: str, metric: str = "own") -> tuple[str, ...]:
    """A command that asks a model a task of a metric, which the plugin `own.py` may define."""
    (world / "own.py").write_text(code)
    (world / "tasks" / "say" / "task.yaml").write_text(f"metric: {metric}\nmax_new_tokens: 4\n")
    return ("evaluate", "models/a", "--tasks", "tasks", "--plugin", "own.py", "--quiet", "--json")


def test_the_pages_commands_work_as_they_stand(world: Path, cli: Cli) -> None:
    assert [command.split()[0] for command in COMMANDS] == ["evaluate", "compare", "profile"]
    for command in COMMANDS:
        answer = cli(*command.split(), "--json")
        assert answer.code == 0, answer.err
    told = json.loads(cli(*COMMANDS[0].split(), "--json").out)
    assert told["evaluated"] == 0, "outcomes of a plugin's metric are kept as any other"


def test_a_metric_is_there_only_when_it_is_named(world: Path, cli: Cli) -> None:
    answer = cli("evaluate", "models/a", "--tasks", "tasks", "--quiet")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert "task.yaml:metric: unknown metric 'closeness'" in answer.err
    assert "If it is a plugin of yours, name it with --plugin." in answer.err


def test_another_version_of_the_file_asks_again(world: Path, cli: Cli) -> None:
    call = plugin(world, metric_of("return 0.25"))
    assert json.loads(cli(*call).out)["evaluated"] == 8
    assert json.loads(cli(*call).out)["evaluated"] == 0
    plugin(world, metric_of("return 0.75"))
    told = json.loads(cli(*call).out)
    assert (told["evaluated"], told["results"][0]["mean"]) == (8, 0.75)


def test_one_file_brings_a_method_and_a_metric(world: Path, cli: Cli) -> None:
    call = plugin(world, metric_of("return True") + METHOD)
    assert json.loads(cli(*call).out)["results"][0]["mean"] == 1.0
    assert cli("methods", "halfway", "--plugin", "own.py").code == 0


def test_metrics_of_the_package_keep_their_outcomes(world: Path, cli: Cli) -> None:
    """A plugin that is named and not used changes nothing."""
    call = plugin(world, metric_of("return 0.5"), metric="exact_match")
    without = tuple(word for word in call if word not in ("--plugin", "own.py"))
    assert json.loads(cli(*without).out)["evaluated"] == 8
    assert json.loads(cli(*call).out)["evaluated"] == 0


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1", "own.py: it defines neither a merge method nor a metric. Put @register above the class of a method"),
        ("import nothing_of_this_name", "own.py:1: cannot be run (ModuleNotFoundError"),
        (metric_of("return 1.0", "regex"), "own.py: there is already a metric 'regex'. Choose another name."),
        (metric_of("return 1.0", above="@metric"), 'own.py: the metric has no version. Write @metric("1") above'),
        (metric_of("return float('nan')"), "own.py: the metric 'own' gives nan for the example 'e0', expected"),
        (metric_of("return 2.0"), "own.py: the metric 'own' gives 2.0 for the example 'e0', expected a number from 0"),
        (metric_of("return 'good'"), "own.py: the metric 'own' gives 'good' for the example 'e0', expected a number"),
        (metric_of("return None"), "own.py: the metric 'own' gives None for the example 'e0'"),
        (metric_of("return output[1000]"), "own.py:5: the metric 'own' fails on the example 'e0' (IndexError: "),
        (metric_of("raise ValueError('two\\nlines')"), "the metric 'own' fails on the example 'e0' (ValueError: two)"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_one_line(world: Path, cli: Cli, code: str, said: str) -> None:
    answer = cli(*plugin(world, code))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert said in answer.err


def test_what_keeps_an_example_from_being_judged_is_told_of_its_line(world: Path, cli: Cli) -> None:
    above = "def _wrong(example):\n    return ('an answer too short', 'Write more') if example.id == 'e3' else None\n\n"
    answer = cli(*plugin(world, metric_of("return 1.0", above=f'{above}@metric("1", wrong=_wrong)')))
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "test.jsonl:4: an answer too short. Write more." in answer.err
