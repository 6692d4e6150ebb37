"""Networks with batch norms: adapters of the norms see the batch's statistics, the frozen model the source's."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from made_streams import image_rows, write_conv_model, write_stream
from torch import nn

from genepool.adaptation import Adaptation, load_stream
from genepool.errors import InputError


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small convolutional network."""
    return write_conv_model(tmp_path_factory.mktemp("conv") / "base")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stream of images for it."""
    return write_stream(tmp_path_factory.mktemp("conv") / "stream", image_rows(), source=False, order="file")


def test_tent_normalises_by_the_batch_and_moves_the_scales_alone(conv: Path, images: Path) -> None:
    run = Adaptation(conv, images, "tent", rounds=1)
    network = copy.deepcopy(run._frozen_model.network)
    pixels = torch.tensor([one.numbers for one in load_stream(images).examples[:8]]).view(8, 1, 16, 16)
    with torch.no_grad():
        source = network(pixel_values=pixels).logits.softmax(-1)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
        batch = network(pixel_values=pixels).logits.softmax(-1)
    step = next(run)
    assert not torch.allclose(source, batch, atol=1e-4)
    torch.testing.assert_close(step.probabilities, batch, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(run._frozen[:8], source, atol=1e-5, rtol=1e-4)
    list(run)
    skill = run.skill()
    assert skill is not None
    assert all("normalization" in name for name in skill.names())
    assert not any("running" in name for name in skill.names())


@pytest.mark.parametrize("name", ["tent", "wisdom"])
def test_a_state_goes_on(conv: Path, images: Path, tmp_path: Path, name: str) -> None:
    whole = torch.cat([step.probabilities for step in Adaptation(conv, images, name)])
    first = Adaptation(conv, images, name)
    begun = [next(first).probabilities for _ in range(2)]
    first.save(tmp_path / "state")
    again = Adaptation(conv, images, name).restore(tmp_path / "state")
    assert torch.equal(torch.cat([*begun, *(step.probabilities for step in again)]), whole)


def test_a_batch_of_one_is_refused_where_batches_are_normalised(conv: Path, tmp_path: Path) -> None:
    single = write_stream(tmp_path / "single", image_rows(4), source=False, batch=1)
    with pytest.raises(InputError, match="batch norms of .* compare the examples of a batch"):
        Adaptation(conv, single, "tent")
    assert len(next(Adaptation(conv, single, "frozen")).keys) == 1
