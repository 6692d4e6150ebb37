"""Makes the checkpoints that are merged: Llama shapes, random weights, fine-tunes a small step from their base.

Blocks of a few MB are drawn from seeds of their own and written to their places, so a model of any size takes little
memory and further fine-tunes can be added later. Kept between runs as long as the manifest beside them is today's.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measuring import tell
from genepool import seeding, staging
from genepool.errors import InputError

if TYPE_CHECKING:
    import torch

BASE = "base"
# Raised when what is drawn changes, so that checkpoints of before are made anew.
_FORMAT = 1
_BLOCK = 1 << 22
_MATRIX_SPREAD, _NORM_SPREAD = 0.02, 0.1
# A fine-tune's step from the base, as a share of each tensor's spread.
_STEP = 0.05
# Width and inner width for up to so many billions of parameters, as Llamas of that size have them.
_WIDTHS = (
    (0.075, 512, 1408), (0.15, 768, 2048), (0.35, 1024, 2816), (0.7, 1536, 4096), (1.5, 2048, 5632),
    (math.inf, 2560, 6912),
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """The shape of a Llama; heads are 64 wide and four of them share their keys and values."""

    hidden: int
    inner: int
    layers: int
    vocabulary: int = 32000

    @property
    def narrow(self) -> Layout:
        """As many tensors with next to nothing in them: what merging these takes is start-up."""
        return Layout(64, 64, self.layers, self.vocabulary)

    @property
    def config(self) -> dict[str, object]:
        """What config.json says."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": max(4, self.hidden // 64),
            "num_key_value_heads": max(1, self.hidden // 256),
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor by name."""
        hidden, keys = self.hidden, self.hidden // 4
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, hidden)}
        for i in range(self.layers):
            layer = f"model.layers.{i}."
            shapes |= {
                f"{layer}self_attn.q_proj.weight": (hidden, hidden),
                f"{layer}self_attn.k_proj.weight": (keys, hidden),
                f"{layer}self_attn.v_proj.weight": (keys, hidden),
                f"{layer}self_attn.o_proj.weight": (hidden, hidden),
                f"{layer}mlp.gate_proj.weight": (self.inner, hidden),
                f"{layer}mlp.up_proj.weight": (self.inner, hidden),
                f"{layer}mlp.down_proj.weight": (hidden, self.inner),
                f"{layer}input_layernorm.weight": (hidden,),
                f"{layer}post_attention_layernorm.weight": (hidden,),
            }
        return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (self.vocabulary, hidden)}

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(math.prod(shape) for shape in self.shapes().values())


def layout_of(billions: float) -> Layout:
    """The layout that comes closest to so many billions of parameters.

    Raises:
        InputError: too small to have layers beside its vocabulary.
    """
    hidden, inner = next((hidden, inner) for limit, hidden, inner in _WIDTHS if billions <= limit)
    outside = Layout(hidden, inner, 0).parameters
    layers = round((billions * 1e9 - outside) / (Layout(hidden, inner, 1).parameters - outside))
    if layers < 1:
        raise InputError(f"no checkpoint of {billions:g}B parameters", where="--sizes", fix="Begin at 0.04")
    return Layout(hidden, inner, layers)


def model_names(experts: int) -> list[str]:
    """The base, then the fine-tunes."""
    return [BASE, *(f"expert{i + 1}" for i in range(experts))]


def make_narrow(work: Path, billions: float, experts: int) -> Path:
    """Models of as many tensors as those of that size, in `work`; see `Layout.narrow`."""
    return make(work / f"llama-{billions:g}B-narrow", layout_of(billions).narrow, experts)


def weights_file(folder: Path, model: str) -> Path:
    """Where the weights of one model are."""
    return folder / model / "model.safetensors"


def make(folder: Path, layout: Layout, experts: int) -> Path:
    """Base and fine-tunes below `folder`, of which those that are there already are kept.

    Raises:
        InputError: the disk has no room for them and for two outputs, the old one and the new.
    """
    header = _header(layout)
    size = len(header) + 2 * layout.parameters
    manifest = json.dumps({"format": _FORMAT, "step": _STEP, **asdict(layout)}, indent=2) + "\n"
    stamp = folder / "manifest.json"
    if not stamp.is_file() or stamp.read_text() != manifest:
        shutil.rmtree(folder, ignore_errors=True)
        # First the manifest, then the models, each of which appears whole: what is there is always complete.
        staging.write_text(stamp, manifest)
    names = model_names(experts)
    files = {name: weights_file(folder, name) for name in names}
    missing = [name for name in names if not files[name].is_file() or files[name].stat().st_size != size]
    _check_room(folder, len(missing), size)
    if missing:
        tell(f"making {len(missing)} models of {layout.parameters / 1e9:.2f}B parameters, {size / 1e9:.2f} GB each")
        with ExitStack() as stack:
            staged = [stack.enter_context(staging.staged_folder(folder / name, overwrite=True)) for name in missing]
            _write_models(staged, missing, layout, header)
    return folder


def _check_room(folder: Path, missing: int, size: int) -> None:
    needed, free = (missing + 2) * size, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{needed / 1e9:.1f} GB are needed ({missing} models and two outputs) and {free / 1e9:.1f} GB are free",
            where=folder,
            fix="Free some space, or name another folder with --work",
        )


def _write_models(folders: Sequence[Path], names: Sequence[str], layout: Layout, header: bytes) -> None:
    handles = []
    try:
        for folder in folders:
            (folder / "config.json").write_text(json.dumps(layout.config, indent=2) + "\n")
            (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(layout.vocabulary)))
            (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}\n')
            handle = os.open(folder / "model.safetensors", os.O_WRONLY | os.O_CREAT, 0o644)
            handles.append(handle)
            os.posix_fallocate(handle, 0, len(header) + 2 * layout.parameters)
            os.pwrite(handle, header, 0)

        def write(block: _Block) -> None:
            for handle, data in zip(handles, block.draw(names), strict=True):
                os.pwrite(handle, data, len(header) + 2 * block.offset)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # Going through the answers raises what went wrong in a thread.
            for _ in pool.map(write, _blocks(layout)):
                pass
    finally:
        for handle in handles:
            os.close(handle)


@dataclass(frozen=True)
class _Block:
    """A run of one tensor's elements, and where it begins in the file."""

    tensor: str
    number: int
    count: int
    offset: int
    norm: bool

    def draw(self, models: Sequence[str]) -> Iterator[bytes]:
        """The elements of each model as bfloat16: those of the base, moved by a small random step."""
        import torch

        spread = _NORM_SPREAD if self.norm else _MATRIX_SPREAD
        base = self._noise(BASE).mul_(spread).add_(1.0 if self.norm else 0.0)
        for model in models:
            values = base if model == BASE else torch.add(base, self._noise(model), alpha=_STEP * spread)
            yield values.bfloat16().view(torch.uint8).numpy().tobytes()

    def _noise(self, model: str) -> torch.Tensor:
        import torch

        return torch.randn(self.count, generator=seeding.torch_generator(0, model, self.tensor, self.number))


def _blocks(layout: Layout) -> Iterator[_Block]:
    offset = 0
    for name, shape in layout.shapes().items():
        size = math.prod(shape)
        for number, start in enumerate(range(0, size, _BLOCK)):
            yield _Block(name, number, min(_BLOCK, size - start), offset + start, len(shape) == 1)
        offset += size


def _header(layout: Layout) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in layout.shapes().items():
        end = offset + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _tokenizer(vocabulary: int) -> dict[str, object]:
    """Something for both programs to check and copy, of the size a tokenizer has."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": {f"token{i}": i for i in range(vocabulary)}, "merges": []},
    }
