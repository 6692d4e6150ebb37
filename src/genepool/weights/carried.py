"""Which files beside a model's weights go along with what is made of it, and which stay behind and why.

Everything goes along that belongs to the model: tokenizer, processor, generation settings, chat templates, the modules
of sentence-transformers, a licence, and code that a config names, which is copied and never run. Weights in other
forms, adapters, states and logs of a training, caches, hidden files and links out of the folder stay behind. A folder
may be a stranger's, so the work is bounded. `writer` copies what is decided here; plans and cards tell it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genepool.errors import InputError
from genepool.weights.control import CONTROL_FILE
from genepool.weights.json_file import read_json_value

# A tokenizer of 250,000 tokens takes 35 MB; a model has some twenty files and a few folders.
MOST_BYTES = 200 * 10**6
MOST_FILES = 2_000
# Of all files of one folder: what goes along is small beside the weights, and is copied once more for every result.
MOST_BYTES_IN_ALL = 10**9
_DEPTH = 6
# Any of these holds a vocabulary; the other files of a tokenizer only go with one.
VOCABULARY_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
# What is the tokenizer's, where that is another model's: all that transformers' tokenizers name in `vocab_files_names`.
TOKENIZER_FILES = frozenset({
    *VOCABULARY_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt",
    "bpe.codes", "spm.model", "sentencepiece.model", "source.spm", "target.spm", "vocab-src.json", "vocab-tgt.json",
    "normalizer.json", "emoji.json", "entity_vocab.json", "byte_maps.json", "prophetnet.tokenizer", "word_shape.json",
    "word_pronunciation.json", "dict.txt", "monolingual_vocab.txt", "tekken.json", "tiktoken.model",
    "chat_template.jinja", "chat_template.json",
})  # fmt: skip
_TEMPLATE_FOLDERS = ("additional_chat_templates", "chat_templates")
# Names the tokens that end an answer, so it belongs to whoever's tokenizer and template go along.
GENERATION_FILE = "generation_config.json"
# Files that are fetched by name from places that cannot be listed.
KNOWN_FILES = (
    GENERATION_FILE, *sorted(TOKENIZER_FILES), "preprocessor_config.json", "processor_config.json",
    "image_processor_config.json", "video_preprocessor_config.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json",
)  # fmt: skip

_OWN_WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")
_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|gguf|ggml|h5|msgpack|onnx|onnx_data|ot|npz|npy|tflite|pb|mlmodel|pkl|pickle"
    r"|joblib|nemo|engine|llamafile|index\.json)"
)
_TRAINING = re.compile(
    r"(optimizer|scheduler|scaler|rng_state|random_states)(_\d+)?\.(pt|pth|pkl|bin|json|safetensors)|trainer_state\.json|training_args\.(bin|json|yaml)"
    r"|trainer_log\.jsonl|(all|train|eval|test|predict)_results\.(json|txt)|train(ing)?_loss\.png|events\.out\.tfevents.*"
    r"|.*\.log|latest|zero_to_fp32\.py"
)
_TRAINING_FOLDERS = re.compile(r"checkpoint-\d+|global_step\d+|runs|logs|wandb|tensorboard|mlruns|lightning_logs")
# What GPTQ, AWQ and TensorRT's tools say beside the config; a result has weights of floats.
_QUANTISER = frozenset({
    "quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json",
})  # fmt: skip
_REPLACED = frozenset({
    "README.md", "recipe.yaml", "genepool.json", CONTROL_FILE, "mergekit_config.yml", "mergekit_config.yaml",
})  # fmt: skip
# transformers would load these onto the result, or look for the base they name.
_ADAPTER = re.compile(r"adapter_config\.json|adapter_model\..*")
_DATABASE = re.compile(r".*\.(sqlite|sqlite3|db|sqlite-wal|sqlite-shm)")
_CODE = re.compile(r".*\.(py|pyc|so|dll|dylib|sh|bat|ipynb|exe)")
# No part of it runs over a line's end or can be split in two ways: a stranger's file must take linear time.
_IMPORTED = re.compile(r"^[ \t]*from[ \t]+\.(?:(\w+)\b[\w.]*[ \t]+import|[ \t]+import[ \t]+(\w+))", re.MULTILINE)
_MOST_CODE_BYTES = 10**6
# A file's SHA-1 as git has it, or its SHA-256 where it is a large one.
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MODULE_NAME = re.compile(r"[A-Za-z_]\w*")

IN_ANOTHER_FORM = "weights that were not merged"
ADAPTER = "an adapter that was not merged"
TRAINING_STATE = "state or log of a training"
HIDDEN = "hidden"
REPLACED = "the result has its own"
QUANTISER = "it says how the weights were quantised"
UNNAMED_CODE = "code that no config names"
ELSEWHERE = "a link out of the model's folder"
TOO_MUCH = f"the files beside the weights are carried up to {MOST_BYTES_IN_ALL:,} bytes in all, the smallest first"


@dataclass(frozen=True)
class CarriedFiles:
    """What goes along with a result.

    Attributes:
        files: name in the result ("1_Pooling/config.json") -> the file it is copied from.
        left: file or folder of the models that stays behind -> why.
        code: the files that are code, which transformers runs if it is allowed to.
        missing: code that a config names and its folder does not hold.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    code: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def carried_files(source: Path | None, tokenizer_from: Path | None = None) -> CarriedFiles:
    """What of the folders of a result's models goes along.

    Args:
        source: of the model whose config.json the result has.
        tokenizer_from: of the model whose tokenizer goes along, with its chat templates and generation settings, when
            it is another.
    """
    own = _Folder(source) if source is not None else None
    if tokenizer_from is None or tokenizer_from == source:
        return own.carried() if own is not None else CarriedFiles()
    theirs = _Folder(tokenizer_from).carried()
    ours = own.carried() if own is not None else CarriedFiles()
    taken = {name: path for name, path in theirs.files.items() if of_tokenizer(name) or name == GENERATION_FILE}
    kept = {name: path for name, path in ours.files.items() if not of_tokenizer(name)}
    named = _code_named(tokenizer_from, ("tokenizer_config.json",), [])
    code = {name: theirs.files[name] for name in named if name in theirs.files}
    return CarriedFiles(
        {**kept, **taken, **code},
        ours.left,
        tuple(dict.fromkeys((*(name for name in ours.code if name in kept), *code))),
        tuple(dict.fromkeys((*ours.missing, *theirs.missing))),
    )


def of_tokenizer(name: str) -> bool:
    """Whether a file, by its name in a model's folder, is the tokenizer's or a chat template."""
    return name in TOKENIZER_FILES or name.split("/")[0] in _TEMPLATE_FOLDERS


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """The files of the tokenizer in a model's folder, its chat templates included, by their names there."""
    return {name: path for name, path in _Folder(folder).carried().files.items() if of_tokenizer(name)}


class _Folder:
    """One model's folder, sorted into what goes along and what does not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Path] = {}
        self.left: dict[str, str] = {}
        self._real = Path(os.path.realpath(path))
        # In the hub's cache a snapshot is links to files whose names are their hashes.
        snapshot = self._real.parent.name == "snapshots"
        self._blobs = self._real.parent.parent / "blobs" if snapshot else None
        self._seen = 0
        self._modules: frozenset[str] = frozenset()

    def carried(self) -> CarriedFiles:
        if not self.path.is_dir() or not (self.path / "config.json").is_file():
            # Weights without a config may lie anywhere, beside anything: only what is known by name belongs to them.
            names = (*KNOWN_FILES, *_templates(self.path))
            found = {name: path for name in names if (path := self.path / name).is_file()}
            away = {name: ELSEWHERE for name, path in found.items() if path.is_symlink() and not self._is_own(path)}
            return CarriedFiles({name: path for name, path in found.items() if name not in away}, away)
        self._modules = _module_folders(self.path)
        self._walk(self.path, "", 0)
        missing: list[str] = []
        named = _code_named(self.path, _NAMING_CODE, missing)
        code = tuple(name for name in named if name in self.files)
        for name in [name for name in self.files if _CODE.fullmatch(name) and name not in code]:
            del self.files[name]
            self.left[name] = UNNAMED_CODE
        self._keep_within()
        code = tuple(name for name in code if name in self.files)
        return CarriedFiles(self.files, self.left, code, tuple(missing))

    def _keep_within(self) -> None:
        """Leaves the largest files behind where all of them together are too much."""
        sizes = {name: path.stat().st_size for name, path in self.files.items()}
        total = sum(sizes.values())
        for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
            if total <= MOST_BYTES_IN_ALL:
                return
            total -= sizes[name]
            del self.files[name]
            self.left[name] = TOO_MUCH

    def _walk(self, folder: Path, prefix: str, depth: int) -> None:
        for entry in self._entries(folder, prefix):
            name = f"{prefix}{entry.name}"
            try:
                if entry.is_dir(follow_symlinks=False):
                    if reason := self._why_left_folder(entry, name, depth):
                        self.left[f"{name}/"] = reason
                    else:
                        self._walk(Path(entry.path), f"{name}/", depth + 1)
                elif name == "config.json" or _OWN_WEIGHTS.fullmatch(name):
                    continue
                elif reason := self._why_left(entry, name):
                    self.left[name] = reason
                else:
                    self.files[name] = Path(entry.path)
            except OSError:
                self.left[name] = "it cannot be read"

    def _entries(self, folder: Path, prefix: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name) if self._seen < MOST_FILES else []
        except OSError:
            self.left[prefix or "."] = "it cannot be read"
            return
        for entry in found:
            self._seen += 1
            if self._seen > MOST_FILES:
                self.left[f"{prefix}..."] = f"more than {MOST_FILES:,} files"
                return
            yield entry

    def _why_left_folder(self, entry: os.DirEntry[str], name: str, depth: int) -> str:
        if entry.name.startswith("."):
            return HIDDEN
        if entry.name == "__pycache__":
            return "a cache"
        if _TRAINING_FOLDERS.fullmatch(entry.name):
            return TRAINING_STATE
        if depth >= _DEPTH:
            return "nested too deeply"
        if name.split("/")[0] in self._modules:
            return ""
        return IN_ANOTHER_FORM if _holds_weights(Path(entry.path)) else ""

    def _why_left(self, entry: os.DirEntry[str], name: str) -> str:
        if entry.is_symlink() and not self._is_own(Path(entry.path)):
            return ELSEWHERE
        if not entry.is_file():
            return "not a file"
        if entry.name.startswith("."):
            return HIDDEN
        if name in _REPLACED:
            return REPLACED
        if name in _QUANTISER:
            return QUANTISER
        if _TRAINING.fullmatch(entry.name):
            return TRAINING_STATE
        if _DATABASE.fullmatch(entry.name):
            return "a database"
        if "/" not in name or name.split("/")[0] not in self._modules:
            if _ADAPTER.fullmatch(entry.name):
                return ADAPTER
            if _WEIGHTS.fullmatch(entry.name):
                return IN_ANOTHER_FORM
        if (size := entry.stat().st_size) > MOST_BYTES:
            return f"{size:,} bytes, and at most {MOST_BYTES:,} are carried"
        return ""

    def _is_own(self, link: Path) -> bool:
        """Whether a link leads to a file of the folder, or from a snapshot of the hub's cache to one of its blobs."""
        target = Path(os.path.realpath(link))
        if target.is_relative_to(self._real):
            return True
        return target.parent == self._blobs and _BLOB.fullmatch(target.name) is not None


def _templates(path: Path) -> Iterator[str]:
    """The chat templates that lie in folders of their own."""
    for folder in _TEMPLATE_FOLDERS:
        for file in sorted((path / folder).glob("*.jinja"))[:MOST_FILES]:
            yield f"{folder}/{file.name}"


def _holds_weights(folder: Path) -> bool:
    """Whether a folder is another model, or the same in another form."""
    count = 0
    for _, folders, files in os.walk(folder):
        if any(_WEIGHTS.fullmatch(name) or _ADAPTER.fullmatch(name) for name in files):
            return True
        count += len(files) + len(folders)
        if count > MOST_FILES:
            return True
    return False


def _module_folders(path: Path) -> frozenset[str]:
    """The folders that sentence-transformers' modules.json names, with weights of their own."""
    named = [one.get("path") for one in _modules(path)]
    return frozenset(name.split("/")[0] for name in named if isinstance(name, str) and name)


def _modules(path: Path) -> list[dict[str, Any]]:
    found = _content(path / "modules.json")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _content(path: Path) -> Any:
    """What a JSON file says; nothing where there is none or it is broken, which whoever reads it will say."""
    try:
        return read_json_value(path)
    except InputError:
        return None


# ---------------------------------------------------------------------- code

_NAMING_CODE = (
    "config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "generation_config.json",
)  # fmt: skip


def _code_named(path: Path, configs: tuple[str, ...], missing: list[str]) -> list[str]:
    """The Python files that the configs' `auto_map` names, with those of the folder that they import."""
    waiting = []
    for config in configs:
        waiting += [f"{module}.py" for module in _modules_named(_content(path / config))]
    waiting += [f"{module}.py" for module in _own_module_types(path)]
    found: list[str] = []
    while waiting and len(found) < MOST_FILES:
        name = waiting.pop(0)
        if name in found or name in missing:
            continue
        file = path / name
        if not file.is_file():
            missing.append(name)
            continue
        found.append(name)
        if file.stat().st_size <= _MOST_CODE_BYTES:
            text = file.read_text(encoding="utf-8", errors="replace")
            imported = dict.fromkeys(next(filter(None, groups)) for groups in _IMPORTED.findall(text))
            # `from . import name` may name what another module defines.
            waiting += [f"{module}.py" for module in imported if (path / f"{module}.py").is_file()]
    return found


def _modules_named(config: Any) -> Iterator[str]:
    """The modules in a config's `{"AutoModel": "modeling_mine.Mine"}`; those of another repository are not here."""
    auto_map = config.get("auto_map") if isinstance(config, dict) else None
    for value in auto_map.values() if isinstance(auto_map, dict) else ():
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and "--" not in name and _MODULE_NAME.fullmatch(module := name.split(".")[0]):
                yield module


def _own_module_types(path: Path) -> Iterator[str]:
    """Modules of its own that sentence-transformers' modules.json names ("custom_st.Transformer"), not of libraries."""
    for one in _modules(path):
        module = str(one.get("type")).split(".")[0]
        if _MODULE_NAME.fullmatch(module) and (path / f"{module}.py").is_file():
            yield module
