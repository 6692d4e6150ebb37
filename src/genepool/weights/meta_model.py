"""Builds a class of transformers on the meta device and tells what it is made of, as plain data.

No weights, no remote code, no network, and bounded work: a config is a stranger's. `architecture` keeps the answers
and is what everything else uses; this module imports torch and transformers.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import Any

import torch

from genepool.errors import one_line
from genepool.weights.tensor_info import dtype_code

# Modules and parameters: a model of 100 layers has about 2,000. They take seconds, on a slow machine too.
MOST_PARTS = 100_000
MOST_SECONDS = 30.0
# Of a thing that a config asks for many times (layers, experts).
MOST_REPEATED = 5_000
# Above every vocabulary and context there is.
MOST_ENTRIES = 10**8
_COUNT = re.compile(r"(^|_)(n|num)_\w*(layer|block|expert|stage)s?$|(^|_)(layer|block|expert|depth)s?$")
_FREE = re.compile(r"theta|base|seed|_id$|_ids$|token")
# What would choose code for attention, kernels or quantised layers: no name or shape depends on it.
_LEFT_OUT = (
    "model_type", "architectures", "auto_map", "quantization_config", "attn_implementation", "_attn_implementation",
    "experts_implementation", "_experts_implementation", "fusion_config", "kernel_config", "use_kernels",
    "distributed_config",
)  # fmt: skip


_BUILDING = threading.RLock()


class _Unknown(Exception):
    """The class cannot be built.

    Args:
        why: in a clause.
        passing: whether it may be otherwise tomorrow (a library that is not installed).
    """

    def __init__(self, why: str, *, passing: bool = False) -> None:
        super().__init__(why)
        self.why, self.passing = why, passing


class _TooLarge(Exception):
    """The model has more parts, or takes longer, than anyone's."""


def model_of(config: Mapping[str, Any] | None) -> Any:
    """transformers' model of a config on the meta device; None where there is none (see `architecture.why_unknown`).

    One object for all who ask: never change it, and copy what its methods give.
    """
    return _model_of(json.dumps(dict(config or {}), sort_keys=True, default=str))


@lru_cache(maxsize=16)
def _model_of(text: str) -> Any:
    config = json.loads(text)
    named = config.get("architectures")
    try:
        return _build(config, str(named[0])) if isinstance(named, list) and named else None
    except _Unknown:
        return None


def describe(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """What `architecture.Architecture` holds, as JSON holds it; `{"unknown": why}` if nothing can be built."""
    try:
        model = _build(config, architecture)
    except _Unknown as error:
        return {"unknown": error.why, **({"passing": True} if error.passing else {})}
    held = _tensors(model)
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)} & set(held)
    return {
        "name": type(model).__name__,
        "base_model_prefix": model.base_model_prefix or "",
        "tensors": {name: [list(tensor.shape), _code(tensor)] for name, tensor in held.items()},
        "buffers": sorted(buffers),
        "ties": _ties(model, held),
        "modules": {name: _kind(module) for name, module in model.named_modules(remove_duplicate=False)},
        "input_embeddings": _module_name(model, "get_input_embeddings"),
        "output_embeddings": _module_name(model, "get_output_embeddings"),
        "settings": json.loads(model.config.to_json_string(use_diff=False)),
    }


def describe_names(config: Mapping[str, Any], architecture: str, stored: Sequence[str]) -> dict[str, Any]:
    """What `architecture.Naming` holds for a file of these names: transformers' own renaming, asked."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    model = _build(config, architecture)
    held = _tensors(model)
    transforms = get_model_conversion_mapping(model)
    renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    renamed: dict[str, str] = {}
    gathered: dict[str, tuple[Any, list[str]]] = {}
    unexpected = []
    # In the loader's own order: some renamings depend on what came before.
    for name in sorted(stored, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, held)
        if target not in held and name in held:
            target, pattern = rename_source_key(name, [], [], model.base_model_prefix, held)
        if target not in held:
            unexpected.append(name)
        elif pattern is None:
            renamed[name] = target
        else:
            gathered.setdefault(target, (by_pattern[pattern], []))[1].append(name)
    conversions = []
    for target, (converter, names) in gathered.items():
        first = converter.target_patterns[0]
        targets = [target.replace(first, other) for other in converter.target_patterns]
        made = [name for name in dict.fromkeys(targets) if name in held]
        conversions.append([names, made, [repr(one) for one in converter.operations]])
    return {
        "renamed": renamed,
        "conversions": conversions,
        "unexpected": [name for name in unexpected if not _ignored(name, model, "unexpected")],
        "missing": _missing(model, held, {*renamed.values(), *(name for one in conversions for name in one[1])}),
    }


# ---------------------------------------------------------------------- the model


def _build(config: Mapping[str, Any], architecture: str) -> Any:
    import transformers
    from huggingface_hub.errors import OfflineModeIsEnabled
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise _Unknown(f"transformers knows no model_type {kind!r}")
    found = getattr(transformers, architecture, None) if architecture.isidentifier() else None
    if not inspect.isclass(found):
        raise _Unknown(f"transformers has no class {architecture!r}")
    cls: Any = found
    if not issubclass(cls, transformers.PreTrainedModel):
        # A stand-in for a class that needs a library that is not there says so itself.
        raise _Unknown(f"{architecture} is no model that can be built here", passing=True)
    _check_size(config)
    settings = {key: value for key, value in config.items() if key not in _LEFT_OUT}
    try:
        with building(), warnings.catch_warnings(), _silent(), _OFFLINE, _bounded(), ExitStack() as stack:
            warnings.simplefilter("ignore")
            built = read_config(CONFIG_MAPPING[kind], settings, attn_implementation="eager")
            if cls.config_class is not None and not isinstance(built, cls.config_class):
                raise _Unknown(f"{architecture} is not built of a config of model_type {kind!r}")
            for context in _contexts(cls):
                stack.enter_context(context)
            return cls(built)
    except (_Unknown, KeyboardInterrupt):
        raise
    except _TooLarge:
        raise _Unknown(f"it has more than {MOST_PARTS:,} parts, or building it takes {MOST_SECONDS:.0f} s") from None
    except OfflineModeIsEnabled:
        raise _Unknown("its config names a part by where it is on the hub, and building asks no network") from None
    except ImportError as error:
        raise _Unknown(one_line(error), passing=True) from None
    except Exception as error:
        raise _Unknown(f"transformers cannot build {architecture} of it ({one_line(error)})") from None


@contextmanager
def building() -> Iterator[None]:
    """One thread at a time builds or loads a class: meanwhile transformers replaces methods of the base of them all.

    Two threads that put them back in another order, or a build that is interrupted while it does, would leave every
    later model without its ties. What was there is put back here, whatever happened.
    """
    from transformers import PreTrainedModel

    with _BUILDING:
        tie, dtype = PreTrainedModel.tie_weights, torch.get_default_dtype()
        try:
            yield
        finally:
            PreTrainedModel.tie_weights = tie
            torch.set_default_dtype(dtype)


def read_config(cls: Any, settings: Mapping[str, Any], **more: Any) -> Any:
    """A class's config from what a config.json says, as transformers reads it from the file.

    Args:
        cls: the class of the config.
        settings: the content of the file, where infinity is {"__float__": "Infinity"}.
        more: as for the class's `from_dict`.
    """
    decode = getattr(cls, "_decode_special_floats", dict)
    return cls.from_dict(decode(dict(settings)), **more)


def _contexts(cls: Any) -> list[Any]:
    """What transformers itself builds a model in before it loads weights."""
    try:
        return list(cls.get_init_context(torch.float32, False, False, None))
    except (AttributeError, TypeError):
        # Older versions have no such method, or one that takes less.
        return [torch.device("meta")]


def _check_size(config: Mapping[str, Any]) -> None:
    """Refuses counts that nobody's model has, before lists of that length are made of them."""
    if what := oversized(config):
        raise _Unknown(f"its config says {what} that are built")


def oversized(config: Mapping[str, Any]) -> str:
    """The first count of a config that nobody's model has, and how many there may be; empty where all are possible."""
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(str(inner), one) for inner, one in value.items()]
        elif isinstance(value, list):
            waiting += [(key, one) for one in value]
        elif isinstance(value, int) and not _FREE.search(key):
            most = MOST_REPEATED if _COUNT.search(key) else MOST_ENTRIES
            if value > most:
                return f"{key}: {value:,}, more than the {most:,}"
    return ""


@contextmanager
def _bounded() -> Iterator[None]:
    """Stops building in this thread at a number of modules, and after a time."""
    from torch.nn.modules.module import (
        register_module_module_registration_hook,
        register_module_parameter_registration_hook,
    )

    here, count, started, done = threading.get_ident(), 0, time.monotonic(), threading.Event()
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def count_one(*_: Any) -> None:
        nonlocal count
        if threading.get_ident() == here:
            count += 1
            if count > MOST_PARTS or time.monotonic() - started > MOST_SECONDS:
                raise _TooLarge

    def stop() -> None:
        # A loop that makes no modules is met from outside, between two of its steps.
        if not done.wait(MOST_SECONDS):
            raise_in(ctypes.c_ulong(here), ctypes.py_object(_TooLarge))

    handles = [
        register_module_module_registration_hook(count_one),
        register_module_parameter_registration_hook(count_one),
    ]
    watch = threading.Thread(target=stop, daemon=True)
    watch.start()
    try:
        yield
    finally:
        # What was raised too late to meet the building is met here. It is not taken back: CPython 3.11 then keeps
        # looking for it, and never gets on under a profiler or a debugger.
        with suppress(_TooLarge):
            done.set()
            for handle in handles:
                handle.remove()
            watch.join()


class _Offline:
    """While any thread is in it, every request to the hub is refused: some configs name a backbone by its place there.

    transformers asks huggingface_hub, and that looks at its setting at each request.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, False

    def __enter__(self) -> None:
        from huggingface_hub import constants

        with self._lock:
            if self._inside == 0:
                self._before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        from huggingface_hub import constants

        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                constants.HF_HUB_OFFLINE = self._before


_OFFLINE = _Offline()


@contextmanager
def _silent() -> Iterator[None]:
    """transformers has much to say of configs, and none of it concerns what is asked here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)


# ---------------------------------------------------------------------- what it is made of


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    """Everything a file of it can hold, under every name."""
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}


def _code(tensor: torch.Tensor) -> str:
    return "F32" if tensor.is_floating_point() else dtype_code(tensor.dtype)


def _ties(model: Any, held: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Name -> the name it is tied to: what the class says, and what is one tensor under several names."""
    said = getattr(model, "all_tied_weights_keys", None)
    if said is None:
        said = model.get_expanded_tied_weights_keys(all_submodels=True)
    ties = {name: source for name, source in said.items() if name in held and source in held and name != source}
    first: dict[int, str] = {}
    for name, tensor in held.items():
        other = first.setdefault(id(tensor), name)
        if other != name and name not in ties and ties.get(other) != name:
            ties[name] = other
    # A name that is tied to one that is tied itself belongs to the last.
    return {name: _end(name, ties) for name in ties}


def _end(name: str, ties: Mapping[str, str]) -> str:
    seen = {name}
    while (source := ties.get(name)) is not None and source not in seen:
        seen.add(source)
        name = source
    return name


def _kind(module: Any) -> int:
    from transformers.pytorch_utils import Conv1D

    from genepool.weights.architecture import MODULE_KINDS, ModuleKind

    kinds: tuple[tuple[type | tuple[type, ...], ModuleKind], ...] = (
        (torch.nn.Linear, "linear"),
        (Conv1D, "transposed"),
        (torch.nn.Conv1d, "conv1d"),
        (torch.nn.Conv2d, "conv2d"),
        (torch.nn.Conv3d, "conv3d"),
        (torch.nn.Embedding, "embedding"),
        ((torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.modules.batchnorm._BatchNorm, torch.nn.RMSNorm), "norm"),
    )
    found = next((kind for classes, kind in kinds if isinstance(module, classes)), "other")
    return MODULE_KINDS.index(found)


def _module_name(model: Any, method: str) -> str:
    """The name of the module a method of the model gives."""
    try:
        found = getattr(model, method)()
    except (AttributeError, NotImplementedError, TypeError):
        return ""
    return next((name for name, module in model.named_modules() if module is found), "")


def _missing(model: Any, held: Mapping[str, torch.Tensor], filled: set[str]) -> list[str]:
    ties = _ties(model, held)
    groups = {ties.get(name, name) for name in filled}
    absent = [name for name in held if name not in filled and ties.get(name, name) not in groups]
    return [name for name in absent if not _ignored(name, model, "missing")]


def _ignored(name: str, model: Any, which: str) -> bool:
    """Whether the class itself says that a name may be missing, or be there without use."""
    patterns = set(getattr(model, f"_keys_to_ignore_on_load_{which}", None) or ())
    return any(re.search(pattern, name) for pattern in patterns)
