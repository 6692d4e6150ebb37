"""Reading the YAML files users write: pydantic models whose complaints become one line that names the key.

Recipes, studies and task settings all come through here, so an unknown key is refused in the same words everywhere
and always with the nearest valid one.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from yaml.constructor import ConstructorError

from genepool.bounded import bounded, read_bytes
from genepool.checked import is_text
from genepool.errors import InputError, nearest


class Strict(BaseModel):
    """Base of every file format of ours: unknown keys are errors, values are not silently converted."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)

    #: Keys of older versions of the format, which are read too.
    older_keys: ClassVar[tuple[str, ...]] = ()
    #: Page of the documentation that lists the keys; empty for a part of a file, which is on the page of the whole.
    page: ClassVar[str] = ""

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`rate: true` is not a rate of 1, which pydantic would make of it."""
        if isinstance(value, bool) and info.field_name is not None:
            kinds = set(_kinds_of(cls.model_fields[info.field_name].annotation))
            if kinds & {int, float} and not kinds & {bool, Any, object}:
                raise ValueError(f"got {str(value).lower()}, expected a number")
        return value


def _kinds_of(annotation: Any) -> Iterator[Any]:
    """The types that a value itself may have, without those of what it holds."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds_of(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for one in get_args(annotation):
            yield from _kinds_of(one)
    else:
        yield origin or annotation


class PartError(ValueError):
    """What is wrong with a part of a file that a model of its own checks, raised within a validator of the whole.

    Args:
        problem: its `where` is the key, from where the validator stands; empty for all of it.
    """

    def __init__(self, problem: InputError) -> None:
        self.problem = problem
        super().__init__(problem.what)


Model = TypeVar("Model", bound=BaseModel)

# Far beyond what anybody writes: the largest recipes hold some thousand. So many values as are written, and so many
# bytes, are parsed in 5 s on a slow machine; those that aliases repeat cost less. The time is a net beneath.
_MOST_WRITTEN, _MOST_VALUES = 100_000, 1_000_000
_MOST_BYTES = 4 * 10**6
_SECONDS = 9.0

# pydantic speaks of Python's types; people write YAML.
_WORDS = (
    (r"a valid dictionary( or instance of \w+)?", "a mapping of keys to values"),
    (r"a valid (tuple|list)", "a list"),
    (r"^(Tuple|List|Dictionary) should", "this should"),
    (r" after validation", ""),
    (r"a valid string", "text"),
)


def validate(model: type[Model], data: object, where: str | Path) -> Model:
    """Checks `data` (what a YAML file held) against a pydantic model.

    Raises:
        InputError: naming the file, the key, what is wrong, and for an unknown key the nearest known one.
    """
    if not isinstance(data, dict):
        raise InputError("is not a mapping of keys to values", where=where, fix="Write it as `key: value` lines")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _first_problem(model, error, where) from None


def validate_part(model: type[Model], data: object, key: str) -> Model:
    """As `validate`, for a part that only a validator of the whole knows the model of.

    Args:
        model: what the part is checked against.
        data: the part.
        key: where it stands, from where the validator does; empty when its keys stand there themselves.

    Raises:
        PartError: naming the key within the whole.
    """
    try:
        return validate(model, data, "")
    except InputError as error:
        inner = error.where.removeprefix(":")
        place = ".".join(part for part in (key, inner) if part)
        raise PartError(InputError(error.what, where=place, fix=error.fix)) from None


def keys_of(*models: type[BaseModel]) -> frozenset[str]:
    """The keys that a file of one of these formats may have at its top."""
    return frozenset(key for model in models for key in _keys_at(model, [""]))


def read_yaml(path: Path, keys: Collection[str] | None = None) -> Any:
    """What a YAML file of one document holds, with errors that name the file and the line.

    Args:
        path: the file.
        keys: as for `read_documents`.

    Raises:
        InputError: it cannot be read, is not YAML, is empty, or holds several documents.
    """
    documents = read_documents(path, keys)
    if len(documents) > 1:
        raise InputError(f"holds {len(documents)} documents, expected one", where=path, fix="Remove the line `---`")
    return documents[0]


def has_mark(path: Path, key: str) -> bool:
    """Whether a path is a YAML file with a key at its top, which says what kind of file it is."""
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    data = read_yaml(path)
    return isinstance(data, dict) and key in data


def read_marked(model: type[Model], path: Path, key: str) -> Model:
    """Reads a YAML file whose key says what kind of file it is, and in which version.

    Args:
        model: what the file is checked against.
        path: the file.
        key: the key.

    Raises:
        InputError: naming the key that is wrong; a version other than 1 is refused.
    """
    data = read_yaml(path)
    if isinstance(data, dict) and data.get(key) not in (None, 1) and type(data.get(key)) is int:
        what = f"its format is {data[key]}, and this version reads 1"
        raise InputError(what, where=f"{path}:{key}", fix="Install a newer genepool")
    return validate(model, data, path)


def read_documents(path: Path, keys: Collection[str] | None = None) -> list[Any]:
    """Every document of a YAML file that is not empty.

    Args:
        path: the file.
        keys: what may stand at the top of a document. Any other key there that holds an anchor which the rest of the
            document uses is left out: it stands there to be referred to. None: nothing is left out.

    Raises:
        InputError: it cannot be read, is not YAML, is empty, or names a key twice.
    """
    if Path(path).is_dir():
        raise InputError("is a folder, expected a YAML file", where=path, fix="Name a file")
    try:
        text = read_bytes(Path(path), _MOST_BYTES, pipes=True).decode("utf-8")
    except ValueError as error:
        raise InputError(f"cannot be read ({error})", where=path, fix="Check the file") from None
    documents = parsed_documents(text, path, keys)
    if not documents:
        raise InputError("the file is empty", where=path, fix="Write a recipe or study into it")
    return documents


def parsed_documents(text: str, path: Path, keys: Collection[str] | None = None) -> list[Any]:
    """Every document of a YAML text that is not empty, in bounded work: it may be a stranger's.

    Args:
        text: the YAML.
        path: the file it stands in, for errors.
        keys: as for `read_documents`.

    Raises:
        InputError: it is not YAML, names a key twice, or means too many values.
    """
    try:
        with bounded("reading it", where=str(path), fix="Write it shorter", seconds=_SECONDS):
            return [document for document in _documents(text, path, keys) if document is not None]
    except RecursionError:
        raise InputError("is nested too deeply", where=path, fix="Use fewer levels") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise InputError(f"is not valid YAML ({problem})", where=f"{path}{line}", fix="Check the line") from None
    except ValueError as error:
        raise InputError(f"cannot be read ({error})", where=path, fix="Check the file") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's loader of plain data; a tag that does not suit its value is what is wrong with the file, in a line.

    Args:
        text: the YAML.
        path: its file, for errors.
    """

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self._path, self._written = path, 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._written += 1
        if self._written > _MOST_WRITTEN:
            raise InputError(f"holds more than {_MOST_WRITTEN:,} values", where=self._path, fix="Write it shorter")
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and not is_text(node.value):
            try:
                # Whole pairs are what JSON, which is YAML too, makes of other planes; PyYAML leaves them apart.
                node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                raise ConstructorError(None, None, "it holds half a surrogate pair", node.start_mark) from None
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:
            what = node.tag.removeprefix("tag:yaml.org,2002:")
            problem = f"{node.value!r:.60} is no {what}" if isinstance(node, yaml.ScalarNode) else f"no {what}"
            raise ConstructorError(None, None, problem, node.start_mark) from None


def _documents(text: str, path: Path, keys: Collection[str] | None) -> Iterator[Any]:
    loader = _Loader(text, path)
    try:
        while loader.check_node():
            node: Any = loader.get_node()
            # Asked before anything is built of it: merge keys are written out on the way.
            if _expanded(node, {}) > _MOST_VALUES:
                what = f"holds more than {_MOST_VALUES:,} values once its aliases are written out"
                raise InputError(what, where=path, fix="Write it shorter")
            _check_keys(loader, node, path)
            if keys is not None and isinstance(node, yaml.MappingNode):
                node.value = _without_definitions(node.value, keys)
            yield loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded(node: yaml.Node, known: dict[int, float]) -> float:
    """Values in a document with every alias written out: a few lines of aliases of aliases can mean billions."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        # An alias of what it stands in never ends.
        known[id(node)] = math.inf
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_expanded(part, known) for part in parts)
    return known[id(node)]


def _without_definitions(
    pairs: list[tuple[yaml.Node, yaml.Node]], keys: Collection[str]
) -> list[tuple[yaml.Node, yaml.Node]]:
    """The pairs of a document's top without those that stand there only to be referred to from elsewhere."""
    below = [_nodes(value) for _, value in pairs]
    # An alias is the very node that its anchor marks.
    times = Counter(itertools.chain.from_iterable(below))
    return [
        (key, value)
        for (key, value), nodes in zip(pairs, below, strict=True)
        if key.value in keys or _is_slip(key.value, keys) or all(times[node] == 1 for node in nodes)
    ]


def _is_slip(word: object, keys: Collection[str]) -> bool:
    """Whether a key is rather a misspelt one; people mark keys of their own by a prefix."""
    return not isinstance(word, str) or bool(difflib.get_close_matches(word, keys, n=1, cutoff=0.85))


def _nodes(root: yaml.Node) -> set[int]:
    """The identities of a node and of all below it."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        for part in itertools.chain.from_iterable(parts) if isinstance(node, yaml.MappingNode) else parts:
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
    return seen


def _check_keys(loader: yaml.SafeLoader, root: yaml.Node, path: Path) -> None:
    """Refuses a mapping with a key that stands twice: YAML forbids it, and PyYAML would silently take the last."""
    waiting: list[tuple[yaml.Node, tuple[str, ...]]] = [(root, ())]
    seen: set[int] = set()
    while waiting:
        node, place = waiting.pop()
        if isinstance(node, yaml.ScalarNode) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(value, (*place, str(number))) for number, value in enumerate(node.value)]
            continue
        lines: dict[Any, int] = {}
        for key, value in node.value:
            inside = (*place, str(key.value))
            waiting += [(key, place), (value, inside)]
            # What `<<` merges in may be said again: that is what it is for.
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            said, line = loader.construct_object(key), key.start_mark.line + 1
            if said in lines:
                what = f"the key '{key.value}' stands twice, on lines {lines[said]} and {line}"
                raise InputError(what, where=f"{path}:{'.'.join(inside)}", fix="Remove one of them")
            lines[said] = line


def _first_problem(model: type[BaseModel], error: ValidationError, where: str | Path) -> InputError:
    problems = error.errors(include_url=False)
    # An unknown key explains best what went wrong; a missing one is often its misspelling.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    place = f"{where}:{key}" if key else str(where)
    if problem["type"] == "extra_forbidden":
        return InputError(
            f"unknown key '{location[-1]}'", where=place, fix=nearest(location[-1], _keys_at(model, location))
        )
    if problem["type"] == "missing":
        return InputError("this key is required", where=place, fix="Add it")
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, PartError):
        inside = ".".join(part for part in (key, cause.problem.where) if part)
        return InputError(cause.problem.what, where=f"{where}:{inside}" if inside else where, fix=cause.problem.fix)
    shown = repr(problem["input"])
    said = f" (it says {shown})" if len(shown) < 60 and problem["type"] != "value_error" else ""
    text = problem["msg"].removeprefix("Value error, ").rstrip(".")
    for theirs, ours in _WORDS if problem["type"] != "value_error" else ():
        text = re.sub(theirs, ours, text)
    page = getattr(model, "page", "")
    advice = f"The page {page} of the documentation lists what it takes" if page else "Correct the value"
    advice = "" if problem["type"] == "value_error" else advice
    return InputError(f"{text[0].lower()}{text[1:]}{said}", where=place, fix=advice)


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """Names of the keys that are valid where the last element of `location` stands."""
    current: Any = model
    for part in location[:-1]:
        for field_name, field in getattr(current, "model_fields", {}).items():
            if part in (field_name, field.alias):
                current = _inner_model(field.annotation) or current
    fields = getattr(current, "model_fields", {})
    return [*(field.alias or name for name, field in fields.items()), *getattr(current, "older_keys", ())]


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _inner_model(inner)
        if found is not None:
            return found
    return None


def described_options(model: type[BaseModel]) -> list[dict[str, Any]]:
    """The fields of a model of options as plain data: name, type, default, meaning."""
    return [
        {
            "name": name,
            "type": " | ".join(_types_of(schema)),
            "default": schema.get("default"),
            "description": schema.get("description", ""),
        }
        for name, schema in model.model_json_schema().get("properties", {}).items()
    ]


def _types_of(schema: dict[str, Any]) -> list[str]:
    if "anyOf" in schema:
        return [kind for part in schema["anyOf"] for kind in _types_of(part)]
    if "enum" in schema:
        return [repr(value) for value in schema["enum"]]
    return [str(schema.get("type", "any"))]
