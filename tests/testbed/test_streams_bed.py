"""The testbed of streams: corruptions that get harder, folders that `genepool adapt` takes, a TENT that collapses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.adaptation import Adaptation, load_stream
from genepool.testbed import build
from genepool.testbed.digits import images
from genepool.testbed.digits.builder import DigitsSchedule
from genepool.testbed.schedule import Phase
from genepool.testbed.streams import builder
from genepool.testbed.streams.corruptions import CORRUPTIONS, corrupted
from genepool.testbed.streams.folders import FEW_STREAMS, STREAMS, UNKNOWN

pytest.importorskip("sklearn")
Cli = Callable[..., Any]
pixels = st.lists(st.integers(0, 16), min_size=64, max_size=64).map(lambda row: np.array(row, dtype=np.float64) / 16)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both beds, of 20 images a split and a base that was hardly trained."""
    folder = tmp_path_factory.mktemp("streams")
    few = {split: images.Images(own.pixels[:20], own.digits[:20]) for split, own in images.load_images().items()}
    minute = DigitsSchedule(8, 2, 2, 12, base=Phase(3, 16, 1e-3, warmup=1), full=Phase(1, 8, 1e-3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "schedule_for", lambda *, tiny, tasks: minute)
        patch.setattr(images, "load_images", lambda: few)
        build(folder / "streams", bed="streams")
        build(folder / "open", bed="streams_open")
        build(folder / "conv", bed="streams_conv", tiny=True)
    return folder


@given(image=pixels, name=st.sampled_from(sorted(CORRUPTIONS)), number=st.integers(0, 9), severity=st.integers(1, 5))
def test_a_spoilt_image_is_an_image_and_always_the_same(image: Any, name: str, number: int, severity: int) -> None:
    found = corrupted(image, name, severity, 0, number)
    assert found.shape == (64,)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found == corrupted(image, name, severity, 0, number)).all()


@given(image=pixels, number=st.integers(0, 9))
def test_a_severity_does_more_of_the_same(image: Any, number: int) -> None:
    """A square lies in the next one, a pixel that was replaced stays so, and blocks lose more of what is in them."""
    occluded = [corrupted(image, "occlude", severity, 0, number) for severity in range(1, 6)]
    impulses = [corrupted(image, "impulse", severity, 0, number) for severity in range(1, 6)]
    for less, more in ((a, b) for kind in (occluded, impulses) for a, b in itertools.pairwise(kind)):
        changed = np.abs(less - image) > 1e-3
        assert (more[changed] == less[changed]).all()

    def within(values: Any) -> float:
        blocks = values.reshape(2, 4, 2, 4).transpose(0, 2, 1, 3).reshape(4, 16)
        return float(blocks.var(1).sum())

    lost = [within(corrupted(image, "pixelate", severity, 0, number)) for severity in range(1, 6)]
    assert all(a >= b - 1e-3 for a, b in zip([within(image), *lost[:-1]], lost, strict=True))


def test_every_stream_suits_the_base(small: Path) -> None:
    bed = small / "streams"
    assert {path.name for path in bed.iterdir()} == {"base", "streams", "tasks", "manifest.json"}
    assert {path.name for path in (bed / "streams").iterdir()} == {one.name for one in STREAMS}
    for one in STREAMS:
        stream = load_stream(bed / "streams" / one.name)
        assert (stream.order, stream.batch, stream.rounds, len(stream.source)) == (one.order, 64, 15, 20)
        run = Adaptation(bed / "base", stream, "frozen", rounds=1)
        assert len(next(run).keys) > 1
        if not one.clean and not one.tail:
            assert stream.domains == tuple(CORRUPTIONS)
            assert len(stream.examples) == 200
            assert {example.severity for example in stream.examples} == set(one.severities)


def test_classes_are_long_tailed_both_ways(small: Path) -> None:
    stream = load_stream(small / "streams" / "streams" / "label_shift")
    means = {
        domain: np.mean([int(one.answer or 0) for one in stream.examples if one.domain == domain])
        for domain in ("low", "high")
    }
    assert means["low"] < means["high"]


def test_the_open_set_marks_what_the_base_never_saw(small: Path) -> None:
    for one in FEW_STREAMS:
        stream = load_stream(small / "open" / "streams" / one.name)
        assert {int(example.answer or 0) in UNKNOWN for example in stream.examples if not example.known} == {True}
        assert not any(
            int(example.answer or 0) in UNKNOWN for example in (*stream.source, *stream.examples) if example.known
        )


def test_the_convolutional_network_has_batch_norms_and_images(small: Path) -> None:
    for one in FEW_STREAMS:
        stream = load_stream(small / "conv" / "streams" / one.name)
        assert (stream.shape, len(stream.source)) == ((1, 16, 16), 20)
        run = Adaptation(small / "conv" / "base", stream, "tent", rounds=1)
        assert run.model.has_batch_norm
        assert len(next(run).keys) > 1
    first = load_stream(small / "conv" / "streams" / "clean").examples[0]
    grid = np.array(first.numbers).reshape(16, 16)
    plain = load_stream(small / "streams" / "streams" / "clean").examples[0].numbers
    assert (grid[::2, ::2].reshape(-1) == np.array(plain)).all()
    assert (grid[1::2, 1::2] == grid[::2, ::2]).all()


def test_what_a_bed_of_streams_has_not_is_refused(cli: Cli, tmp_path: Path) -> None:
    for more, said in ((["--skills", "mirror"], "has no skills"), (["--regime", "acquire"], "has one regime")):
        answer = cli("testbed", "build", tmp_path / "bed", "--bed", "streams", *more)
        assert (answer.code, said in answer.err) == (2, True)


@pytest.mark.slow
def test_tent_ends_worse_than_doing_nothing(cli: Cli, tmp_path: Path) -> None:
    """As it is typed, without further options: one round hides the collapse, fifteen show it."""
    bed = tmp_path / "bed"
    assert cli("testbed", "build", bed, "--bed", "streams", "--tiny").code == 0
    typed = ["adapt", bed / "base", "--stream", bed / "streams" / "mixed", "--json"]
    answer = cli(*typed, "--adapter", "tent", "--clean", bed / "tasks", "--out", tmp_path / "tent")
    told = json.loads(answer.out)
    assert (told["rounds"], told["verdict"]) == (15, "worse than doing nothing")
    assert told["history"][0]["difference"]["mean"] > told["difference"]["mean"] + 0.1
    assert told["clean_after"] < told["clean_before"] - 0.1
    assert told["events"]
    # Its cheapest cure.
    answer = cli(*typed, "--adapter", "diversity", "--rounds", "3", "--out", tmp_path / "diversity")
    assert json.loads(answer.out)["adapted"] > told["history"][2]["adapted"]


def test_the_swapped_half_has_the_labels_of_neighbouring_classes(small: Path) -> None:
    stream = load_stream(small / "streams" / "streams" / "swapped")
    assert (stream.domains, stream.order) == (("clean", "swapped"), "shuffled")
    as_it_is, swapped = (
        {one.key.rpartition("-")[2]: one for one in stream.examples if one.domain == domain}
        for domain in stream.domains
    )
    assert as_it_is.keys() == swapped.keys()
    for key, one in as_it_is.items():
        assert swapped[key].numbers == one.numbers
        # 0 and 1, 2 and 3, and so on: what was even is odd.
        low, high = sorted((int(str(one.answer)), int(str(swapped[key].answer))))
        assert (low % 2, high - low) == (0, 1)
    answered = Adaptation(small / "streams" / "base", stream, "homeostatic", labels_late=0, rounds=1)
    assert len(list(answered)) == 1
