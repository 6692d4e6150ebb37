"""What the folder of a PEFT adapter holds, sorted by what it is for, before any base is looked at."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

from genepool.errors import InputError
from genepool.weights.formats import open_adapter
from genepool.weights.json_file import read_json
from genepool.weights.peft.folder import CONFIG_FILE, PREFIX
from genepool.weights.peft.kinds import kind_of
from genepool.weights.peft.settings import AdapterSettings
from genepool.weights.tensor_info import shape_text

_TOKENS = ".token_adapter.trainable_tokens_delta"
# What PEFT wraps a module in, in the names of tensors that are held whole.
_WRAPPERS = re.compile(r"\.(modules_to_save(\.default)?|token_adapter|base_layer)(?=\.|$)")


class AdapterContent:
    """The settings and the tensors of an adapter.

    Args:
        path: its folder.
        allow_pickle: take `adapter_model.bin` where there is no safetensors file.

    Attributes:
        kind: how it changes a module.
        settings: adapter_config.json, checked.
        file: the tensors.
        modules: module -> what the adapter calls a tensor for it -> the file's name of it.
        parameters: module -> the same for each of its parameters that is adapted, the outermost wrapper first.
        shared: the tensors for all modules.
        replacements: a tensor of the base -> the file's name of what stands in its place.
        tokens: an embedding's module -> the file's name of its trained rows.
        starts: those of `replacements` that are what an adapted module started from.

    Raises:
        InputError: a kind that cannot be merged, an unknown setting or tensor, or a damaged file.
    """

    def __init__(self, path: Path, allow_pickle: bool = False) -> None:
        values = read_json(path / CONFIG_FILE)
        self.kind = kind_of(values.get("peft_type"), path / CONFIG_FILE)
        self.settings = AdapterSettings(values, path / CONFIG_FILE, self.kind.settings)
        self.kind.refuse(self.settings)
        self.file = open_adapter(path, allow_pickle)
        self.modules: dict[str, dict[str, str]] = {}
        self.parameters: dict[str, list[dict[str, str]]] = {}
        self.shared: dict[str, str] = {}
        self.replacements: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.starts: set[str] = set()
        wrapped: dict[str, dict[int, dict[str, str]]] = {}
        for stored in self.file.infos:
            name = stored.removeprefix(PREFIX).removeprefix("base_model.")
            if name.endswith(_TOKENS):
                self.tokens[name.removesuffix(_TOKENS)] = stored
                continue
            words = name.split(".")
            place = max((i for i, word in enumerate(words) if word.startswith(self.kind.prefix)), default=-1)
            if place < 0:
                if ".original_module" not in name:
                    target = _WRAPPERS.sub("", name)
                    self.replacements[target] = stored
                    self.starts |= {target} if ".base_layer." in name else set()
                continue
            part = ".".join(words[place:])
            if not place:
                self.shared[self._known(part, self.kind.shared, stored)] = stored
                continue
            self._known(part, self.kind.parts, stored)
            depth = 0
            while words[place - 1 - depth] == "base_layer":
                depth += 1
            module = ".".join(words[: place - depth])
            wrapped.setdefault(module, {}).setdefault(depth, {})[part] = stored
        targets = self.settings.names("target_parameters") if "target_parameters" in self.kind.settings else []
        for module, depths in wrapped.items():
            # A module whose parameters are adapted has no factors of its own, so one level suffices to tell.
            if targets and (len(depths) > 1 or self._is_parameters(module, targets)):
                self.parameters[module] = [depths[depth] for depth in sorted(depths)]
            else:
                self.modules[module] = {part: stored for parts in depths.values() for part, stored in parts.items()}

    def targets(self) -> tuple[str, ...]:
        """The tensors of the base that the file speaks of, as PEFT calls them."""
        found = [*self.replacements, *(f"{module}.weight" for module in (*self.modules, *self.tokens))]
        words = self.settings.names("target_parameters") if self.parameters else []
        found += [f"{module}.{word.rpartition('.')[2]}" for module in self.parameters for word in words]
        return tuple(dict.fromkeys(found))

    def anchors(self) -> tuple[str, ...]:
        """Those of `targets` that tell which layout of the base they are of: no heads, which may be new."""
        found = self.targets()
        return tuple(name for name in found if any(word.isdecimal() for word in name.split("."))) or found

    def is_adapted(self, name: str) -> bool:
        """Whether factors or the like change a tensor of the base."""
        return name.removesuffix(".weight") in self.modules

    def changes(self, name: str) -> bool:
        """Whether a tensor of the base is adapted or replaced; rows of it that are replaced do not count."""
        return self.is_adapted(name) or name in self.replacements

    def same(self, stored: str, other: str, *, transposed: bool = False) -> bool:
        """Whether two tensors of the file are equal, or the first the second's transpose."""
        first, second = self.file.read(stored), self.file.read(other)
        second = second.mT if transposed and second.dim() == 2 else second
        return first.dtype == second.dtype and first.equal(second)

    def token_setting(self, name: str) -> object:
        """What `trainable_token_indices` says of a tensor of the base: one list for all, or by the end of the name."""
        setting, module = self.settings.get("trainable_token_indices"), name.removesuffix(".weight")
        if not isinstance(setting, dict):
            return setting
        named = (rows for word, rows in setting.items() if module == word or module.endswith(f".{word}"))
        return next(named, None)

    def forget(self, name: str) -> None:
        """Takes out what the file holds for a tensor of the base."""
        self.modules.pop(name.removesuffix(".weight"), None)
        self.tokens.pop(name.removesuffix(".weight"), None)
        self.replacements.pop(name, None)

    def move(self, name: str, other: str) -> None:
        """What the file holds for a tensor of the base stands for another one."""
        if name in self.replacements:
            self.replacements[other] = self.replacements.pop(name)

    def _known(self, part: str, patterns: tuple[str, ...], stored: str) -> str:
        if not any(fnmatchcase(part, pattern) for pattern in patterns):
            raise InputError(
                f"is not a known tensor of {self.kind.title} adapters",
                where=f"{self.file.path}:{stored}",
                fix="Merge the adapter with PEFT (merge_and_unload) and name the merged checkpoint",
            )
        shape = self.file.infos[stored].shape
        if not (shape and all(shape)) and not any(fnmatchcase(part, one) for one in self.kind.may_be_empty):
            raise InputError(
                f"got shape {shape_text(shape)}, expected one or more axes of at least 1",
                where=f"{self.file.path}:{stored}",
                fix="The file is damaged, or the module's rank is 0: save the adapter again",
            )
        return part

    @staticmethod
    def _is_parameters(module: str, targets: list[str]) -> bool:
        """Whether the parameters of a module are named by `target_parameters`."""
        owners = {target.rpartition(".")[0] for target in targets}
        return any(module == owner or module.endswith(f".{owner}") for owner in owners if owner)
