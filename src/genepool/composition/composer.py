"""The one door for composers: what a composer declares, and the list of them, one file of `composers/` each.

A composer learns from a `World` how much of each skill to use, and returns a `Composition`. Adding one is a file in
`composers/` with a class that carries `@register`.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, get_args

from genepool.errors import InputError, nearest
from genepool.schema import Strict, described_options, validate

if TYPE_CHECKING:
    from genepool.composition.composition import Composition, Saved
    from genepool.composition.residence import Residence
    from genepool.composition.skill_set import Members, SkillSet
    from genepool.composition.world import World

#: What a composer learns from: nothing, inputs whose task is known, or examples with their answers.
Needs = Literal["nothing", "inputs", "answers"]
#: What comes out: weights; a low-rank adapter, of skills that are some, else weights; or modules that stand beside the
#: base and choose by input.
Out = Literal["weights", "adapter", "module"]


class ComposerOptions(Strict):
    """What a user may set for a composer; each composer subclasses it.

    Class attributes:
        models: names of the fields that name further models; their hashes are saved with a composition and checked.
    """

    page = "reference/composers"

    models: ClassVar[tuple[str, ...]] = ()


AnyComposerOptions = TypeVar("AnyComposerOptions", bound=ComposerOptions)


class Composer(ABC, Generic[AnyComposerOptions]):
    """One way to compose frozen skills.

    `@register` sets the class attributes.

    Class attributes:
        name: what the command line calls it; its file's name.
        source: the paper, and where its defaults come from.
        when: one sentence on when to use it.
        needs: what it learns from.
        gradients: whether it needs gradients through the network.
        out: what a fold gives.
        cost: what a fit takes, in words.
        skills: smallest and largest number of skills; None for no limit.
        members: what its skills are opened as: changes of the base, or whole models.
        Options: what it is parametrised with: `class AdaMerging(Composer[AdaMergingOptions])`.

    Args:
        options: what the user set.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    needs: ClassVar[Needs]
    gradients: ClassVar[bool]
    out: ClassVar[Out]
    cost: ClassVar[str]
    skills: ClassVar[tuple[int, int | None]]
    members: ClassVar[Members]
    Options: ClassVar[type[ComposerOptions]] = ComposerOptions

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for base in cls.__dict__.get("__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, ComposerOptions):
                    cls.Options = argument

    def __init__(self, options: AnyComposerOptions) -> None:
        self.options = options

    def models(self) -> dict[str, str]:
        """The further models that the options name, by the option."""
        named = {key: getattr(self.options, key) for key in type(self.options).models}
        return {key: name for key, name in named.items() if name is not None}

    @abstractmethod
    def fit(self, world: World) -> Composition:
        """Learns from a world how its skills are composed.

        Raises:
            InputError: the skills or the examples are none that it can use.
        """

    @abstractmethod
    def restore(self, saved: Saved) -> Composition:
        """The composition that `fit` returned, from what was saved of it.

        Raises:
            InputError: a tensor is missing or has another shape than the skills and the options ask for.
        """

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        """What `fit` holds in memory, from headers alone; activations come on top.

        Args:
            skills: the base and the skills.
            dtype: what the network computes in.

        Raises:
            InputError: it does not fit; with the figures.
        """
        from genepool.composition.residence import plan_models, plan_residence

        if self.members == "models":
            return plan_models(skills, tuple(self.models().values()), dtype=dtype)
        return plan_residence(skills, dtype=dtype)

    @classmethod
    def check_count(cls, count: int, where: str) -> None:
        """Refuses a number of skills.

        Raises:
            InputError: it takes more or fewer.
        """
        low, high = cls.skills
        if count < low or (high is not None and count > high):
            many = f"{low} or more" if high is None else str(low) if low == high else f"{low} to {high}"
            asked = f"{many} skill{'s' * (many != '1')}"
            raise InputError(f"{cls.name} needs {asked}, got {count}", where=where, fix=f"Name {asked}")

    @classmethod
    def check_saved(cls, skills: int, labels: Mapping[str, Sequence[str]], where: str) -> None:
        """Refuses a saved composition that has more or fewer skills than it takes.

        Args:
            skills: how many there are.
            labels: what the axes of its tensors stand for.
            where: for errors.

        Raises:
            InputError: it has.
        """
        cls.check_count(skills, where)

    @classmethod
    def parameters(cls) -> list[dict[str, Any]]:
        """Its options as plain data: name, type, default, meaning."""
        return described_options(cls.Options)

    @classmethod
    def needs_in_words(cls) -> str:
        """What it learns from and by."""
        words = {"nothing": "no data", "inputs": "inputs without labels", "answers": "labelled examples"}
        return words[cls.needs] + (", gradients" if cls.gradients else "")

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """What `genepool compose --list --json` prints of it."""
        return {
            "name": cls.name,
            "source": cls.source,
            "when": cls.when,
            "needs": {"data": cls.needs, "gradients": cls.gradients, "skills": list(cls.skills)},
            "out": cls.out,
            "cost": cls.cost,
            "parameters": cls.parameters(),
        }


_registry: dict[str, type[Composer[Any]]] = {}
_Class = TypeVar("_Class", bound=type[Composer[Any]])


def register(
    name: str,
    *,
    source: str,
    when: str,
    needs: Needs,
    out: Out,
    cost: str,
    gradients: bool = False,
    skills: tuple[int, int | None] = (2, None),
    members: Members = "changes",
) -> Callable[[_Class], _Class]:
    """Class decorator that puts a composer on the list; see `Composer` for the arguments."""

    def add(kind: _Class) -> _Class:
        if name in _registry and _registry[name].__qualname__ != kind.__qualname__:
            raise ValueError(f"two composers are called {name!r}")
        kind.name, kind.source, kind.when, kind.needs, kind.out = name, source, when, needs, out
        kind.cost, kind.gradients, kind.skills, kind.members = cost, gradients, skills, members
        _registry[name] = kind
        return kind

    return add


def all_composers() -> dict[str, type[Composer[Any]]]:
    """Every composer by name, in alphabetical order."""
    from genepool.composition import composers as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")
    return dict(sorted(_registry.items()))


def find_composer(name: str, where: str = "") -> type[Composer[Any]]:
    """The composer of this name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    known = all_composers()
    if name not in known:
        raise InputError(f"unknown composer '{name}'", where=where, fix=nearest(name, known))
    return known[name]


def make_composer(name: str, options: Mapping[str, Any], where: str = "") -> Composer[Any]:
    """A composer with options.

    Args:
        name: its name.
        options: what the user set, by name.
        where: the file and key of the options, for errors.

    Raises:
        InputError: there is no such composer or option, or an option is out of range.
    """
    kind = find_composer(name, where)
    return kind(validate(kind.Options, dict(options), where))
