"""What a fit of a large model takes is planned from headers: files without a byte behind them will do."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from benchmarks.composition.large import SHAPE, _shapes
from genepool.composition import SkillSet, open_skills
from genepool.composition.coefficients import CoefficientLayout, SharedScales
from genepool.composition.fitting import plan_fit
from genepool.composition.residence import plan_residence
from genepool.errors import InputError
from genepool.training import Optimisation

GB = 10**9


def write_header(folder: Path) -> str:
    """A model of Llama 3.2 1B's shape whose file is a hole after its header."""
    folder.mkdir(parents=True)
    header, end = {}, 0
    for name, size in _shapes(SHAPE).items():
        start, end = end, end + 2 * size[0] * (size[1] if len(size) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(
        json.dumps({**SHAPE, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"})
    )
    return str(folder)


@pytest.fixture(scope="module")
def billion(tmp_path_factory: pytest.TempPathFactory) -> SkillSet:
    world = tmp_path_factory.mktemp("billion")
    base = write_header(world / "base")
    return open_skills(base, [write_header(world / f"skill{number}") for number in range(8)])


def test_eight_skills_of_a_billion_entries_fit_into_24_gb(billion: SkillSet) -> None:
    plan = plan_residence(billion, way="fused", free=24 * GB)
    assert plan.total <= 0.75 * 24 * GB
    assert plan.way == "fused"
    assert plan.network == pytest.approx(4.94 * GB, rel=0.01)
    # All gradients are added up, so that what is on the disk is read once a step; the rest holds skills.
    assert plan.add_up
    assert plan.gradient == plan.network + 2 * 4 * 128256 * 2048
    assert len(plan.skills) == 2
    assert plan.skills["skill0"] == pytest.approx(2.47 * GB, rel=0.01)
    # The vectors of an MLP's matrix are kept between gradient and move, those of the embedding are read again.
    assert plan.at_hand == 8 * 4 * 2048 * 8192


def test_more_skills_take_no_more_beside_what_is_held(billion: SkillSet) -> None:
    few = SkillSet(billion.base, billion.reference, billion.skills[:2])
    plans = [plan_residence(one, way="fused", free=10 * GB) for one in (few, billion)]
    assert all(not plan.skills and not plan.add_up for plan in plans)
    assert plans[1].total < 1.1 * plans[0].total
    roomy = plan_residence(billion, way="fused", free=60 * GB)
    assert (len(roomy.skills), roomy.streamed, roomy.add_up) == (8, (), True)


def test_two_bytes_help_where_four_do_not_fit(billion: SkillSet) -> None:
    with pytest.raises(InputError, match=r"the network and one gradient take 7.* GB, and 8.00 GB are free"):
        plan_residence(billion, way="fused", free=8 * GB)
    assert plan_residence(billion, way="fused", free=8 * GB, dtype="bfloat16").total < 6 * GB


def test_what_was_decided_before_is_decided_again_or_refused(billion: SkillSet) -> None:
    began = plan_residence(billion, way="fused", free=60 * GB)
    later = plan_residence(billion, way="fused", free=42 * GB, before=began.decisions())
    assert later.decisions() == began.decisions() != plan_residence(billion, way="fused", free=24 * GB).decisions()
    with pytest.raises(InputError, match=r"the fit began with 3\d.* GB, and 24.00 GB are free now"):
        plan_residence(billion, way="fused", free=24 * GB, before=began.decisions())


def test_what_shares_a_number_does_not_move_alone(billion: SkillSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genepool.composition.residence.free_memory", lambda: 24 * GB)
    layout = CoefficientLayout(8, billion.vectors().names)
    alone, shared = (
        SharedScales(layout, groups, 0.3) for groups in (range(len(layout.names)), [0] * len(layout.names))
    )
    unclipped, clipped = Optimisation(5, 0.1, clip=0.0), Optimisation(5, 0.1, clip=1.0)
    assert plan_fit(billion, alone, layout, unclipped).way == "fused"
    assert plan_fit(billion, alone, layout, clipped).way == "whole"
    assert plan_fit(billion, shared, layout, unclipped).way == "whole"
