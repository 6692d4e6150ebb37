"""The stacks of layers a model has, and which of its tensors go with which of them.

A language model has one stack; a vision-language model has a text and a vision one, a T5 an encoder and a decoder. They
are named as transformers names their modules ("model.language_model.layers"), and by one word where only one stack
answers to it. Told from names alone, like roles. Used by recipes that slice, merge or keep a part of a model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genepool.weights.roles import Role, layer_counts

Kind = Literal["text", "vision", "audio", "encoder", "decoder", "connector"]
KINDS: tuple[Kind, ...] = ("text", "vision", "audio", "encoder", "decoder", "connector")

# What a component of a module's path says of it. What joins two towers comes first: it often stands inside one.
_WORDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("connector", re.compile(r"connector|projector|merger|resampler|qformer|query_tokens|cross_attn_layers|^adapter$")),
    ("vision", re.compile(r"vision|visual|image|^vit$|pixel")),
    ("audio", re.compile(r"audio|speech")),
    ("text", re.compile(r"text|language|^llm$")),
    ("encoder", re.compile(r"^encoder$")),
    ("decoder", re.compile(r"^decoder$")),
)
# Lists of convolutions before the layers proper.
_FRONT = re.compile(r"^conv(_layers|s)?$")
# Classes that write text, among those with several stacks.
_WRITES = re.compile(r"For(?!.*(Classification|Retrieval|Detection|Segmentation))|LMHeadModel$|EncoderDecoderModel$")


@dataclass(frozen=True, slots=True)
class Stack:
    """A list of layers of one model.

    Attributes:
        path: its dotted name ("model.language_model.layers").
        layers: how many there are.
        kind: text, vision, audio, encoder, decoder or connector; None for the only stack of a model.
        front: whether it is a list of convolutions before the layers proper.
    """

    path: str
    layers: int
    kind: Kind | None
    front: bool = False

    @property
    def parent(self) -> str:
        """The module that holds the list."""
        return self.path.rpartition(".")[0]


class Stacks:
    """The stacks of one model.

    Args:
        roles: the part every tensor plays.
        config: its config.json, which tells a model that writes text from one that compares texts with images.

    Attributes:
        all: every stack, in the order of the tensors.
    """

    def __init__(self, roles: Mapping[str, Role], config: Mapping[str, Any] | None = None) -> None:
        self._roles = roles
        counts = layer_counts(roles)
        kinds = {path: _said(path) for path in counts}
        if any(kind in ("vision", "audio") for kind in kinds.values()):
            # Beside a tower, a list that is called nothing in particular is the language model's.
            kinds = {path: kind or "text" for path, kind in kinds.items()}
        self.all = tuple(
            Stack(path, layers, kinds[path], any(map(_FRONT.search, path.split("."))))
            for path, layers in counts.items()
        )
        named = (config or {}).get("architectures")
        self._writes = isinstance(named, list) and any(isinstance(one, str) and _WRITES.search(one) for one in named)

    @property
    def proper(self) -> tuple[Stack, ...]:
        """Those that are neither convolutions in front nor what joins two towers."""
        return tuple(stack for stack in self.all if not stack.front and stack.kind != "connector")

    def main(self) -> Stack | None:
        """The stack that layers mean when none is named: the only one, the text of a model that writes, the decoder.

        None where a model has several of which none comes first, such as CLIP.
        """
        candidates = self.proper or self.all
        if len(candidates) == 1:
            return candidates[0]
        kinds = {stack.kind for stack in candidates}
        if kinds & {"vision", "audio"} and not self._writes:
            return None
        for kind in ("text", "decoder"):
            found = [stack for stack in candidates if stack.kind == kind]
            # A text part that is itself an encoder and a decoder writes by the latter.
            inner = [stack for stack in found if "decoder" in stack.path.split(".")]
            for several in (found, inner):
                if len(several) == 1:
                    return several[0]
        return None

    def named(self, word: str) -> Stack | None:
        """The stack a path or a kind stands for; None when there is none, or several."""
        for stack in self.all:
            if stack.path == word:
                return stack
        found = [stack for stack in self.all if not stack.front and word in (stack.kind, stack.parent)]
        if not found:
            found = [stack for stack in self.proper if stack.path.startswith(word + ".")]
        return found[0] if len(found) == 1 else None

    def kind_of(self, name: str) -> Kind | None:
        """The kind of the module a tensor belongs to; None for what belongs to none or to several."""
        role = self._roles.get(name)
        parts = name.split(".")
        if role is not None and role.layer is not None:
            return next(stack.kind for stack in self.all if stack.path == role.stack)
        if len(self.all) < 2:
            return None
        if any(_WORDS[0][1].search(part) for part in parts):
            return "connector"
        shared = {stack: _common(parts, stack.path.split(".")) for stack in self.all}
        longest = max(shared.values())
        near = [stack for stack, length in shared.items() if length == longest]
        # What stands beside a list in the module that holds it is that module's.
        beside = [stack for stack in near if stack.parent.count(".") + 1 == longest and stack.kind != "connector"]
        kinds = {stack.kind for stack in beside or near if stack.kind != "connector"} if longest else set()
        if len(kinds) == 1:
            return kinds.pop()
        # A head outside the towers is the language model's.
        if role is not None and role.part == "head" and any(stack.kind == "text" for stack in self.all):
            return "text"
        return None

    def covers(self, word: str, name: str) -> bool:
        """Whether a tensor belongs to what a word stands for: a kind of module, or the path of one."""
        if word in KINDS:
            return self.kind_of(name) == word
        return name == word or name.startswith(word + ".")

    def listed(self) -> str:
        """Every stack by the shortest name it has: "text (16 layers), vision (12 layers)"."""
        return ", ".join(f"{self.short(stack)} ({stack.layers} layers)" for stack in self.proper or self.all)

    def short(self, stack: Stack) -> str:
        """Its kind where no other stack has it, else its path."""
        return stack.kind if stack.kind and self.named(stack.kind) == stack else stack.path


def main_stack(roles: Mapping[str, Role]) -> str:
    """The path of the stack that `layers` means when a model has several.

    The one that writes text; where that cannot be told, the one with the most tensors ("" if there is none).
    """
    stacks = Stacks(roles, {"architectures": ["ForAnything"]})
    if (main := stacks.main()) is not None:
        return main.path
    sizes = Counter(role.stack for role in roles.values() if role.layer is not None)
    return max(sizes, key=lambda stack: (sizes[stack], stack)) if sizes else ""


def text_part(
    outer: Mapping[str, Role], outer_config: Mapping[str, Any] | None, inner: Mapping[str, Role]
) -> dict[str, str]:
    """Which tensor of a text model is which of the language part of a model with other parts too.

    Args:
        outer: roles of the model with several parts.
        outer_config: its config.json.
        inner: roles of the text model.

    Returns:
        Names in the outer model -> names in the text model; empty when the one is not inside the other. Left out are
        a head of its own, where the outer model ties it to its embedding, and layers that the outer model has not.
    """
    stacks, own = Stacks(outer, outer_config), Stacks(inner)
    whole = stacks.named("text")
    if whole is None or len(own.all) != 1 or not any(stack.kind in ("vision", "audio") for stack in stacks.all):
        return {}
    part = own.all[0]
    found: dict[str, str] = {}
    for name, role in outer.items():
        # Other parts of it may be lists in the language part, such as layers that look at images.
        if stacks.kind_of(name) != "text":
            continue
        if role.stack == whole.path:
            known: Iterable[str] = [part.path + name[len(whole.path) :]]
        else:
            known = _tails(name, whole.parent, part.parent)
        other = next((one for one in known if one in inner and inner[one].layer == role.layer), None)
        if other is not None:
            found[name] = other
    left = inner.keys() - found.values()
    fits = all(inner[name].part == "head" or (inner[name].layer or 0) >= whole.layers for name in left)
    return found if fits else {}


def _tails(name: str, outer: str, inner: str) -> Iterable[str]:
    """What a tensor outside the layers may be called in the text model, the likeliest first."""
    if outer and name.startswith(outer + "."):
        yield (inner + "." if inner else "") + name[len(outer) + 1 :]
    parts: Sequence[str] = name.split(".")
    for start in range(len(parts)):
        yield ".".join(parts[start:])


def _said(path: str) -> Kind | None:
    """The kind that a path names; the outermost word of a tower wins over `encoder` further in."""
    parts = path.split(".")
    for kind, pattern in _WORDS[:1]:
        if any(map(pattern.search, parts)):
            return kind
    for part in parts:
        for kind, pattern in _WORDS[1:4]:
            if pattern.search(part):
                return kind
    return next((kind for part in parts for kind, pattern in _WORDS[4:] if pattern.search(part)), None)


def _common(parts: Sequence[str], others: Sequence[str]) -> int:
    """How many components two paths begin with alike."""
    count = 0
    for mine, theirs in zip(parts, others, strict=False):
        if mine != theirs:
            break
        count += 1
    return count
