"""The benchmarks measure what they say: one child at a time, in turn, on checkpoints that are what they claim."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measuring import CommandFailed, Figures, measure, median, paired_ratio, table, time_in_turn
from benchmarks.merge import __main__ as command_line
from benchmarks.merge import checkpoints, floor, peer, rows, sampling, scaling, scaling_figure, side_by_side, svds
from genepool.errors import InputError
from genepool.merging import all_methods, load_recipe, plan_merge
from genepool.weights import open_weights

TINY = checkpoints.Layout(hidden=8, inner=12, layers=3, vocabulary=16)
BUSY = "import time\nwhile time.process_time() < 0.5: pass"


def _python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def _run(wall: float) -> Figures:
    return Figures(wall, 2 * wall, 0.5, 0.25)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return checkpoints.make(tmp_path / "models", TINY, 3)


@pytest.mark.slow
def test_a_childs_memory_is_its_own_and_not_its_parents() -> None:
    # The parent's peak is beyond anything the first child has, whatever ran in this process before.
    assert len(b"x" * int(3e8)) == 3e8
    small = measure(_python("pass"))
    large = measure(_python(f"kept = b'x' * 200_000_000\n{BUSY}"))
    assert small.resident < 0.1
    assert small.anonymous <= small.resident
    assert 0.2 <= large.anonymous < 0.3
    assert large.resident >= large.anonymous


def test_a_childs_processor_time_is_its_own() -> None:
    busy, idle = measure(_python(BUSY)), measure(_python("pass"))
    assert busy.cpu >= 0.5 > idle.cpu


def test_a_failed_command_says_its_last_line_however_much_it_wrote() -> None:
    code = "import sys; sys.stderr.write('noise\\n' * 200_000); sys.exit('error: the reason')"
    with pytest.raises(CommandFailed, match="^error: the reason$"):
        measure(_python(code))


def _appending(path: Path, letter: str, then: str = "") -> list[str]:
    return _python(f"import sys; open(sys.argv[1], 'a').write('{letter}'); {then}", str(path))


def test_commands_run_in_turn_after_a_turn_to_warm_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    runs = time_in_turn(
        {"a": _appending(log, "A"), "b": _appending(log, "B")}, 2, between=lambda: print(end="|", file=log.open("a"))
    )
    assert log.read_text() == "|A|B|A|B|A|B|"
    assert {name: len(seen) for name, seen in runs.items()} == {"a": 2, "b": 2}


def test_the_first_turn_counts_when_a_command_is_long(tmp_path: Path) -> None:
    log = tmp_path / "log"
    runs = time_in_turn({"a": _appending(log, "A"), "b": _appending(log, "B")}, 2, long=0)
    assert log.read_text() == "ABAB"
    assert {name: len(seen) for name, seen in runs.items()} == {"a": 2, "b": 2}


def test_a_command_that_fails_is_left_out_of_the_rest_with_its_reason(tmp_path: Path) -> None:
    log = tmp_path / "log"
    # The second fails in its second turn.
    failing = "sys.exit('twice' if open(sys.argv[1]).read().count('B') > 1 else 0)"
    commands = {"a": _appending(log, "A"), "b": _appending(log, "B", failing)}
    failures: dict[str, str] = {}
    runs = time_in_turn(commands, 3, failures=failures)
    assert log.read_text() == "ABABAA"
    assert failures == {"b": "twice"}
    assert list(runs) == ["a"]
    log.unlink()
    with pytest.raises(CommandFailed, match="twice"):
        time_in_turn(commands, 3)


def test_medians_and_paired_ratios() -> None:
    runs, under, plans = [_run(10), _run(6), _run(8)], [_run(4), _run(2), _run(1)], [_run(2), _run(2), _run(4)]
    assert median(runs) == Figures(8, 16, 0.5, 0.25)
    # 2.5, 3, 8 and, beyond the plan, 2, 2, 4: not the ratio of the medians, 4.
    assert paired_ratio(runs, under) == 3
    assert paired_ratio(runs, under, plans) == 2


def test_a_table_is_markdown() -> None:
    assert table("T", "n", ("a", "b"), [["1", "2"]]) == "## T\n\nn\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


@given(st.floats(0.04, 3))
def test_a_layout_has_about_the_parameters_asked_for(billions: float) -> None:
    layout = checkpoints.layout_of(billions)
    one_layer = layout.parameters - checkpoints.Layout(layout.hidden, layout.inner, layout.layers - 1).parameters
    assert abs(layout.parameters - billions * 1e9) <= max(one_layer, 2e6)
    assert layout.hidden % 256 == 0


def test_no_checkpoint_smaller_than_its_vocabulary() -> None:
    with pytest.raises(InputError, match=r"0\.01B"):
        checkpoints.layout_of(0.01)


def test_checkpoints_are_fine_tunes_of_their_base(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = {name: open_weights(models / name) for name in checkpoints.model_names(3)}
    base = opened["base"]
    assert {name: base.info(name).shape for name in base.names()} == TINY.shapes()
    assert {base.info(name).dtype for name in base.names()} == {"BF16"}
    moves = []
    for expert in ("expert1", "expert2", "expert3"):
        matrices = [name for name in base.names() if base.info(name).numel > 8]
        moves.append(torch.cat([(opened[expert].read(n).float() - base.read(n).float()).flatten() for n in matrices]))
        # A step of 5% of a spread of 0.02, blurred by the rounding to bfloat16.
        assert 0.0009 < float(moves[-1].std()) < 0.0011
    assert abs(float(torch.corrcoef(torch.stack(moves))[0, 1])) < 0.1


def test_checkpoints_do_not_depend_on_blocks_being_drawn_in_order(tmp_path: Path, models: Path) -> None:
    again = checkpoints.make(tmp_path / "again", TINY, 1)
    for name in ("base", "expert1"):
        assert checkpoints.weights_file(again, name).read_bytes() == checkpoints.weights_file(models, name).read_bytes()


def test_a_tensor_of_several_blocks_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_BLOCK", 50)
    folder = checkpoints.make(tmp_path / "blocks", TINY, 1)
    embedding = open_weights(folder / "base").read("model.embed_tokens.weight").float().flatten()
    assert embedding.numel() == 128
    assert embedding.unique().numel() > 100
    assert 0.015 < float(embedding.std()) < 0.025


def test_checkpoints_are_kept_extended_and_replaced(models: Path) -> None:
    def stamps() -> dict[str, int]:
        return {file.parent.name: file.stat().st_mtime_ns for file in models.glob("*/model.safetensors")}

    before = stamps()
    checkpoints.make(models, TINY, 2)
    assert stamps() == before
    checkpoints.make(models, TINY, 4)
    assert set(stamps()) == {*before, "expert4"}
    assert {name: stamps()[name] for name in before} == before
    checkpoints.weights_file(models, "expert2").write_bytes(b"cut short")
    checkpoints.make(models, TINY, 4)
    assert [name for name in before if stamps()[name] != before[name]] == ["expert2"]
    checkpoints.make(models, checkpoints.Layout(8, 12, 2, 16), 1)
    assert set(stamps()) == {"base", "expert1"}


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage(1, 1, 10))
    with pytest.raises(InputError, match="GB are free.*--work"):
        checkpoints.make(tmp_path / "models", TINY, 3)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_floor_writes_the_first_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "BUFFER_BYTES", 7)
    (tmp_path / "a").write_bytes(bytes(range(100)))
    (tmp_path / "b").write_bytes(b"other")
    floor.copy_first_read_all(str(tmp_path / "out"), [str(tmp_path / "a"), str(tmp_path / "b")], sync=True)
    assert (tmp_path / "out").read_bytes() == bytes(range(100))
    with pytest.raises(FileNotFoundError):
        floor.copy_first_read_all(str(tmp_path / "out"), [str(tmp_path / "a"), str(tmp_path / "c")], sync=False)


def test_the_floor_says_its_speed() -> None:
    text = side_by_side.floor_speed([_run(0.5)], [10**9, 10**9])
    assert "takes 0.50 s: 6.0 GB/s" in text


def _rows_of_today(models: Path) -> list[rows.Row]:
    known = {name: [p.name for p in method.parameters] for name, method in all_methods().items()}
    folders = [models / name for name in checkpoints.model_names(3)]
    return rows.rows(known, folders[0], folders[1:])


def test_every_row_is_a_merge_that_can_be_planned(models: Path, tmp_path: Path) -> None:
    made = _rows_of_today(models)
    assert {row.method for row in made} >= {"linear", "task_arithmetic", "model_stock", "slerp", "ties", "dare_ties"}
    assert len({row.name for row in made}) == len(made)
    for row in made:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(row.recipe)
        plan = plan_merge(load_recipe(recipe))
        assert plan.describe()["method"] == row.method
        # mergekit's dialect where both run it, and tensor by tensor there.
        assert row.peer != row.recipe.startswith("genepool:")
        scope = {"whole vector": "model", "per tensor": "tensor"}.get(row.name.partition(", ")[2])
        assert scope in (None, plan.scope)
        assert "bfloat16" in row.recipe


def test_rows_follow_the_methods_that_are_there() -> None:
    folders = [Path(name) for name in ("/base", "/a", "/b", "/c")]
    made = rows.rows({"pcb": ["scope"], "iso_c": [], "unheard_of": []}, folders[0], folders[1:])
    assert [(row.name, row.peer, row.aim) for row in made] == [
        ("pcb, whole vector", False, 6.5),
        ("pcb, per tensor", False, 6.5),
        ("iso_c", False, None),
    ]


def test_slow_rows_run_on_large_models_only_when_named() -> None:
    every = [rows.Row("linear", "linear", "", True), rows.Row("wudi", "wudi", "", False, largest=0.06)]
    assert [row.name for row in side_by_side.chosen_rows(every, 1, None)] == ["linear"]
    assert [row.name for row in side_by_side.chosen_rows(every, 0.05, None)] == ["linear", "wudi"]
    assert [row.name for row in side_by_side.chosen_rows(every, 1, "wu")] == ["wudi"]


def test_the_bare_svds_are_those_of_the_layers_matrices(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(svds.METHODS) == set(rows.SVD_METHODS)
    assert len(svds.layer_matrices(TINY.shapes())) == 7 * TINY.layers
    decomposed: list[tuple[int, ...]] = []
    svd = torch.linalg.svd
    monkeypatch.setattr(
        torch.linalg, "svd", lambda a, **options: decomposed.append(tuple(a.shape)) or svd(a, **options)
    )
    folders = [models / name for name in checkpoints.model_names(3)]
    # Of the sum; of three task vectors and two polar factors; and of all of these.
    for method, each in (("iso_c", 1), ("tsv_m", 5), ("iso_cts", 6)):
        decomposed.clear()
        assert svds.decompose_all(method, folders[0], folders[1:]) == 7 * TINY.layers
        assert len(decomposed) == each * 7 * TINY.layers


def test_the_table_compares_within_rounds() -> None:
    row = rows.Row("ties, per tensor", "ties", "", True, aim=3.0)
    svd_row = rows.Row("iso_c", "iso_c", "", False)
    measured = [
        side_by_side.Measured(
            row, {"floor": [_run(2)], "start": [_run(1)], "genepool": [_run(6)], "mergekit": [_run(30)]}
        ),
        side_by_side.Measured(
            svd_row, {"floor": [_run(4)], "start": [_run(2)], "genepool": [_run(12)], "svds": [_run(8)]}
        ),
        side_by_side.Measured(row, {"floor": [_run(3)], "start": [_run(3)]}, {"genepool": "error: no such thing."}),
    ]
    memory = ["0.50", "0.25"]
    assert side_by_side.table_rows({f"{side_by_side.FLOOR}, forced to the disk": [_run(5)]}, measured) == [
        [side_by_side.FLOOR, "3.0", "6.0", *memory, "", "", "", "", ""],
        [f"{side_by_side.FLOOR}, forced to the disk", "5.0", "10.0", *memory, "", "", "", "", ""],
        ["ties, per tensor", "6.0", "12.0", *memory, "3.0", "1.0", "2.5", "3", "5.0"],
        ["mergekit: ties", "30.0", "60.0", *memory, "15.0", "", "", "", ""],
        ["iso_c", "12.0", "24.0", *memory, "3.0", "2.0", "2.5", "", ""],
        ["the SVDs of iso_c alone; it takes 1.5 times as long", "8.0", "16.0", *memory, "", "", "", "", ""],
    ]
    assert all(len(line) == len(side_by_side.HEADER) for line in side_by_side.table_rows({}, measured))


def test_what_does_not_fit_in_memory_is_said() -> None:
    assert side_by_side.cache_warning(10 * 10**9, available=12 * 10**9) == ""
    assert "do not fit" in side_by_side.cache_warning(10 * 10**9, available=11 * 10**9)


@given(st.floats(-5, 5), st.floats(0.1, 10), st.lists(st.integers(1, 50), min_size=2, max_size=8, unique=True))
def test_a_straight_line_is_found_and_leaves_nothing(intercept: float, slope: float, xs: list[int]) -> None:
    line = scaling.fit([(x, 6 + intercept + slope * x) for x in xs])
    assert line.slope == pytest.approx(slope, rel=1e-6)
    assert line(0) == pytest.approx(6 + intercept, abs=1e-6)
    assert line.residual < 1e-9
    assert line.largest < 1e-9


def test_what_is_no_line_leaves_a_residual() -> None:
    # y = x^2 at 0, 1, 2, 3 shifted by one: the line is x^2's -1 + 3x, and it leaves 1, -1, -1, 1 of a mean of 4.5.
    line = scaling.fit([(x, x * x + 1) for x in (0, 1, 2, 3)])
    assert (line.slope, line.intercept) == (pytest.approx(3), pytest.approx(0))
    assert line.residual == pytest.approx(1 / 4.5)
    assert line.largest == pytest.approx(1)


def test_the_figure_is_one_svg_with_a_dot_for_every_point() -> None:
    curves = {
        method: [scaling.Point(x, {"merge": [_run(factor * x + 1)]}) for x in (0.1, 1.0, 2.0)]
        for method, factor in (("linear", 2), ("ties", 9))
    }
    text = scaling_figure.draw(curves, curves)
    picture = ElementTree.fromstring(text)
    places = [path.get("d", "") for path in picture.iter() if path.get("class", "").startswith("dots")]
    assert [place.count("h0") for place in places] == [3, 3, 3, 3]
    assert "prefers-color-scheme:dark" in text
    assert len(text) < 10_000


def test_the_peers_torch_is_the_one_of_our_constraints() -> None:
    assert peer.torch_pin("numpy==1\ntorch==2.13.0\ntorchvision==9\n") == "torch==2.13.0"
    with pytest.raises(InputError, match="no mergekit there"):
        peer.find(Path("/nowhere/python"))


@pytest.mark.slow
def test_a_profile_tells_stages_and_lines(models: Path, tmp_path: Path) -> None:
    (row,) = [row for row in _rows_of_today(models) if row.name == "ties, per tensor"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(row.recipe)
    text = sampling.profile_merge(recipe, tmp_path / "out", "ties")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "| survey, merge, write, publish |" in text
    assert "merging/planning.py" in text


def test_the_sampler_names_the_line_that_runs() -> None:
    from genepool import seeding

    with sampling.Sampler() as sampler:
        while sampler.count < 5:
            seeding.derive(0, "x" * 10_000)
    assert "seeding.py" in sampler.text()
    assert sampler.text().splitlines()[0].lstrip()[0].isdigit()


@pytest.mark.parametrize("arguments", [["--sizes", "big"], ["--sizes", "-1"], ["--rounds", "0"], ["--only", "("]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command_line.main(arguments)
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.slow
def test_one_command_from_checkpoints_to_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoints, "layout_of", lambda billions: TINY)
    arguments = ["--sizes", "1", "--rounds", "1", "--no-mergekit", "--only", "^linear$", "--work", str(tmp_path)]
    assert command_line.main(arguments) == 0
    out = capsys.readouterr().out
    assert "| linear |" in out
    assert "Not measured" not in out
    assert (tmp_path / "results.jsonl").read_text().count("\n") == 1
    # Outputs are removed: they would only fill the disk.
    assert not list((tmp_path / "out").iterdir())
    assert command_line.main([*arguments[:-4], "--only", "nothing", "--work", str(tmp_path)]) == 2
    assert "no row matches" in capsys.readouterr().err
