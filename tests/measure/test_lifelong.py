"""Lifelong metrics: what must hold for any log, matrices and logs by hand, and l2metrics' published example."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import theilslopes

from genepool import seeding
from genepool.errors import InputError
from genepool.measure.lifelong import LifelongTransfer, continual_accuracy, lifelong_metrics, moving_average
from genepool.measure.lifelong_log import Block, read_log

matrices = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=n, max_size=n)
)
blocks = st.builds(
    Block,
    st.sampled_from(["train", "evaluate"]),
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.floats(0.0625, 1), min_size=1, max_size=12).map(tuple),
)
logs = st.lists(blocks, min_size=1, max_size=14)


def train(task: str, *scores: float) -> Block:
    return Block("train", task, scores)


def evaluate(task: str, *scores: float) -> Block:
    return Block("evaluate", task, scores)


# ---------------------------------------------------------------------- accuracy matrices


def test_an_accuracy_matrix_by_hand() -> None:
    # The first task is best right after its stage, the second after the last.
    found = continual_accuracy([[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.6, 0.85, 0.7]], [0.1, 0.1, 0.2])
    assert found.average == pytest.approx((0.6 + 0.85 + 0.7) / 3)
    assert found.backward_transfers == pytest.approx((-0.3, 0.05, None))
    assert found.backward_transfer == pytest.approx((-0.3 + 0.05) / 2)
    assert found.forward_transfers == pytest.approx((None, 0.1, 0.1))
    assert found.forward_transfer == pytest.approx(0.1)
    # Best before the last stage, from the stage that taught it: 0.9 and 0.8.
    assert found.forgettings == pytest.approx((0.3, -0.05, None))
    assert found.forgetting == pytest.approx(0.125)
    assert json.loads(json.dumps(found.to_dict()))["forgettings"][2] is None


@given(matrices)
def test_forgetting_is_at_least_the_loss_since_a_task_was_learned(matrix: list[list[float]]) -> None:
    found = continual_accuracy(matrix)
    for lost, moved in zip(found.forgettings[:-1], found.backward_transfers[:-1], strict=True):
        assert lost is not None
        assert moved is not None
        assert lost >= -moved
    assert (found.forward_transfer, set(found.forward_transfers)) == (None, {None})
    assert found.average == pytest.approx(np.mean(matrix[-1]))


def test_one_task_has_an_average_and_nothing_else() -> None:
    found = continual_accuracy([[0.4]], [0.1])
    assert (found.average, found.backward_transfer, found.forward_transfer, found.forgetting) == (0.4, None, None, None)


@pytest.mark.parametrize(
    ("matrix", "untrained"),
    [([[1.0, 0.0]], None), ([], None), ([[np.nan]], None), ([[1.0]], [1.0, 0.0]), ([[1.0]], [np.nan])],
)
def test_what_is_no_accuracy_matrix_is_refused(matrix: list[list[float]], untrained: list[float] | None) -> None:
    with pytest.raises(InputError):
        continual_accuracy(matrix, untrained)


# ---------------------------------------------------------------------- the suite


@given(logs)
def test_what_is_none_and_what_is_not(log: list[Block]) -> None:
    found = lifelong_metrics(log, {"a": [0.1, 0.5, 0.9]})
    for task in found.tasks:
        assert (task.maintenance is None) == (not task.maintained)
        assert (task.recovery is None) == (len(task.trained) < 3)
        assert len(task.recovery_times) == max(0, len(task.trained) - 1)
        assert (task.relative is None) == (task.task != "a" or not task.trained)
        assert (task.saturation is None) == (task.to_saturation is None) == (not task.trained)
        assert task.efficiency is None or (task.efficiency > 0 and task.task == "a")
    for transfer in found.transfers:
        assert transfer.trained != transfer.on
        for ratio, contrast in zip(transfer.ratios, transfer.contrasts, strict=True):
            assert ratio is not None
            assert contrast == pytest.approx((ratio - 1) / (ratio + 1))
    known = [task.evaluated[-1] for task in found.tasks if task.evaluated]
    assert found.terminal == (pytest.approx(np.mean(known)) if known else None)
    json.dumps(found.to_dict(), allow_nan=False)


@given(logs, st.floats(0.5, 4))
def test_the_scale_of_scores_is_no_matter_to_ratios(log: list[Block], scale: float) -> None:
    expert = [0.2, 0.4, 0.5, 0.8]
    wide = [Block(block.kind, block.task, tuple(scale * score for score in block.scores)) for block in log]
    one = lifelong_metrics(log, {"a": expert})
    other = lifelong_metrics(wide, {"a": [scale * score for score in expert]})
    for name in ("forward_ratio", "forward_contrast", "backward_ratio", "backward_contrast", "relative"):
        assert getattr(one, name) == pytest.approx(getattr(other, name))
    assert one.maintenance is None or other.maintenance == pytest.approx(scale * one.maintenance)


def test_a_log_by_hand() -> None:
    log = [
        evaluate("a", 0.2, 0.2),
        evaluate("b", 0.1, 0.3),
        train("a", *[0.1] * 9, 0.6),
        evaluate("a", 0.5, 0.7),
        evaluate("b", 0.3),
        train("b", 0.2, 0.4),
        evaluate("a", 0.3),
        evaluate("b", 0.4),
        train("a", 0.5, 0.6),
        evaluate("a", 0.8),
        evaluate("b", 0.6),
        train("a", 0.5),
    ]
    found = lifelong_metrics(log)
    a, b = found.tasks
    # The last tenth of ten scores is the last.
    assert a.trained == pytest.approx((0.6, 0.6, 0.5))
    assert a.evaluated == pytest.approx((0.2, 0.6, 0.3, 0.8))
    # 0.3 after 0.6, and 0.8 is the first after another training; b: 0.6 after 0.4.
    assert a.maintained == pytest.approx((-0.3,))
    assert b.maintained == pytest.approx((0.2,))
    assert found.maintenance == pytest.approx(-0.05)
    # b before its training, by a's: 0.2 to 0.3. a by b's: 0.6 to 0.3. b by a's second: 0.4 to 0.6.
    assert {(t.trained, t.on, t.direction): t.ratios for t in found.transfers} == {
        ("a", "b", "forward"): pytest.approx((1.5,)),
        ("b", "a", "backward"): pytest.approx((0.5,)),
        ("a", "b", "backward"): pytest.approx((1.5,)),
    }
    assert found.forward_ratio == pytest.approx(1.5)
    assert found.forward_contrast == pytest.approx(0.1 / 0.5)
    assert found.backward_ratio == pytest.approx(1.0)
    assert found.backward_contrast == pytest.approx((-0.3 / 0.9 + 0.2 / 1.0) / 2)
    # 0.6 is reached after one experience, then never: one more than there are.
    assert a.recovery_times == (1, 2)
    assert (a.recovery, b.recovery, found.recovery) == (-1.0, None, -1.0)
    assert found.terminal == pytest.approx((0.8 + 0.6) / 2)
    assert (found.relative, found.efficiency) == (None, None)


def test_transfer_needs_a_lone_other_task_between_two_evaluations() -> None:
    both = [evaluate("c", 0.5), train("a", 1), train("b", 1), evaluate("c", 0.6), train("c", 1), evaluate("c", 0.7)]
    assert lifelong_metrics(both).transfers == ()
    # Its own training between: no transfer from a either.
    own = [evaluate("c", 0.5), train("a", 1), train("c", 1), evaluate("c", 0.9)]
    assert lifelong_metrics(own).transfers == ()
    # From nothing there is a contrast and no ratio; from nothing to nothing neither.
    rise = lifelong_metrics([evaluate("c", 0), train("a", 1), evaluate("c", 0.5)])
    assert rise.transfers == (LifelongTransfer("a", "c", "forward", (None,), (1.0,)),)
    assert (rise.forward_ratio, rise.forward_contrast) == (None, 1.0)
    still = lifelong_metrics([evaluate("c", 0), train("a", 1), evaluate("c", 0)])
    assert (still.forward_ratio, still.forward_contrast) == (None, None)
    below = lifelong_metrics([evaluate("c", -1), train("a", 1), evaluate("c", 1)])
    assert (below.forward_ratio, below.forward_contrast) == (None, None)


def test_single_task_experts_by_hand() -> None:
    # Fewer than 15 scores are not averaged: saturation is the highest score.
    found = lifelong_metrics([train("a", 0.1, 0.4), train("a", 0.8, 0.8, 0.7)], {"a": [0.2, 0.3, 0.4, 1.0]}).tasks[0]
    assert found.relative == pytest.approx((0.1 + 0.4 + 0.8 + 0.8) / (0.2 + 0.3 + 0.4 + 1.0))
    assert (found.saturation, found.to_saturation) == (0.8, 2)
    assert found.efficiency == pytest.approx(0.8 / 1.0 * 3 / 2)


@pytest.mark.parametrize(
    ("scores", "expert"),
    [
        ([0.5, 0.4, 0.45], [0.1, 0.9]),  # Saturated from the start.
        ([0.1, 0.5], [0.9, 0.1]),  # So is the expert.
        ([0.0, 0.1], [0.1, 0.9]),  # Hardly learned.
        ([0.8, 0.9, 0.1, 0.1], [0.1, 0.9]),  # It falls.
        ([-0.2, -0.1], [-0.2, -0.1]),  # No scale for ratios.
    ],
)
def test_sample_efficiency_is_not_made_up(scores: list[float], expert: list[float]) -> None:
    assert lifelong_metrics([train("a", *scores)], {"a": expert}).efficiency is None


def test_an_expert_is_as_good_as_itself() -> None:
    generator = seeding.numpy_generator(0, "curve")
    curve = np.linspace(0, 1, 600) + 0.1 * generator.random(600)
    found = lifelong_metrics([train("a", *curve[:250]), train("a", *curve[250:])], {"a": curve.tolist()})
    assert (found.relative, found.efficiency) == (1.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_the_moving_average_keeps_shape_level_and_bounds(scores: list[float]) -> None:
    smooth = moving_average(scores)
    assert smooth.shape == (len(scores),)
    assert min(scores) - 1e-9 <= smooth.min()
    assert smooth.max() <= max(scores) + 1e-9
    assert moving_average([0.5] * len(scores)) == pytest.approx([0.5] * len(scores))


def test_the_moving_average_by_hand() -> None:
    # Twenty scores, a window of four: two before, the score itself and one after, reflected at the ends.
    smooth = moving_average(np.arange(20.0))
    assert smooth[[0, 1, 2, 18, 19]] == pytest.approx([(2 + 1 + 0 + 1) / 4, 1.0, 1.5, 17.5, (17 + 18 + 19 + 18) / 4])


@given(st.lists(st.integers(1, 9), min_size=3, max_size=8))
def test_recovery_is_theil_and_sens_slope_turned_over(lengths: list[int]) -> None:
    found = lifelong_metrics([train("a", *[0.1] * n, 1.0) for n in lengths]).tasks[0]
    assert found.recovery_times == tuple(lengths[1:])
    assert found.recovery == pytest.approx(-theilslopes(lengths[1:]).slope)


# Normalised evaluation scores of l2metrics 3.1's example "multi_task" (examples/results/multi_task_metrics.json): all
# three tasks are evaluated before the first and after every second training of three rounds and more.
PUBLISHED = {
    "task1_1": [1.0, 71.404, 84.508, 81.379, 95.251, 97.16, 94.916, 99.326, 99.507, 98.397, 100.746, 101.0],
    "task2_1": [1.0, 24.672, 59.725, 72.574, 76.613, 94.048, 96.706, 98.162, 100.65, 100.657, 100.674, 101.0],
    "task3_1": [1.0, 3.665, 35.011, 78.144, 81.901, 84.156, 97.155, 96.781, 97.378, 99.261, 100.456, 100.73],
}
TRAINED = ["task1_1", "task2_1", "task3_1"] * 4


def test_the_example_published_with_l2metrics() -> None:
    log = []
    for round_, scores in enumerate(zip(*PUBLISHED.values(), strict=True)):
        log += [evaluate(task, score) for task, score in zip(PUBLISHED, scores, strict=True)]
        log += [train(TRAINED[round_], 1.0)]
    found = lifelong_metrics(log)
    assert found.maintenance == pytest.approx(3.8626981189, abs=1e-3)
    assert found.forward_ratio == pytest.approx(12.6298550026, abs=1e-3)
    assert found.backward_ratio == pytest.approx(1.08214831, abs=1e-4)
    ratios = {(t.trained, t.on, t.direction): t.ratios for t in found.transfers}
    assert ratios["task1_1", "task3_1", "forward"] == pytest.approx((3.66536,), abs=1e-3)
    assert ratios["task3_1", "task1_1", "backward"] == pytest.approx((0.962972, 0.976903, 0.988852), abs=1e-4)
    assert found.tasks[0].maintained == pytest.approx(
        (13.103284, 9.974146, 1.909123, -0.334976, 0.180636, -0.928703, 0.254053), abs=2e-3
    )


def test_no_blocks_and_blocks_without_scores_are_refused() -> None:
    with pytest.raises(InputError, match="no blocks"):
        lifelong_metrics([])
    with pytest.raises(InputError, match="expert has no scores"):
        lifelong_metrics([train("a", 1.0)], {"a": []})
    for kind, scores in (("train", ()), ("evaluate", (np.nan,)), ("sleep", (1.0,))):
        with pytest.raises(InputError):
            Block(kind, "a", scores)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- reading

HEADER = "block_num,block_type,task_name,exp_num,reward"


def test_a_log_is_read_alike_in_every_form(tmp_path: Path) -> None:
    # Two rows of experience 3 count by their mean; tasks of one evaluation may take turns.
    rows = [
        ["0", "test", "a", "0", "0.5"],
        ["0", "test", "b", "1", "0.25"],
        ["0", "test", "a", "2", "1"],
        ["1", "train", "a", "4", "0.75"],
        ["1", "train", "a", "3", "0"],
        ["1", "train", "a", "3", "1"],
    ]
    expected = [evaluate("a", 0.5, 1), evaluate("b", 0.25), train("a", 0.5, 0.75)]
    names = HEADER.split(",")
    (tmp_path / "log.csv").write_text("\ufeff" + "\r\n".join([HEADER, *map(",".join, rows)]) + "\r\n")
    (tmp_path / "log.tsv").write_text("\n".join("\t".join(row) for row in [names, *rows]))
    words = {"test": "evaluation", "train": "learning"}
    objects = [
        {"block_num": int(n), "block_type": words[kind], "task_name": task, "exp_num": int(e), "reward": float(score)}
        for n, kind, task, e, score in rows
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, objects)) + "\n\n")
    for ending in ("csv", "tsv", "jsonl"):
        assert read_log(tmp_path / f"log.{ending}") == expected


def test_another_measure_and_experiences_that_were_not_completed(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(
        "block_num,block_type,task_name,exp_num,exp_status,performance\n"
        "0,train,a,0,complete,2.5\n0,train,a,1,incomplete,0\n0,train,a,2,complete,3\n"
    )
    assert read_log(file, "performance") == [train("a", 2.5, 3)]


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("block_num,block_type,task,exp_num,reward\n0,train,a,0,1", ":2", "no 'task_name'. Did you mean 'task'?"),
        (f"{HEADER}\n0,sleep,a,0,1", ":2", "got the block type 'sleep', expected train or test"),
        (f"{HEADER}\n0,train,a,0,1\n0,train,a,1,nan", ":3", "got 'nan' for reward, expected a number"),
        (f"{HEADER}\n0,train,a,0,inf", ":2", "expected a number"),
        (f"{HEADER}\n0,train,a,0,", ":2", "no 'reward'"),
        (f"{HEADER}\n0,train,a,0.5,1", ":2", "got '0.5' for exp_num"),
        (f"{HEADER}\n-1,train,a,0,1", ":2", "got '-1' for block_num"),
        (f"{HEADER}\n1,train,a,0,1\n0,train,a,1,1", ":3", "block 0 comes after block 1"),
        (f"{HEADER}\n0,train,a,0", ":2", "another number of fields"),
        (f'{HEADER}\n0,train,"a,0,1', ":2", "not a table"),
        (HEADER, "", "no blocks"),
        ("", "", "no blocks"),
    ],
)
def test_wrong_tables_are_refused_with_file_and_line(tmp_path: Path, text: str, line: str, complaint: str) -> None:
    file = tmp_path / "log.csv"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_log(file)
    assert caught.value.where == f"{file}{line}"
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ('{"block_num": 0, "block_type": "train", "task_name": "a", "exp_num": 0, "reward": NaN}', "expected a number"),
        (
            '{"block_num": 0, "block_type": "train", "task_name": "a", "exp_num": true, "reward": 1}',
            "expected a number",
        ),
        ('{"block_num": 0, "block_type": "train", "task_name": "a", "exp_num": 0, "reward": [1]}', "expected a number"),
        ('{"block_num": 0, "block_type": "train", "task_name": "a", "exp_num": 0}', "no 'reward'"),
    ],
)
def test_wrong_lines_are_refused_with_file_and_line(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text("\n" + text)
    with pytest.raises(InputError) as caught:
        read_log(file)
    assert caught.value.where == f"{file}:2"
    assert complaint in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_log(tmp_path / "none.csv")
