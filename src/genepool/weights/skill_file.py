"""Skill files: one safetensors file with the change a fine-tune made, in any form, and what is known about it.

The header's `__metadata__` holds strings only, some of them JSON:

    genepool_skill    "1", the version of this layout
    form              dense, sparse, low-rank or packed: how the weight matrices are stored
    base_fingerprint  of the model the change is relative to
    base_name         what that model was called
    tensors           JSON: tensor -> {"shape": [..], "kind": "low-rank", ..settings}; see `genepool.weights.encodings`
    error             share of the change's size (Frobenius norm) that this form lost, "0.0123"; absent when nothing
    lineage, training, scores, licence, name, description
                      JSON or text; see `genepool.weights.header`
    head              JSON: {"architecture", "classes"} of a head that the base lacks; see `genepool.weights.class_head`
    control           JSON: the control tokens that it is asked with; see `genepool.weights.control`

A change of TENSOR is in the stored tensors `TENSOR` (dense) or `TENSOR#part`; `#base_sample` holds a few of the base's
values, by which the distance of another base is told.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool import seeding
from genepool.checked import is_line
from genepool.errors import InputError, refuse_newer
from genepool.weights import fingerprint_cache
from genepool.weights.change import Change
from genepool.weights.class_head import ClassHead, read_class_head
from genepool.weights.control import read_control
from genepool.weights.encodings import Encoding, Entry, encodings
from genepool.weights.encodings.encoding import Recent
from genepool.weights.encodings.low_rank import LowRank, Product
from genepool.weights.formats.safetensors import SafetensorsFile
from genepool.weights.header import (
    BASE_KEY,
    BASE_NAME_KEY,
    CONTROL_KEY,
    FORM_KEY,
    HEAD_KEY,
    SKILL_KEY,
    TENSORS_KEY,
    VERSION,
    Header,
)
from genepool.weights.naming.renamed import Renamed
from genepool.weights.tensor_info import TensorInfo, shape_text
from genepool.weights.weights import Weights

if TYPE_CHECKING:
    import torch

FORMS = ("dense", "sparse", "low-rank", "packed")
SAMPLE = "#base_sample"
# Values of each tensor of the base that a skill file keeps.
SAMPLED = 16
_DAMAGED = "The skill file is damaged: make or fetch it again"


@dataclass(frozen=True)
class _FilePart:
    """A part that is read from the file when it is asked for."""

    file: SafetensorsFile
    stored: str

    @property
    def info(self) -> TensorInfo:
        return self.file.infos[self.stored]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.file.read_rows(self.stored, start, stop)

    def entries(self, start: int, stop: int) -> torch.Tensor:
        return self.file.read_entries(self.stored, start, stop)


def is_skill(path: Path) -> bool:
    """Whether a file is a skill rather than a checkpoint."""
    return path.is_file() and path.suffix == ".safetensors" and SKILL_KEY in SafetensorsFile(path).metadata


def part_name(tensor: str, part: str) -> str:
    """What a part of a tensor's change is called in the file."""
    return f"{tensor}#{part}" if part else tensor


class SkillFile(Change):
    """The change in a skill file.

    Args:
        path: the file.
        base: the model it is relative to, where that is open.
        force: take a base other than the skill's own, as long as the shapes fit.

    Attributes:
        metadata: the header's strings.
        form: dense, sparse, low-rank or packed.
        base_fingerprint, base_name: the model it is relative to.

    Raises:
        InputError: no skill, a damaged one, one that a newer genepool wrote, one of another base, or one that does
            not fit the base.
    """

    kind = "skill"
    path: Path

    def __init__(self, path: str | Path, base: Weights | None = None, *, force: bool = False) -> None:
        self.path, self.name, self.base = Path(path), str(path), base
        self._file = SafetensorsFile(self.path)
        self.metadata = self._file.metadata
        version = self.metadata.get(SKILL_KEY)
        if version is None:
            raise InputError("is not a skill file", where=path, fix="Make one with genepool skill extract")
        if version != str(VERSION):
            refuse_newer("skill file", int(version) if version.isdecimal() else version, VERSION, path)
            raise InputError(
                f"got version {version!r} of the skill file, expected a known one", where=path, fix=_DAMAGED
            )
        self.control = read_control(self._object(CONTROL_KEY), f"{self.path}:{CONTROL_KEY}")
        self.form = self.metadata.get(FORM_KEY, "")
        if self.form not in FORMS:
            raise InputError(
                f"got the form {self.form!r}, expected a known one", where=path, fix="Known: " + ", ".join(FORMS)
            )
        self.base_fingerprint = self._line(BASE_KEY)
        self.base_name = self._line(BASE_NAME_KEY)
        self._recent = Recent()
        self._entries = self._read_entries()
        if base is not None:
            self._check_fits(base)
            if not force:
                self._check_belongs(base)

    def _line(self, key: str) -> str:
        text = self.metadata.get(key, "")
        if not is_line(text):
            raise InputError(f"its {key} holds control characters", where=self.path, fix=_DAMAGED)
        return text

    @property
    def head(self) -> ClassHead | None:
        """The head that the change is of, where its base has none."""
        return read_class_head(self._object(HEAD_KEY), f"{self.path}:{HEAD_KEY}")

    def _object(self, key: str) -> object:
        """What the header says in JSON under a key; an empty object where it says nothing."""
        try:
            return json.loads(self.metadata.get(key, "{}"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"is not JSON ({error})", where=f"{self.path}:{key}", fix=_DAMAGED) from None

    def _read_entries(self) -> dict[str, tuple[Encoding, Entry]]:
        try:
            table = json.loads(self.metadata.get(TENSORS_KEY, ""))
        except (ValueError, RecursionError) as error:
            raise InputError(f"its table of tensors is not JSON ({error})", where=self.path, fix=_DAMAGED) from None
        if not isinstance(table, dict):
            raise InputError("its table of tensors is not a JSON object", where=self.path, fix=_DAMAGED)
        parts: dict[str, dict[str, _FilePart]] = {}
        for stored in self._file.infos:
            tensor, _, part = (stored, "", "") if stored in table or "#" not in stored else stored.rpartition("#")
            if tensor:
                parts.setdefault(tensor, {})[part] = _FilePart(self._file, stored)
        found = {}
        for name, settings in table.items():
            where = f"{self.path}:{name}"
            shape = settings.get("shape") if isinstance(settings, dict) else None
            if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
                raise InputError("its shape is not a list of whole numbers", where=where, fix=_DAMAGED)
            kind = encodings().get(str(settings.get("kind")))
            if kind is None:
                raise InputError(
                    f"has the unknown encoding {settings.get('kind')!r}", where=where, fix="Use a newer genepool"
                )
            entry = Entry(where, tuple(shape), settings, parts.pop(name, {}), self._recent)
            kind.check(entry)
            found[name] = kind, entry
        if parts:
            raise InputError(
                "is stored but not in the table of tensors", where=f"{self.path}:{next(iter(parts))}", fix=_DAMAGED
            )
        return found

    def _check_fits(self, base: Weights) -> None:
        for tensor in self.names():
            if tensor not in base:
                where = f"{self.path}:{tensor}"
                raise InputError(
                    f"{base.name} has no such tensor",
                    where=where,
                    fix="Name the base that the skill was extracted from",
                )
            if self.shape(tensor) != base.info(tensor).shape:
                raise InputError(
                    f"shape {shape_text(self.shape(tensor))} where {base.name} has "
                    f"{shape_text(base.info(tensor).shape)}",
                    where=f"{self.path}:{tensor}",
                    fix="Name the base that the skill was extracted from",
                )

    def _check_belongs(self, base: Weights) -> None:
        if self.belongs_to(base):
            return
        distance = self.distance_to(base)
        if isinstance(base, Renamed) and distance == 0:
            # Another file of the same base: its values are the skill's base's, and only its layout is another.
            return
        far = "" if distance is None else f"; the bases are {distance:.1%} of their size apart"
        raise InputError(
            f"was extracted from another base ({self.base_name or self.base_fingerprint[:12]}), not {base.name}{far}",
            where=self.path,
            fix="Name the base it was extracted from, or apply it with `skill apply --force`",
        )

    @cached_property
    def header(self) -> Header:
        """What the file says about its skill.

        Raises:
            InputError: one of its fields is not what it should be.
        """
        return Header.read(self.metadata, self.path)

    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name][1].shape

    def factors(self, name: str) -> Product | None:
        encoding, entry = self._entries[name]
        return encoding.product(entry) if isinstance(encoding, LowRank) else None

    def stored(self, name: str) -> tuple[Encoding, Entry]:
        return self._entries[name]

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        encoding, entry = self._entries[name]
        return encoding.decode(entry, start, stop)

    def identity(self) -> dict[str, Any]:
        return {"parents": [self.digest()]}

    @cached_property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def digest(self) -> str:
        """SHA-256 of the file, hex; remembered."""
        return fingerprint_cache.cached([self.path], self._hash)

    def _hash(self) -> str:
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def distance_to(self, base: Weights) -> float | None:
        """How far a model is from the skill's own base, as a share of its size, estimated from the sampled values.

        Returns:
            None when the file holds no sample, or the model lacks the tensors.
        """
        import torch

        stored = self._file.infos.get(SAMPLE)
        names = self.names()
        if stored is None or stored.dtype != "F32" or stored.shape != (len(names), SAMPLED):
            return None
        if any(name not in base or base.info(name).shape != self.shape(name) for name in names):
            return None
        own = self._file.read(SAMPLE).double()
        other = torch.stack([sample(base, name) for name in names]).double()
        # Each tensor's sample stands for all of its entries.
        share = torch.tensor([float(base.info(name).numel) for name in names], dtype=torch.float64)[:, None]
        size = float((share * own.square()).sum())
        return (float((share * (own - other).square()).sum()) / size) ** 0.5 if size > 0 else None

    def belongs_to(self, base: Weights) -> bool:
        """Whether it was made for this model."""
        return not self.base_fingerprint or self.base_fingerprint == base.fingerprint()


def sample(base: Weights, name: str) -> torch.Tensor:
    """A few values of a tensor, `(SAMPLED,)` float32, at places drawn for its name and size."""
    import torch

    info = base.info(name)
    out = torch.zeros(SAMPLED)
    if info.numel == 0:
        return out
    rows, columns = info.matrix
    generator = seeding.numpy_generator(0, "base sample", name, info.numel)
    for i, place in enumerate(generator.integers(0, rows * columns, SAMPLED).tolist()):
        row = place // columns
        out[i] = float(base.read_rows(name, row, row + 1)[0, place % columns])
    return out
