"""File formats are found by being there: one file makes a format, everywhere a model is named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.weights import formats, open_weights

ROWS = '''
from genepool.weights.formats.tensor_file import TensorFile
from genepool.weights.tensor_info import TensorInfo


class Lines(TensorFile):
    """A text file with a tensor a line: its name and its numbers."""

    title = "file of lines"
    suffixes = frozenset({".lines"})
    magic = b"#lines"
    preference = 5

    def __init__(self, path):
        self.path, self.metadata, self.shared = path, {}, {}
        lines = [line.split() for line in path.read_text().splitlines()[1:]]
        self.values = {name: [float(one) for one in rest] for name, *rest in lines}
        self.infos = {name: TensorInfo((len(rest),), "F32") for name, rest in self.values.items()}

    def read(self, name):
        import torch

        return torch.tensor(self.values[name])

    def read_rows(self, name, start, stop):
        return self.read(name)[None][start:stop]
'''


@pytest.fixture
def with_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fourth format, whose one file lies beside the others."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "lines.py").write_text(ROWS)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])
    formats.formats.cache_clear()
    yield
    formats.formats.cache_clear()
    sys.modules.pop("genepool.weights.formats.lines", None)


def test_a_format_is_one_file(with_lines: None, tmp_path: Path, cli: Callable[..., Any]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "any.lines").write_text("#lines\nw 1 2 3\nv 4\n")
    for named in (model, model / "any.lines"):
        answer = cli("inspect", named)
        assert answer.code == 0, answer.err
        weights = open_weights(named)
        assert weights.read("w").tolist() == [1, 2, 3]
        assert weights.stored_in("w") is None
    # What a format does not say itself follows from what it says.
    (file,) = weights.files  # type: ignore[attr-defined]
    into = bytearray(12)
    file.read_bytes("w", 0, 1, memoryview(into))
    assert bytes(into) == bytes(file.view_bytes("w")) == torch.tensor([1.0, 2, 3]).numpy().tobytes()
    # The first bytes decide before the suffix.
    (model / "any.lines").rename(model / "any.safetensors")
    assert open_weights(model).names() == ("w", "v")


def test_no_two_formats_claim_one_file() -> None:
    known = formats.formats()
    assert [kind.title for kind in known] == ["safetensors file", "GGUF file", "PyTorch pickle"]
    assert [kind.runs_code for kind in known] == [False, False, True]
    suffixes = [suffix for kind in known for suffix in kind.suffixes]
    assert len(suffixes) == len(set(suffixes))
    for one in ("model_file", "index_file", "adapter_file"):
        names = [name for kind in known if (name := getattr(kind, one))]
        assert len(names) == len(set(names)) == 2
