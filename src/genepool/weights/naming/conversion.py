"""What a class of transformers makes of a file's tensors, as views of them: its own conversions, run on traced tensors.

`genepool.weights.architecture` knows which stored tensors a conversion takes; here is what it does with them. Two ways:
all tensors of a conversion are there (a model), or some (a change of some experts, a skill, an adapter).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch

from genepool.weights.naming.boxes import Shape
from genepool.weights.naming.traced import Traced
from genepool.weights.naming.views import Leaf, View


@dataclass
class Converted:
    """A file's tensors in memory.

    Attributes:
        views: name in memory -> what it is made of.
        absent: stored names that a conversion needs and that are not there -> one that is and goes with them.
        twice: stored names of which one would do, because both are the same tensor in memory.
    """

    views: dict[str, View] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    twice: list[tuple[str, str]] = field(default_factory=list)


class Converter:
    """transformers' conversions of one class.

    Args:
        model: the class, built on the meta device.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._held = dict(model.state_dict(keep_vars=True))

    def whole(self, shapes: Mapping[str, Shape]) -> Converted:
        """The tensors in memory that are made by a conversion, or renamed, of a file of these tensors."""
        found = Converted()
        for group in self._groups(shapes).values():
            if (same := group.same()) is not None:
                found.twice.append(same)
                continue
            if group.converter is None:
                (stored,) = group.stored
                found.views[group.target] = Leaf(stored, shapes[stored])
                continue
            try:
                made = group.run(self.model, {name: Traced(Leaf(name, shapes[name])) for name in group.stored})
            except (RuntimeError, ValueError, IndexError, AttributeError, NotImplementedError, KeyError):
                # Of shapes that the conversion is not for: the names stay as they are.
                made = {}
            if made and all(name in self._held and one.shape == self._held[name].shape for name, one in made.items()):
                found.views |= {name: tensor.made_of for name, tensor in made.items()}
            else:
                found.absent |= self._absent(group)
        return found

    def some(self, names: Iterable[str]) -> dict[str, View]:
        """Stored tensors as parts of those in memory, of a file that need not hold all of a conversion's."""
        found: dict[str, View] = {}
        for group in self._groups(dict.fromkeys(names, ())).values():
            if group.converter is None:
                found |= {name: Leaf(group.target, tuple(self._held[group.target].shape)) for name in group.stored}
                continue
            parts = self._parts(group)
            found |= {name: parts[key].made_of for name, (_, key) in group.stored.items() if key in parts}
        return found

    def _groups(self, names: Mapping[str, Shape]) -> dict[str, _Gathered]:
        """The stored tensors by the name in memory they go into, in the loader's own order."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

        transforms = get_model_conversion_mapping(self.model)
        renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
        converters = [one for one in transforms if isinstance(one, WeightConverter)]
        by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
        prefix = self.model.base_model_prefix
        groups: dict[str, _Gathered] = {}
        for name in sorted(names, key=dot_natural_key):
            target, pattern = rename_source_key(name, renamings, converters, prefix, self._held)
            if target not in self._held and name in self._held:
                target, pattern = rename_source_key(name, [], [], prefix, self._held)
            if target not in self._held:
                continue
            converter = None if pattern is None else by_pattern[pattern]
            group = groups.setdefault(target, _Gathered(target, converter))
            if pattern is None:
                group.stored[name] = ("", name)
            else:
                before, _ = rename_source_key(name, renamings, [])
                after, _ = rename_source_key(before, [], converters)
                group.converter = converter
                group.stored[name] = (pattern, _with_prefix_of(before, after, target))
        return groups

    def _parts(self, group: _Gathered) -> dict[str, Traced]:
        """Every tensor that a conversion takes, as the loader calls it before, as parts of what it makes."""
        assert group.converter is not None
        reverse = group.converter.reverse_transform()
        first = group.converter.target_patterns[0]
        targets = [group.target.replace(first, other, 1) for other in group.converter.target_patterns]
        together, _ = reverse.rename_source_key(group.target)
        for target in targets:
            _, pattern = reverse.rename_source_key(target)
            if pattern is None or target not in self._held:
                return {}
            whole = Traced(Leaf(target, tuple(self._held[target].shape)))
            reverse.add_tensor(together, target, pattern, whole)
        try:
            parts = reverse.convert(together, model=self.model, config=self.model.config)
        except (RuntimeError, ValueError, IndexError, AttributeError, NotImplementedError, KeyError):
            return {}
        return {name: part[0] if isinstance(part, list) else part for name, part in parts.items()}

    def _absent(self, group: _Gathered) -> dict[str, str]:
        """The names of a file that are missing from a conversion, each with the most similar one that is there."""
        present = {key: name for name, (_, key) in group.stored.items()}
        missing = {}
        for key in self._parts(group):
            if key not in present:
                like = max(present, key=lambda other: _words_alike(other, key))
                missing[_respelled(present[like], like, key)] = present[like]
        return missing


@dataclass
class _Gathered:
    """Stored tensors that go into one name in memory.

    Attributes:
        target: the name; the first, where a conversion makes several.
        converter: transformers' conversion; None for a tensor that is taken as it is.
        stored: stored name -> the conversion's pattern that it matches, and what the loader calls it by then.
    """

    target: str
    converter: Any
    stored: dict[str, tuple[str, str]] = field(default_factory=dict)

    def same(self) -> tuple[str, str] | None:
        """Two stored names that stand for one tensor; None when there are none."""
        plain = [name for name, (pattern, _) in self.stored.items() if not pattern]
        if plain and len(self.stored) > 1:
            return plain[0], next(name for name in self.stored if name != plain[0])
        first: dict[str, str] = {}
        for name, (_, key) in self.stored.items():
            if (other := first.setdefault(key, name)) != name:
                return other, name
        return None

    def run(self, model: Any, tensors: Mapping[str, Traced]) -> dict[str, Traced]:
        """What the conversion makes of the tensors, by their names in memory."""
        converter = deepcopy(self.converter)
        for name, (pattern, _) in self.stored.items():
            converter.add_tensor(self.target, name, pattern, tensors[name])
        with torch.no_grad():
            made = converter.convert(self.target, model=model, config=model.config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}


def _with_prefix_of(before: str, after: str, target: str) -> str:
    """A name before a conversion, with the prefix that the loader puts on, or takes off, what comes after it."""
    if target.endswith(after):
        return target[: len(target) - len(after)] + before
    return before[len(after) - len(target) :] if after.endswith(target) else before


def _words(name: str) -> list[str]:
    return name.split(".")[::-1]


def _words_alike(one: str, other: str) -> int:
    return sum(a == b for a, b in zip(_words(one), _words(other), strict=False))


def _respelled(name: str, like: str, key: str) -> str:
    """`name`, changed in the words in which `key` differs from `like`."""
    words, ours, theirs = _words(name), _words(like), _words(key)
    if len(ours) != len(theirs):
        return key
    for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b and (place >= len(words) or words[place] != a):
            return key
        if a != b:
            words[place] = b
    return ".".join(words[::-1])
