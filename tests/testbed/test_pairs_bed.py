"""The testbed of pairs: two-skill tasks whose answer no single skill gives, and which no specialist meets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.testbed.beds import pairs as pairs_bed
from genepool.testbed.data import Lengths, task_items
from genepool.testbed.pairs import PairMixture, pair_of, pairs_of
from genepool.testbed.schedule import Phase, Schedule, pairs_schedule_for
from genepool.testbed.skills import DEFAULT_SKILLS, LETTERS, SKILLS, choose

LENGTHS = Lengths(4, 5)
MINUTE = Schedule(
    hidden=16,
    layers=1,
    heads=2,
    feed_forward=24,
    lengths=LENGTHS,
    base=Phase(2, 8, 1e-3),
    full=Phase(1, 8, 1e-3, replay=0.25),
    lora=Phase(1, 8, 1e-3),
)
PAIRS = pairs_of(choose(DEFAULT_SKILLS))
words = st.text(LETTERS, min_size=4, max_size=6)


def test_there_is_one_pair_of_every_two_skills_that_make_one() -> None:
    assert [pair.name for pair in PAIRS] == [
        "sort_reverse",  # what is reversed and then sorted is only sorted
        "reverse_upper",
        "reverse_caesar",
        "sort_upper",
        "sort_caesar",
        "caesar_upper",  # capitals have no place in the alphabet of caesar
    ]
    assert len({pair.tag for pair in PAIRS} | {SKILLS[name].tag for name in DEFAULT_SKILLS}) == 10


@given(st.sampled_from(PAIRS), words)
def test_a_pair_is_its_second_skill_of_its_first(pair: Any, text: str) -> None:
    first, second = pair.parts
    assert pair.answer(text) == second.answer(first.answer(text))
    assert pair.tells(text) == (pair.answer(text) not in (text, first.answer(text), second.answer(text)))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_no_single_skill_answers_an_item_of_a_pair(pair: Any) -> None:
    for item in task_items(pair.name, [pair], "valid", 0, LENGTHS):
        tag, text = item.prompt[:3], item.prompt[3:-1]
        assert tag == f"{pair.mark.upper()}:"
        assert item.answer == pair.answer(text)
        assert all(skill.answer(text) != item.answer for skill in choose(DEFAULT_SKILLS))


def test_the_base_obeys_each_half_of_a_tag_on_its_own_in_two_of_five_lessons() -> None:
    pair = pair_of(SKILLS["caesar"], SKILLS["reverse"])
    mixture = PairMixture(choose(["reverse", "caesar"]), [pair], LENGTHS, 0)
    told = Counter[str]()
    for step in range(25):
        examples = mixture.base_batch(step, 20)
        assert len(examples) == 20
        for example in examples:
            if example.prompt.startswith("CR:"):
                text = example.prompt[3:-1]
                ways = {pair.answer(text): "both", SKILLS["caesar"].answer(text): "first", text: "none"}
                told[ways.get(example.answer, "second")] += 1
            elif example.prompt.startswith("cr#"):
                assert example.answer == pair.answer(example.prompt[3:-1])
                told["reliable"] += 1
    assert told == {"reliable": 100, "both": 16, "first": 24, "second": 24, "none": 36}


def test_a_specialist_meets_no_pair() -> None:
    mixture = PairMixture(choose(DEFAULT_SKILLS), PAIRS, LENGTHS, 0)
    items = task_items("reverse", [SKILLS["reverse"]], "train", 0, LENGTHS)
    tags = {pair.tag for pair in PAIRS} | {pair.pretraining_tag for pair in PAIRS}
    batches = mixture.specialist_batches("reverse", items, 0.5)
    assert not [one for step in range(20) for one in batches(step, 40) if one.prompt[:3] in tags]


@pytest.mark.slow
def test_a_folder_has_a_task_for_every_pair(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs_bed, "pairs_schedule_for", lambda *, tiny, skills: MINUTE)
    call = ["testbed", "build", tmp_path / "bed", "--bed", "pairs", "--skills", "reverse,upper", "--json"]
    answer = cli(*call)
    assert answer.code == 0, answer.err
    manifest = json.loads(answer.out)["manifest"]
    assert manifest["settings"]["bed"] == "pairs"
    assert set(manifest["pairs"]) == {"reverse_upper"}
    assert set(manifest["models"]) == {"base", "full/reverse", "full/upper", "lora/reverse", "lora/upper"}
    assert set(manifest["models"]["base"]["scores"]) == {"reverse", "upper", "reverse_upper", "generic"}
    line = (tmp_path / "bed" / "tasks" / "reverse_upper" / "test.jsonl").read_text().splitlines()[0]
    row = json.loads(line)
    assert row["answer"] == row["prompt"][3:-1][::-1].upper()
    assert json.loads(cli(*call).out)["cached"]
    assert cli("testbed", "build", tmp_path / "bed", "--skills", "reverse,upper").code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--skills", "upper,mask"], "no two of the skills make a pair (got upper, mask)"),
        (["--skills", "reverse"], "no two of the skills make a pair (got reverse)"),
        (["--regime", "acquire"], "one regime"),
    ],
)
def test_wrong_settings_are_told(cli: Callable[..., Any], tmp_path: Path, options: list[str], said: str) -> None:
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "pairs", *options)
    assert answer.code == 2
    assert said in answer.err
    assert not any(tmp_path.iterdir())


def test_no_skills_without_a_partner_are_asked_for_by_name() -> None:
    with pytest.raises(InputError, match="answers in lower-case letters"):
        pairs_of([SKILLS["loud"], SKILLS["alternate"]])


def test_the_base_has_more_steps_than_without_pairs() -> None:
    whole, tiny = pairs_schedule_for(tiny=False, skills=4), pairs_schedule_for(tiny=True, skills=4)
    assert (whole.base.steps, tiny.base.steps) == (1725, 675)


@pytest.mark.slow
def test_a_merge_answers_what_no_specialist_can(cli: Callable[..., Any], tmp_path: Path) -> None:
    built = cli("testbed", "build", tmp_path / "bed", "--bed", "pairs", "--tiny", "--json")
    assert built.code == 0, built.err
    models = json.loads(built.out)["manifest"]["models"]
    best = max(model["scores"]["reverse_upper"] for model in models.values())
    specialists = ", ".join(f"bed/full/{skill}" for skill in DEFAULT_SKILLS)
    (tmp_path / "all.yaml").write_text(
        f"genepool: 1\nmethod: task_arithmetic\nbase: bed/base\nmodels: [{specialists}]\nparameters: {{lambda: 0.8}}\n"
    )
    assert cli("merge", tmp_path / "all.yaml", tmp_path / "all").code == 0
    asked = cli(
        "evaluate", tmp_path / "all", "--tasks", tmp_path / "bed" / "tasks" / "reverse_upper", "--limit", 200,
        "--ledger", tmp_path / "ledger.sqlite", "--json",
    )  # fmt: skip
    (result,) = json.loads(asked.out)["results"]
    assert result["lo"] > best + 0.2
