"""Samplers that have examples made: by templates or a writer, within budgets, out of the record to the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from training_runs import result_bytes, rows, told

from genepool.errors import InputError
from genepool.tasks import Example, load_tasks
from genepool.tasks.ledger import Outcome
from genepool.training.examples import TrainingExample
from genepool.training.generating import GeneratingSampler, RoundMaking, SkillReport, Wanted, skills_of
from genepool.training.made_examples import Forbidden, MadeExample, Round, plain
from genepool.training.makers import TemplateMaker
from genepool.training.samplers import Arms, make_sampler, samplers
from genepool.training.samplers.dataenvgym import DataEnvGym
from genepool.training.samplers.evosyn import EvoSyn
from genepool.training.samplers.skill_pairs import SkillPairs

OF_ROUNDS = sorted(name for name, kind in samplers().items() if issubclass(kind, GeneratingSampler))

TEMPLATE = """
variables:
  word: {letters: [2, 3], alphabet: abcdefgh}
mix:
  input: word
  k: [1, 2]
  skills:
    first: {says: f, does: "{{ text[0] }}"}
    last: {says: l, does: "{{ text[-1] }}"}
    turn: {says: t, does: "{{ text[::-1] }}"}
prompt: "{{ says | join }}{{ word }}="
counts: {train: 40, valid: 24, test: 24}
"""


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one task, `words`, whose template mixes three skills."""
    folder = tmp_path_factory.mktemp("templates") / "words"
    folder.mkdir()
    (folder / "template.yaml").write_text(TEMPLATE)
    (folder / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 4\n")
    return folder


class Pupil:
    """A student that solves examples of some skills."""

    def __init__(self, knows: Sequence[str] = ()) -> None:
        self.knows = set(knows)

    def outcomes(self, lessons: Sequence[TrainingExample]) -> list[Outcome]:
        return [Outcome(float(set(skills_of(one)) <= self.knows), "?") for one in lessons]

    def fits(self, lesson: TrainingExample) -> bool:
        return True

    def drawn(
        self, lessons: Sequence[TrainingExample], count: int, temperature: float, name: str
    ) -> tuple[list[list[str]], int]:
        raise NotImplementedError


def sampler_of(kind: str, **options: Any) -> GeneratingSampler:
    found = make_sampler(kind, options, Arms(("words",), (40,), 0))
    assert isinstance(found, GeneratingSampler)
    return found


def making_of(templates: Path, sampler: GeneratingSampler, pupil: Pupil, number: int = 0) -> RoundMaking:
    (task,) = load_tasks(str(templates))
    valid = [TrainingExample(task, one) for one in task.examples("valid")]
    stored = [TrainingExample(task, one) for one in task.examples("train")]
    outcomes = pupil.outcomes(valid)
    report = SkillReport(tuple(valid), tuple(one.score for one in outcomes), tuple("?" for _ in valid))
    tasks = {task.name: task}
    used = {plain(one.example.prompt) for one in sampler.made}
    return RoundMaking(
        number,
        0,
        tasks,
        stored,
        pupil,
        report,
        TemplateMaker(tasks, stored),
        Forbidden([task]),
        used,
        sampler.room,
        10**6,
    )


def made_in(templates: Path, sampler: GeneratingSampler, pupil: Pupil, number: int = 0) -> Round:
    making = making_of(templates, sampler, pupil, number)
    found = sampler.make(making)
    if sampler.attempts:
        scores = pupil.outcomes([making.lesson(one) for one in found])
        found = [
            MadeExample(one.task, one.example, {**one.made, "attempt": score.score})
            for one, score in zip(found, scores, strict=True)
        ]
    sampler.take(taken := Round(number, tuple(found), making.counts))
    return taken


# ---------------------------------------------------------------------- makers and the record


def test_templates_make_new_examples_of_the_wanted_skills(templates: Path) -> None:
    sampler = sampler_of("skill_mix", examples=30)
    making = making_of(templates, sampler, Pupil())
    found = making.made([Wanted(("turn", "first"), exact=True)] * 12)
    prompts = [one.example.prompt for one in found]
    assert len(set(prompts)) == len(prompts)
    for one in found:
        assert one.example.tags == ("turn", "first")
        asked, word = one.example.prompt[:2], one.example.prompt[2:-1]
        # Turned, then its first letter: the last one.
        assert asked == "tf"
        assert one.example.answers == (word[-1],)
        assert one.made["by"] == "template"
        assert one.made["skills"] == ["turn", "first"]
    task = making.tasks["words"]
    asked_later = {one.prompt for split in ("valid", "test") for one in task.examples(split)}
    assert not asked_later & set(prompts)
    again = making_of(templates, sampler, Pupil()).made([Wanted(("turn", "first"), exact=True)] * 12)
    assert [one.to_dict() for one in again] == [one.to_dict() for one in found]


def test_prompts_of_tests_are_refused_whatever_their_case_and_spaces(templates: Path) -> None:
    (task,) = load_tasks(str(templates))
    known = task.examples("test")[0].prompt
    forbidden = Forbidden([task])
    assert f"  {known.upper()}\n" in forbidden
    assert task.examples("train")[0].prompt not in forbidden
    making = making_of(templates, sampler_of("skill_mix"), Pupil())
    assert making.maker is not None
    assert making.maker.refused(task, Example("x", known, ("a",)), making) == "contaminated"
    making.used.add(plain("fab="))
    assert making.maker.refused(task, Example("x", "fab=", ("a",)), making) == "repeated"
    assert making.maker.refused(task, Example("x", "  ", ("a",)), making) == "unfit"


@pytest.mark.slow
def test_what_a_template_cannot_make_is_counted(templates: Path) -> None:
    making = making_of(templates, sampler_of("skill_mix"), Pupil())
    # Eight letters make 64 words of two, and 512 of three; half of the examples are for training.
    found = making.made([Wanted(("first",), cell="word=2", exact=True)] * 80)
    assert len(found) < 64
    assert all(len(one.example.prompt) == 4 for one in found)
    assert sum(making.counts.get(one, 0) for one in ("repeated", "failed", "contaminated")) == 80 - len(found)
    with pytest.raises(InputError, match="no task makes 'frist'"):
        making.made([Wanted(("frist",))])


def test_a_made_example_comes_back_from_plain_data(templates: Path) -> None:
    making = making_of(templates, sampler_of("skill_mix"), Pupil())
    (one,) = making.made([Wanted(("last",))])
    told_of = json.loads(json.dumps(one.to_dict()))
    again = MadeExample.from_dict("words", told_of)
    assert again.to_dict() == one.to_dict()
    assert again.example.key == one.example.key
    damaged: list[Any] = [[], {}, {**told_of, "answers": []}, {**told_of, "prompt": 3}, {**told_of, "made": None}]
    for wrong in damaged:
        with pytest.raises(ValueError, match=r".*"):
            MadeExample.from_dict("words", wrong)


@pytest.mark.parametrize("every", [None, 5])
def test_steps_take_shuffled_laps_of_what_was_made(templates: Path, every: int | None) -> None:
    sampler = sampler_of("skill_mix", examples=24, round=12, every=every)
    assert [sampler.due(step) for step in (0, 4, 5, 12)] == ([1] * 4 if every is None else [1, 1, 2, 3])
    made_in(templates, sampler, Pupil())
    first = {one.example.key for one in sampler.made}
    drawn = [one.example.key for step in range(3) for one in sampler.chosen(step, 4)]
    assert sorted(drawn) == sorted(first)
    assert sampler.counts(3, 7).tolist() == [7]
    if every is not None:
        made_in(templates, sampler, Pupil(), 1)
        assert sampler.room == 24 - len(sampler.made)
        drawn = [one.example.key for step in range(5, 11) for one in sampler.chosen(step, 4)]
        assert len(set(drawn)) == len(sampler.made)


def test_a_part_of_a_step_is_of_the_data(templates: Path) -> None:
    sampler = sampler_of("skill_mix", examples=8, data=0.25)
    made_in(templates, sampler, Pupil())
    assert len(sampler.chosen(0, 8)) == 6


# ---------------------------------------------------------------------- what each sampler wants


def test_skill_mix_draws_every_set_alike(templates: Path) -> None:
    sampler = sampler_of("skill_mix", examples=600, k=2, kinds=["short", "long"])
    making = making_of(templates, sampler, Pupil())
    wanted = sampler.plan(making)
    seen: dict[tuple[str, ...], int] = {}
    for one in wanted:
        assert len(set(one.skills)) == 2
        seen[one.skills] = seen.get(one.skills, 0) + 1
    assert len(seen) == 6
    assert min(seen.values()) > 60
    assert 200 < sum(one.kind == "long" for one in wanted) < 400


def test_skill_pairs_by_hand(templates: Path) -> None:
    sampler = sampler_of("skill_pairs", round=40, prior=2.0, least=0.05, examples=1000)
    assert isinstance(sampler, SkillPairs)
    pupil = Pupil(["first", "last"])
    making = making_of(templates, sampler, pupil)
    scores = making.seen.by_skill
    before = sampler.chances(making)
    assert set(before) == {("first", "last"), ("first", "turn"), ("last", "turn")}
    product = scores["first"][0] * scores["last"][0]
    assert before["first", "last"] == pytest.approx(max(1 - product, 0.05))
    taken = made_in(templates, sampler, pupil)
    own = [one.made["attempt"] for one in taken.examples if one.made["pair"] == ["first", "last"]]
    after = sampler.chances(making_of(templates, sampler, pupil, 1))
    assert after["first", "last"] == pytest.approx(max(1 - (2 * product + sum(own)) / (2 + len(own)), 0.05))
    # What is always failed stays at the top.
    assert after["first", "turn"] > after["first", "last"]
    assert all(sorted(one.example.tags) == one.made["pair"] for one in taken.examples)


def test_stat_selects_for_what_is_missing(templates: Path) -> None:
    sampler = sampler_of("stat", missing=1)
    making = making_of(templates, sampler, Pupil(["first", "last"]))
    found = sampler.make(making)
    scores = making.seen.by_skill
    hard = making.seen.hard()
    # Of a hard example the tag that is solved least; here always `turn`.
    assert scores["turn"][0] == 0
    assert making.counts["missing"] == {"turn": len(hard)}
    assert len(found) == 5 * len(hard)
    assert all("turn" in one.example.tags and one.made["by"] == "stored" for one in found)
    # Of one question, five different ones.
    question = [one.example.key for one in found if one.made["question"] == found[0].made["question"]]
    assert len(set(question)) == 5
    fewer = sampler_of("stat", missing=1, examples=7)
    assert len(fewer.make(making_of(templates, fewer, Pupil()))) == 7


def test_stat_writes_two_new_ones_for_each(templates: Path) -> None:
    sampler = sampler_of("stat", make="write", missing=2)
    making = making_of(templates, sampler, Pupil(["first", "last"]))
    found = sampler.make(making)
    assert {one.made["by"] for one in found} == {"template"}
    missing = sum(making.counts["missing"].values())
    assert making.counts["wanted"] == 2 * missing
    stored = {one.example.prompt for one in making.stored}
    assert any(one.example.prompt not in stored for one in found)


def test_nothing_missing_is_told(templates: Path) -> None:
    for name in ("stat", "dataenvgym"):
        sampler = sampler_of(name)
        with pytest.raises(InputError, match="the model fails none of 24 validation examples"):
            sampler.make(making_of(templates, sampler, Pupil(["first", "last", "turn"])))


def test_a_skill_list_gives_to_what_is_failed(templates: Path) -> None:
    sampler = sampler_of("dataenvgym", each=6)
    taken = made_in(templates, sampler, Pupil(["first", "last"]))
    report = making_of(templates, sampler_of("stat"), Pupil(["first", "last"])).seen
    failed = {skill for at in report.hard() for skill in skills_of(report.lessons[at])}
    assert taken.told["allocation"] == dict.fromkeys(sorted(failed), 6)
    # Later, when nothing is failed, nothing is made.
    assert made_in(templates, sampler, Pupil(["first", "last", "turn"]), 1).examples == ()


def test_open_ended_makes_more_of_what_failed(templates: Path) -> None:
    sampler = sampler_of("dataenvgym", environment="open_ended", each=20)
    taken = made_in(templates, sampler, Pupil(["first"]))
    making = making_of(templates, sampler, Pupil(["first"]))
    failed = {making.seen.lessons[at].example.key: making.seen.lessons[at] for at in making.seen.hard()}
    for one in taken.examples:
        assert set(one.example.tags) == set(skills_of(failed[one.made["failed"]]))


@pytest.mark.parametrize("policy", ["fill", "errors"])
def test_a_skill_tree_is_explored_then_filled(templates: Path, policy: str) -> None:
    options = {"environment": "skill_tree", "new": 1, "subskills": 2, "allocation": 4, "most": 6, "policy": policy}
    sampler = sampler_of("dataenvgym", **options)
    assert isinstance(sampler, DataEnvGym)
    pupil = Pupil(["first", "last"])
    first, second, third = (made_in(templates, sampler, pupil, number).told["actions"] for number in range(3))
    opened = list(first["turn"]["allocation"])
    assert first["turn"]["action"] == second["turn"]["action"] == "explore"
    assert len(opened) == 1
    assert first["turn"]["allocation"] == {opened[0]: 4}
    assert set(second["turn"]["allocation"]).isdisjoint(opened)
    assert third["turn"]["action"] == "exploit"
    assert set(third["turn"]["allocation"]) == set(opened) | set(second["turn"]["allocation"])
    if policy == "fill":
        # 4 of at most 6 are there of each.
        assert set(third["turn"]["allocation"].values()) <= {2, 3, 4}
    made = [one for one in sampler.made if one.made["skill"] == "turn"]
    assert all("turn" in one.example.tags for one in made)


@pytest.mark.slow
def test_a_policy_that_only_opens_never_fills(templates: Path) -> None:
    options = {"environment": "skill_tree", "new": 2, "subskills": 1, "allocation": 1, "policy": "open"}
    sampler = sampler_of("dataenvgym", **options)
    pupil = Pupil(["first", "last"])
    actions = [made_in(templates, sampler, pupil, number).told["actions"]["turn"] for number in range(9)]
    opened = [part for one in actions for part in one["allocation"]]
    assert {one["action"] for one in actions} == {"explore"}
    assert len(opened) == len(set(opened)) > 2
    # At last there is none that was not opened.
    assert actions[-1]["allocation"] == {}


# ---------------------------------------------------------------------- through the command

FEW = ("--steps", 6, "--every", 4, "--test", 2, "--batch", 4)
KINDS = {
    "skill_mix": ("--set", "sampler.examples=12"),
    "skill_pairs": ("--set", "sampler.round=4", "--set", "sampler.every=2", "--set", "sampler.examples=10"),
    "stat": ("--set", "sampler.examples=12", "--set", "sampler.questions=3"),
    "dataenvgym": ("--set", "sampler.each=3", "--set", "sampler.every=3"),
    "evosyn": (
        "--set", "sampler.examples=6", "--set", "sampler.solutions=3", "--set", "sampler.keys=2", "--set",
        "sampler.seeds=3", "--set", "sampler.iterations=2", "--set",
        "sampler.checks={long: '{{ answer | length > 2 }}', known: '{{ answer[0] in prompt }}'}",
    ),
}  # fmt: skip


def test_every_sampler_of_rounds_is_typed_here() -> None:
    assert sorted(KINDS) == OF_ROUNDS


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_ROUNDS)
def test_a_training_on_made_examples_is_on_record(
    cli: Callable[..., Any], train: Callable[..., Any], templates: Path, tmp_path: Path, name: str
) -> None:
    answer = train("run", "--sampler", name, *KINDS[name], *FEW, tasks=[templates])
    assert answer.code == 0, answer.err
    found = told(tmp_path / "run")
    assert found["sampler"] == name
    made = rows(tmp_path / "run", "SELECT example, content FROM made")
    assert found["made"]["examples"] == len(made) > 0
    assert {one for (one,) in rows(tmp_path / "run", "SELECT DISTINCT example FROM examples")} <= {
        key for key, _ in made
    }
    for _, content in made:
        said = json.loads(content)["made"]
        assert said["by"] in ("template", "stored")
    assert "<h2>Examples that were made</h2>" in (tmp_path / "run" / "report.html").read_text()
    assert cli("verify-run", tmp_path / "run", "--step", 6).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_ROUNDS)
def test_a_training_that_was_stopped_goes_on_with_what_was_made(
    train: Callable[..., Any], templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from genepool.training.run import Run

    typed = ("--sampler", name, *KINDS[name], *FEW)
    assert train("whole", *typed, tasks=[templates]).code == 0
    query = "SELECT round, place, example, content FROM made ORDER BY round, place"
    for at in (1, 3, 5):
        out, after = f"stopped {at}", Run._after

        def stopped(self: Run, step: Any, *others: Any, at: int = at, after: Any = after) -> bool:
            if step.number == at:
                raise KeyboardInterrupt
            return bool(after(self, step, *others))

        with monkeypatch.context() as patch:
            patch.setattr(Run, "_after", stopped)
            assert train(out, *typed, tasks=[templates]).code == 130
        assert train(out, *typed, tasks=[templates]).code == 0
        assert result_bytes(tmp_path / out) == result_bytes(tmp_path / "whole")
        assert rows(tmp_path / out, query) == rows(tmp_path / "whole", query)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stat", "skill_pairs", "dataenvgym"])
def test_the_control_sees_shuffled_evidence(
    train: Callable[..., Any], templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from genepool.training.rounds import SessionStudent

    pupil = Pupil(["first", "last"])
    monkeypatch.setattr(SessionStudent, "outcomes", lambda self, lessons: pupil.outcomes(lessons))
    seen = {}
    for out in ("false", "true"):
        answer = train(
            out, "--sampler", name, *KINDS[name], "--set", f"sampler.permuted={out}", *FEW, tasks=[templates]
        )
        assert answer.code == 0, answer.err
        ((text,),) = rows(tmp_path / out, "SELECT told FROM rounds WHERE round = 0")
        seen[out] = json.loads(text)["report"]
    # Turned words are never solved; shuffled, what is solved is so by chance.
    assert seen["false"]["turn"][0] == 0 < seen["true"]["turn"][0]
    assert {skill: count for skill, (_, count) in seen["false"].items()} == {
        skill: count for skill, (_, count) in seen["true"].items()
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sampler", "skill_mix", "--set", "sampler.k=4"], "4 skills are combined, and there are 3"),
        (["--sampler", "skill_mix", "--set", "sampler.permuted=true"], "observes nothing"),
        (["--sampler", "skill_mix", "--set", "sampler.name=3"], "skills are named by a writer, and there is none"),
        (["--sampler", "stat", "--set", "sampler.agree=4"], "4 is above `votes`, 3"),
        (["--sampler", "stat", "--set", "sampler.writer=nowhere"], "nowhere"),
        (["--sampler", "stat", "--objective", "dpo"], "has examples with answers made"),
        (["--sampler", "evosyn", "--set", "sampler.keys=0"], "an answer is checked by"),
        (
            ["--sampler", "evosyn", "--set", "sampler.checks={odd: '{{ answer'}"],
            "error: --set sampler.checks:odd: unexpected end of template",
        ),
        (["--sampler", "evosyn", "--set", "sampler.tokens=10"], "may take"),
        (["--sampler", "dataenvgym", "--set", "sampler.ask=x"], "must contain {skills}"),
        (["--sampler", "dataenvgym", "--set", "sampler.open_ask=a {skill}"], "must contain {known}"),
        (["--sampler", "stat", "--set", "sampler.check=x"], "`check` must contain {prompt}"),
        (["--sampler", "stat", "--set", "sampler.blame=x"], "`blame` must contain {written}"),
        (["--sampler", "skill_mix", "--set", "sampler.name_ask=x"], "`name_ask` must contain {examples}"),
        (["--sampler", "evosyn", "--set", "sampler.checks={x: x}"], "does not look at {{ answer }}"),
    ],
)
def test_what_cannot_be_made_is_refused(
    train: Callable[..., Any], templates: Path, tmp_path: Path, options: list[Any], said: str
) -> None:
    answer = train("run", *options, *FEW, tasks=[templates])
    assert answer.code == 2
    assert said in answer.err


@pytest.mark.slow
def test_a_task_of_files_has_no_template(train: Callable[..., Any], tmp_path: Path) -> None:
    answer = train("run", "--sampler", "skill_mix", *FEW)
    assert answer.code == 2
    assert "has no template that further examples could be made by" in answer.err
    assert not (tmp_path / "run").exists()
    # What is selected needs none.
    assert train("run", "--sampler", "stat", "--set", "sampler.examples=8", *FEW).code == 0


# ---------------------------------------------------------------------- writers

WRITES = (
    "--set", "sampler.ask=a {skills}", "--set", "sampler.question_tokens=4", "--set", "sampler.agree=1", "--set",
    "sampler.votes=2",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_ROUNDS)
def test_a_writer_makes_examples_within_its_budget(
    cli: Callable[..., Any], train: Callable[..., Any], small_world: Path, templates: Path, tmp_path: Path, name: str
) -> None:
    blame = ("--set", "sampler.make=write", "--set", "sampler.blame=a {written}{skills}")
    more = blame if name == "stat" else ("--set", "sampler.shown=0")
    own = ("--set", f"sampler.writer={small_world / 'other'}", "--set", "sampler.tokens=400")
    answer = train("run", "--sampler", name, *KINDS[name], *more, *WRITES, *own, *FEW, tasks=[templates])
    if answer.code:
        # A random model may name no skill, and write nothing that may be learned.
        assert "could be made" in answer.err
    made = [json.loads(one)["made"] for (one,) in rows(tmp_path / "run", "SELECT content FROM made")]
    counts = [json.loads(one) for (one,) in rows(tmp_path / "run", "SELECT told FROM rounds")]
    assert 0 < sum(one["tokens"] for one in counts) <= 400
    assert all(one["by"] == "writer" for one in made)
    if name != "stat":
        assert answer.code == 0, answer.err
        assert made
        assert told(tmp_path / "run")["cost"]["tokens"] == sum(one["tokens"] for one in counts)
        assert cli("verify-run", tmp_path / "run", "--step", 6).code == 0


@pytest.mark.slow
def test_a_writer_fills_a_skill_tree(
    cli: Callable[..., Any], train: Callable[..., Any], small_world: Path, templates: Path, tmp_path: Path
) -> None:
    tree = ("environment=skill_tree", "new=1", "allocation=2", "every=3", "shown=0", f"writer={small_world / 'other'}")
    options = [part for one in (*tree, "open_ask=a {skill}{known}") for part in ("--set", f"sampler.{one}")]
    answer = train("run", "--sampler", "dataenvgym", *options, *WRITES, *FEW, tasks=[templates])
    assert answer.code == 0, answer.err
    made = [json.loads(one)["made"] for (one,) in rows(tmp_path / "run", "SELECT content FROM made")]
    counts = [json.loads(one) for (one,) in rows(tmp_path / "run", "SELECT told FROM rounds")]
    opened = {(skill, part) for one in counts for skill, own in one["actions"].items() for part in own["allocation"]}
    assert made
    assert {(one["skill"], one["subskill"]) for one in made} <= opened
    assert all(one["by"] == "writer" and "attempt" in one for one in made)
    assert cli("verify-run", tmp_path / "run", "--step", 6).code == 0


class Scripted:
    """What `WriterMaker.write` and `answers` give instead of a model's own texts."""

    def __init__(self, questions: list[str], answers: list[list[str]], replies: str = "") -> None:
        self.questions, self.texts, self.replies = questions, answers, replies
        self.asked: list[str] = []

    def write(self, prompts: Sequence[str], making: RoundMaking, name: str, *others: Any) -> list[str]:
        self.asked += prompts
        return self.questions[: len(prompts)] if name == "question" else [self.replies] * len(prompts)

    def answers(self, lessons: Sequence[Any], count: int, making: RoundMaking, name: str) -> list[list[str]]:
        return self.texts[: len(lessons)]


def writer_of(templates: Path, script: Scripted, sampler: GeneratingSampler) -> RoundMaking:
    from genepool.training.makers import WriterMaker

    making = making_of(templates, sampler, Pupil(["first", "last"]))
    maker = WriterMaker(making.tasks, making.stored, None, sampler.options)  # type: ignore[arg-type]
    maker.write, maker.answers = script.write, script.answers  # type: ignore[assignment, method-assign]
    making.maker = maker
    return making


def test_a_written_question_is_kept_where_answers_agree(templates: Path) -> None:
    sampler = sampler_of("skill_mix", writer="w", kinds=["short"], ask="A {kind} one with {skills}: {examples}")
    (task,) = load_tasks(str(templates))
    tested = task.examples("test")[0].prompt
    script = Scripted(
        [" tabc= ", tested.upper(), "tabd=", "tabc=", ""],
        [["cba", "x", " cba"], ["a", "b", "c"]],
    )
    making = writer_of(templates, script, sampler)
    found = making.made([Wanted(("first", "turn"), kind="short")] * 5)
    (one,) = found
    assert (one.example.prompt, one.example.answers, one.example.tags) == ("tabc=", ("cba",), ("first", "turn"))
    assert one.made["votes"] == [2, 3]
    assert one.made["by"] == "writer"
    refused = {name: making.counts[name] for name in ("contaminated", "repeated", "unfit", "disagreed")}
    assert refused == dict.fromkeys(refused, 1)
    assert script.asked[0].startswith("A short one with first, turn: ")
    assert script.asked[0].count("=") == 3


def test_a_question_that_is_not_sound_is_dropped(templates: Path) -> None:
    for reply, kept in (("Yes, it is.", 1), ("no", 0)):
        sampler = sampler_of("skill_pairs", writer="w", check="Is this sound? {prompt}")
        making = writer_of(templates, Scripted(["tabc="], [["a", "a", "a"]], reply), sampler)
        assert len(making.made([Wanted(("first", "turn"))])) == kept
        assert making.counts.get("unsound", 0) == 1 - kept


def test_a_writer_that_has_no_tokens_left_is_not_asked(templates: Path) -> None:
    sampler = sampler_of("skill_mix", writer="w", question_tokens=10, votes=5)
    script = Scripted(["tabc="] * 9, [["a"] * 5] * 9)
    making = writer_of(templates, script, sampler)
    # A question and five answers of four tokens: 30.
    making.tokens = 65
    making.made([Wanted(("first", "turn"))] * 9)
    assert len(script.asked) == 2
    assert making.counts["beyond_tokens"] == 7


def test_the_writer_names_missing_skills(templates: Path) -> None:
    sampler = sampler_of("stat", writer="w", missing=2, questions=4)
    making = writer_of(templates, Scripted([], [], "Turn above all, then LAST, then first"), sampler)
    found = sampler.make(making)
    assert making.counts["missing"] == {"last": 4, "turn": 4}
    assert len(found) == 4 * 2 * 5
    silent = writer_of(templates, Scripted([], [], "nothing"), sampler)
    assert sampler.make(silent) == []
    assert silent.counts["unnamed"] == 4


def test_the_writer_names_the_skills_that_are_mixed(templates: Path) -> None:
    sampler = sampler_of("skill_mix", writer="w", name=2, examples=3)
    script = Scripted(["tabc=", "tabd=", "tabe="], [["a", "a"]] * 3, "1. turning\n- taking one\n3. more")
    found = sampler.make(writer_of(templates, script, sampler))
    assert [sorted(one.example.tags) for one in found] == [["taking one", "turning"]] * 3


# ---------------------------------------------------------------------- evosyn


def test_the_writer_names_the_parts_of_a_skill_tree(templates: Path) -> None:
    options = {"environment": "skill_tree", "new": 2, "subskills": 3, "allocation": 2, "examples": 1000}
    sampler = sampler_of("dataenvgym", writer="w", open_ask="{skill} not {known}: {examples} ({count})", **options)
    script = Scripted(["tabc="] * 99, [["a"] * 3] * 99, "1. turning twice\n- Turning back\n3. more")
    making = writer_of(templates, script, sampler)
    left = making.tokens
    found = sampler.make(making)
    actions = making.counts["actions"]
    assert sorted(actions) == list(making.maker.skills)
    assert actions["turn"] == {
        "action": "explore", "allocation": {"turning twice": 2, "Turning back": 2}, "reward": None
    }  # fmt: skip
    asked = [one for one in script.asked if one.startswith("turn not ")]
    assert len(asked) == 1
    assert asked[0].startswith("turn not none: ")
    assert asked[0].endswith("(2)")
    assert asked[0].count("=") == 3
    needs = {one.removeprefix("Write one new problem that needs these skills: ").split(".")[0] for one in script.asked}
    assert "turn, and of it: turning twice" in needs
    (one, *_) = found
    assert one.example.tags == (one.made["skill"],)
    assert one.made["subskill"] in ("turning twice", "Turning back")
    assert making.tokens == left
    sampler.take(Round(0, tuple(found), making.counts))
    # What it names again opens nothing, whatever its case; there is room for one more.
    script.replies = "TURNING TWICE\nturning a part"
    second = writer_of(templates, script, sampler)
    sampler.make(second)
    assert second.counts["actions"]["turn"]["allocation"] == {"turning a part": 2}
    assert "turn not turning twice, Turning back: " in "".join(script.asked)
    sampler.take(Round(1, (), second.counts))
    third = writer_of(templates, script, sampler)
    sampler.make(third)
    assert third.counts["actions"]["turn"]["action"] == "exploit"
    assert len(third.counts["actions"]["turn"]["allocation"]) == 3
    # A writer without tokens names nothing.
    silent = sampler_of("dataenvgym", writer="w", **options)
    making = writer_of(templates, script, silent)
    making.tokens = 10
    assert silent.make(making) == []
    assert making.counts["unnamed"] == 2 * len(making.maker.skills)


def evosyn_of(**options: Any) -> EvoSyn:
    found = sampler_of("evosyn", **options)
    assert isinstance(found, EvoSyn)
    return found


class Drawing(Pupil):
    """A student that draws the right answer with a chance, and otherwise one of two wrong ones."""

    def drawn(
        self, lessons: Sequence[TrainingExample], count: int, temperature: float, name: str
    ) -> tuple[list[list[str]], int]:
        from genepool.seeding import numpy_generator

        found = []
        for lesson in lessons:
            generator = numpy_generator(1, name, lesson.example.key)
            texts = [lesson.example.answer, "x", "y"]
            found.append([texts[int(at)] for at in generator.choice(3, count, p=[0.6, 0.3, 0.1])])
        return found, count * len(lessons)


@pytest.mark.slow
def test_evosyn_learns_the_best_answer_and_says_how_often_it_was_right(templates: Path) -> None:
    sampler = evosyn_of(examples=30, solutions=8, keys=8, seeds=10)
    making = making_of(templates, sampler, Drawing())
    found = sampler.make(making)
    assert making.counts["agreement"]["evolved"] >= making.counts["agreement"]["first"]
    right = 0
    for one in found:
        assert one.made["answered"] == "evosyn"
        assert one.made["passed"][1] == 8
        right += one.example.answer not in ("x", "y")
    assert making.counts["right"] == right > len(found) / 2
    assert making.counts["tokens"] == 16 * (10 + 30)
    # The rule of the first round is that of all.
    sampler.take(Round(0, tuple(found), json.loads(json.dumps(making.counts))))
    later = making_of(templates, sampler, Drawing(), 1)
    assert sampler._rule(later) == sampler._rule(making_of(templates, sampler, Drawing(), 1))
    assert later.counts["rule"] == json.loads(json.dumps(making.counts["rule"]))


def test_checks_are_templates_and_one_that_fails_is_not_passed(templates: Path) -> None:
    checks = {"long": "{{ answer | length > 1 }}", "odd": "{{ answer[9] == 'a' }}", "same": "{{ answer in prompt }}"}
    sampler = evosyn_of(keys=0, checks=checks, solutions=2)
    (task,) = load_tasks(str(templates))
    lesson = TrainingExample(task, Example("one", "tab=", ("ba",)))
    solutions, passes = sampler._passes(lesson, ["ba", "a"])
    assert solutions == ["ba", "a"]
    assert passes.tolist() == [[True, False, False], [False, False, True]]


def test_what_no_check_tells_apart_is_dropped(templates: Path) -> None:
    sampler = evosyn_of(keys=0, checks={"all": "{{ answer == answer }}"}, solutions=2, seeds=2, examples=4)
    making = making_of(templates, sampler, Drawing())
    assert sampler.make(making) == []
    assert making.counts["trivial"] == 4


def test_the_control_of_evosyn_knows_nothing_of_answers(templates: Path) -> None:
    shares = []
    for permuted in (False, True):
        sampler = evosyn_of(solutions=8, keys=8, seeds=20, permuted=permuted, iterations=0)
        problems = sampler._verified(making_of(templates, sampler, Drawing()))
        shares.append([one.right.tolist() for one in problems])
    plainly, mixed = shares
    assert plainly != mixed
    assert sum(map(sum, plainly)) == sum(map(sum, mixed))
