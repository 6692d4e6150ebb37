"""Tasks of lm-evaluation-harness: asked by our engine, judged as by lm-eval's own runner, kept in the ledger."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import InputError
from genepool.tasks import LanguageModel, Ledger, OutcomeTable, Task, evaluate, lm_eval_tasks, load_tasks
from genepool.tasks.harness_names import written_in_harness
from genepool.tasks.harness_tasks import metrics_of, parse_notation
from genepool.weights import open_weights

pytest.importorskip("lm_eval")

CHOICE = """
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: "{{c}}"
doc_to_target: a
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: brier_score}]
"""
WRITING = """
output_type: generate_until
doc_to_text: "{{q}} "
doc_to_target: "{{c[a]}}"
generation_kwargs: {until: ["b", ":"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match, ignore_case: true}]
"""
ROLLING = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{q}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
LAST_WORD = """
output_type: loglikelihood
doc_to_text: "{{q}}"
doc_to_target: " {{c[a]}}"
metric_list: [{metric: perplexity}, {metric: acc}]
"""


@pytest.fixture
def yaml(tmp_path: Path) -> Callable[..., Path]:
    """`yaml("name", BODY, documents=...)` -> the file of a task whose documents lie beside it."""

    def write(
        name: str, body: str, documents: list[dict[str, Any]] | None = None, shots: list[Any] | None = None
    ) -> Path:
        folder = tmp_path / "harness"
        folder.mkdir(exist_ok=True)
        files = {"test": folder / f"{name}.test.jsonl", "train": folder / f"{name}.train.jsonl"}
        files["test"].write_text("".join(json.dumps(line) + "\n" for line in documents or drawn(12)))
        files["train"].write_text("".join(json.dumps(line) + "\n" for line in shots or drawn(6, seed=9)))
        data = "".join(f"    {split}: {path}\n" for split, path in files.items())
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n{data}test_split: test\n"
        (folder / f"{name}.yaml").write_text(f"{head}fewshot_split: train\n{body}")
        return folder / f"{name}.yaml"

    return write


@pytest.fixture(autouse=True)
def _own_data_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def drawn(count: int, seed: int = 0) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    word: Callable[[], str] = lambda: "".join(chance.choice("abcdefgh") for _ in range(chance.randint(1, 4)))  # noqa: E731
    return [
        {"q": f"{word()} {word()}=", "c": [word(), word() + word(), f" {word()}"], "a": chance.randrange(3)}
        for _ in range(count)
    ]


@pytest.fixture
def model(tiny_model: Callable[..., Path]) -> LanguageModel:
    return LanguageModel.load(open_weights(tiny_model("m", seed=4, merging=True, max_position_embeddings=64)))


def ask(model: LanguageModel, task: Task, batch_size: int = 5, **options: Any) -> OutcomeTable:
    with Ledger() as ledger:
        return evaluate([model], [task], ledger=ledger, batch_size=batch_size, **options)


def theirs(model: LanguageModel, file: Path, shots: int = 0) -> list[dict[str, Any]]:
    """lm-eval's own samples by its own runner."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    runner = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=4)
    result = simple_evaluate(
        runner, tasks=[str(file)], num_fewshot=shots or None, bootstrap_iters=0, log_samples=True, verbosity="ERROR"
    )
    (samples,) = result["samples"].values()
    return sorted(samples, key=lambda sample: sample["doc_id"])


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 2])
def test_choices_are_lm_evals(model: LanguageModel, yaml: Callable[..., Path], shots: int) -> None:
    file = yaml("choice", CHOICE)
    (task,) = lm_eval_tasks(f"{file}@{shots}" if shots else str(file))
    outcomes = ask(model, task).outcomes(model.name, "choice")
    for outcome, sample in zip(outcomes, theirs(model, file, shots), strict=True):
        assert outcome.detail["acc"] == sample["acc"]
        assert outcome.score == outcome.detail["acc_norm"] == sample["acc_norm"]
        likelihoods = [float(one[0]) for one in sample["filtered_resps"]]
        assert outcome.detail["logprob"] == pytest.approx(max(likelihoods), abs=1e-3)
        share = 1 / sum(math.exp(one - max(likelihoods)) for one in likelihoods)
        assert outcome.detail["confidence"] == pytest.approx(share, abs=1e-3)
        assert outcome.output == sample["doc"]["c"][likelihoods.index(max(likelihoods))]


@pytest.mark.slow
def test_written_answers_are_lm_evals(model: LanguageModel, yaml: Callable[..., Path]) -> None:
    file = yaml("writing", WRITING)
    (task,) = lm_eval_tasks(str(file))
    outcomes = ask(model, task).outcomes(model.name, "writing")
    samples = theirs(model, file)
    assert [outcome.output for outcome in outcomes] == [sample["filtered_resps"][0] for sample in samples]
    assert [outcome.score for outcome in outcomes] == [sample["exact_match"] for sample in samples]
    assert len({outcome.output for outcome in outcomes}) > 3


TWO_FILTERS = (
    WRITING
    + """
filter_list:
  - name: strict-match
    filter: [{function: regex, regex_pattern: "^([a-h]+)"}, {function: take_first}]
  - name: flexible-extract
    filter: [{function: regex, group_select: -1, regex_pattern: "([a-h])"}, {function: take_first}]
"""
)


@pytest.mark.slow
def test_filters_of_one_task_keep_their_names_and_count_once(
    model: LanguageModel, yaml: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    """The means are those of lm-eval's own results, filter by filter; asked here, and imported from its samples."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    documents = [{**one, "c": [one["c"][0][:1]] * 3} for one in drawn(12)]
    file = yaml("two", TWO_FILTERS, documents)
    runner = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=4)
    result = simple_evaluate(runner, tasks=[str(file)], bootstrap_iters=0, log_samples=True, verbosity="ERROR")
    (theirs_,) = result["results"].values()
    wanted = {one: theirs_[f"exact_match,{one}"] for one in ("strict-match", "flexible-extract")}
    (task,) = lm_eval_tasks(str(file))
    table = ask(model, task)
    outcomes = table.outcomes(model.name, "two")
    assert len(outcomes) == len(documents)
    assert table.mean(model.name, "two") == pytest.approx(wanted["strict-match"])
    for name, mean in wanted.items():
        kept = [outcome.detail[f"exact_match,{name}"] for outcome in outcomes]
        assert sum(kept) / len(kept) == pytest.approx(mean)
    (samples,) = result["samples"].values()
    assert len(samples) == 2 * len(documents)
    log = tmp_path / "samples_two.jsonl"
    log.write_text("".join(json.dumps(sample, default=str) + "\n" for sample in samples))
    assert cli("outcomes", "import", log, "--ledger", tmp_path / "l.sqlite", "--model", "m").code == 0
    with Ledger(tmp_path / "l.sqlite") as ledger:
        rows = list(ledger.rows())
    for name, mean in wanted.items():
        scores = [row["score"] for row in rows if row["task"] == f"two:{name}"]
        assert len(scores) == len(documents)
        assert sum(scores) / len(scores) == pytest.approx(mean)


@pytest.mark.slow
def test_perplexity_is_kept_per_example(model: LanguageModel, yaml: Callable[..., Path]) -> None:
    """Texts longer than the context are read in windows, as lm-eval reads them.

    No window repeats another: lm-eval's runner takes windows of the same tokens for one, whatever is judged in them.
    """
    long = " ".join(document["q"] for document in drawn(40, seed=2))
    file = yaml("rolling", ROLLING, [*drawn(5), {"q": long, "c": [], "a": 0}])
    (task,) = lm_eval_tasks(str(file))
    outcomes = ask(model, task).outcomes(model.name, "rolling")
    for outcome, sample in zip(outcomes, theirs(model, file), strict=True):
        logprob, words = sample["word_perplexity"]
        assert outcome.detail["logprob"] == pytest.approx(logprob, rel=1e-4)
        assert outcome.score == outcome.detail["word_likelihood"] == pytest.approx(math.exp(logprob / words), rel=1e-3)
        assert outcome.detail["byte_likelihood"] == pytest.approx(
            math.exp(logprob / sample["byte_perplexity"][1]), rel=1e-3
        )


@pytest.mark.slow
def test_single_likelihoods_are_lm_evals(model: LanguageModel, yaml: Callable[..., Path]) -> None:
    file = yaml("last", LAST_WORD)
    (task,) = lm_eval_tasks(str(file))
    outcomes = ask(model, task).outcomes(model.name, "last")
    for outcome, sample in zip(outcomes, theirs(model, file), strict=True):
        assert outcome.score == sample["acc"]
        assert outcome.detail["perplexity"] == pytest.approx(sample["perplexity"], rel=1e-4)


@pytest.mark.slow
def test_a_long_prompt_loses_its_beginning(model: LanguageModel, yaml: Callable[..., Path]) -> None:
    documents = [{"q": "abcd ef " * 20 + "=", "c": ["a", "bcd", "ef"], "a": 1}, *drawn(3)]
    for name, body, key in (("choice", CHOICE, "acc_norm"), ("writing", WRITING, "exact_match")):
        file = yaml(name, body, documents)
        (task,) = lm_eval_tasks(str(file))
        scores = ask(model, task).scores(model.name, name).tolist()
        assert scores == [sample[key] for sample in theirs(model, file)]


def test_the_second_time_nothing_is_asked(model: LanguageModel, yaml: Callable[..., Path]) -> None:
    file = yaml("choice", CHOICE)
    first = ask(model, lm_eval_tasks(str(file))[0], limit=5)
    again = ask(model, lm_eval_tasks(str(file))[0])
    third = ask(model, load_tasks(f"lm-eval:{file}", trusted=[file])[0])
    assert (first.evaluated, again.evaluated, third.evaluated) == (5, 7, 0)
    assert third.outcomes(model.name, "choice") == again.outcomes(model.name, "choice")


def test_other_data_or_shots_are_another_asking(yaml: Callable[..., Path]) -> None:
    file = yaml("choice", CHOICE)
    (plain,), (shown,) = lm_eval_tasks(str(file)), lm_eval_tasks(str(file), few_shot=1)
    (other,) = lm_eval_tasks(str(yaml("choice", CHOICE, drawn(12, seed=5))))
    assert len({plain.asking, shown.asking, other.asking}) == 3
    assert plain.asking == lm_eval_tasks(str(yaml("choice", CHOICE)))[0].asking


def test_command_line(cli: Callable[..., Any], model: LanguageModel, yaml: Callable[..., Path], tmp_path: Path) -> None:
    files = yaml("choice", CHOICE), yaml("last", LAST_WORD)
    notation = f"lm-eval:{files[0]},{files[1]}@1"
    refused = cli("evaluate", tmp_path / "m", "--tasks", notation, "--trust-tasks", files[0])
    assert (refused.code, f"pass --trust-tasks {files[1]}" in refused.err) == (2, True)
    trusted = ("--trust-tasks", files[0], "--trust-tasks", files[1])
    answer = cli("evaluate", tmp_path / "m", "--tasks", notation, *trusted, "--json")
    assert answer.code == 0
    assert "it/s" not in answer.err
    assert [row["task"] for row in json.loads(answer.out)["results"]] == ["choice", "last"]


def bad(name: str, body: str, key: str) -> Any:
    return pytest.param(body, key, id=name)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        bad("template", CHOICE.replace("{{q}}", "{{q"), "lm-eval cannot load it"),
        bad("metric", CHOICE.replace("acc_norm", "no_such_metric"), "lm-eval:"),
    ],
)
def test_wrong_files_are_one_error(yaml: Callable[..., Path], body: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        lm_eval_tasks(str(yaml("wrong", body)))


def test_a_metric_that_is_no_number_names_the_example(
    model: LanguageModel, yaml: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.api.task import ConfigurableTask

    (task,) = lm_eval_tasks(str(yaml("choice", CHOICE)))
    monkeypatch.setattr(ConfigurableTask, "process_results", lambda self, doc, results: {"acc": float("nan")})
    with pytest.raises(
        InputError, match=r"lm-eval:choice:0: the metric acc returned nan, expected a number from 0 to 1"
    ):
        ask(model, task)


def test_data_that_is_elsewhere_is_named(tmp_path: Path) -> None:
    file = tmp_path / "far.yaml"
    file.write_text(f"task: far\ndataset_path: someone/far_data\ntest_split: test\n{CHOICE}")
    with pytest.raises(InputError, match=r"its data \(someone/far_data\) is not on this machine") as caught:
        lm_eval_tasks(str(file))
    assert "hf download --repo-type dataset someone/far_data" in str(caught.value)


@pytest.mark.parametrize(
    ("notation", "said"),
    [
        ("lm-eval:", "no task is named"),
        ("lm-eval:gsm8k@many", "'many' is not a number of shown examples"),
        ("lm-eval:missing.yaml", "no such file"),
        ("lm-eval:arc_eazy", "Did you mean 'arc_easy'?"),
        ("lm-eval:1e+308", "lm-eval has no task '1e+308'. Check its spelling; `lm-eval ls tasks` lists all"),
    ],
)
def test_wrong_names(notation: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name needs the index of all that lm-eval brings, which takes 8 s."""
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **_: pytest.fail("the index is read"))
    with pytest.raises(InputError) as caught:
        load_tasks(notation)
    assert said in str(caught.value)


@pytest.mark.slow
def test_every_name_that_lm_eval_knows_is_found_without_its_index() -> None:
    from lm_eval.tasks import TaskManager

    known = list(TaskManager().task_index)
    assert len(known) > 10_000
    assert [name for name in known if not written_in_harness(name)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("arc", ("arc", None, False, None)),
        ("arc@5", ("arc", 5, False, None)),
        ("arc+chat=acc", ("arc", None, True, "acc")),
        ("gsm@0+chat=exact_match/strict", ("gsm", 0, True, "exact_match/strict")),
    ],
)
def test_a_notation_says_shots_chat_and_metric(text: str, found: tuple[Any, ...]) -> None:
    assert tuple(parse_notation(text)) == found
    assert str(parse_notation(text)) == text


@pytest.mark.parametrize("text", ["arc=", "arc@five", "arc@-1"])
def test_a_wrong_notation_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_notation(text)


@pytest.mark.slow
def test_the_metric_of_a_notation_is_the_score(model: LanguageModel, yaml: Callable[..., Path]) -> None:
    file = yaml("choice", CHOICE)
    assert metrics_of(str(file)) == {"choice": ("acc", "acc_norm", "brier_score")}
    (plain,), (chosen,) = lm_eval_tasks(str(file)), lm_eval_tasks(f"{file}=acc")
    assert plain.asking != chosen.asking
    usual, other = (ask(model, task).outcomes(model.name, "choice") for task in (plain, chosen))
    assert [one.score for one in usual] == [one.detail["acc_norm"] for one in usual]
    assert [one.score for one in other] == [one.detail["acc"] for one in usual]
    with pytest.raises(InputError, match="no metric 'accs'"):
        lm_eval_tasks(f"{file}=accs")
    with pytest.raises(InputError, match="no filter 'strict'"):
        lm_eval_tasks(f"{file}=acc/strict")
    with pytest.raises(InputError, match="no chat template"):
        ask(model, lm_eval_tasks(f"{file}+chat")[0])


@pytest.mark.slow
def test_a_file_of_mergekit_evolve_finds_its_tasks(
    cli: Callable[..., Any], yaml: Callable[..., Path], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """By name in a folder of lm-eval's files, which must be trusted; one that is nowhere is refused by its name."""
    file = yaml("choice", CHOICE)
    for name, seed in (("a", 4), ("b", 5)):
        tiny_model(name, seed=seed, merging=True, max_position_embeddings=64)
    study = tmp_path / "evolve.yaml"
    text = "genome: {models: [a, b], merge_method: linear}\ntasks: [{name: choice, metric: 'acc,none'}]\n"
    study.write_text(text + "num_fewshot: 1\n")
    call = ("evolve", study, "--out", tmp_path / "run", "--budget", 6)
    refused = cli(*call, "--tasks", file.parent)
    assert refused.code == 2
    assert f"pass --trust-tasks {file}" in refused.err
    done = cli(*call, "--tasks", file.parent, "--trust-tasks", file)
    assert done.code == 0, done.err
    assert f"lm-eval:{file}@1=acc" in (tmp_path / "run" / "study.yaml").read_text()
    study.write_text(text.replace("choice", "no_such_task"))
    refused = cli("evolve", study, "--out", tmp_path / "other", "--tasks", file.parent)
    assert refused.code == 2
    assert "tasks[0]: the task 'no_such_task' is not on this machine" in refused.err
    study.write_text(text.replace("acc,none", "f1,none"))
    refused = cli("evolve", study, "--out", tmp_path / "other", "--tasks", file.parent, "--trust-tasks", file)
    assert "tasks[0].metric: choice has no metric 'f1'" in refused.err
