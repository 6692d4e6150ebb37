"""A model with another tokenizer: common rows move along, new ones are estimated as mergekit-tokensurgeon does."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.weights import open_weights
from genepool.weights.vocabulary.reading import Vocabulary
from genepool.weights.vocabulary.transplant.estimators import MissingRows, row_estimators
from genepool.weights.vocabulary.transplant.estimators.omp import pursue
from genepool.weights.vocabulary.transplant.matching import Meaning, matches, meanings

GOLDENS = Path(__file__).parent.parent / "goldens" / "mergekit"
THEIRS: dict[str, Any] = json.loads((GOLDENS / "transplants.json").read_text())
# Its runs -> ours.
RUNS = {
    "omp of 1": ("omp", 1),
    "omp of 3": ("omp", 3),
    "omp of 8": ("omp", 8),
    "nearest 4": ("neighbours", 4),
    "subword": ("subword", 64),
    "mean": ("mean", 64),
    "zero": ("zero", 64),
}
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Command = Callable[..., Any]


def _golden_inputs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_inputs", GOLDENS / "inputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, inputs = tmp_path_factory.mktemp("transplant"), _golden_inputs()
    return {name: inputs.write_model(name, root / name) for name in ("a", "d_extended", "e_extended")}


# ---------------------------------------------------------------------- estimators


@pytest.mark.parametrize("run", RUNS)
def test_estimates_what_mergekit_tokensurgeon_estimates(
    folders: dict[str, Path], tmp_path: Path, cli: Command, run: str
) -> None:
    method, k = RUNS[run]
    donor = folders[THEIRS["donor"]]
    made = ["vocabulary", "transplant", folders[THEIRS["model"]], "--tokenizer", donor, "--out", tmp_path / "out"]
    assert cli(*made, "--method", method, "--k", str(k), "--quiet").code == 0
    before, after = open_weights(folders[THEIRS["model"]]), open_weights(tmp_path / "out")
    ids = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    numbers = ids["model"]["vocab"] | {entry["content"]: entry["id"] for entry in ids["added_tokens"]}
    for name in (EMBED, HEAD):
        common = len(before[name])
        assert torch.equal(after[name][:common], before[name]), "rows of common tokens are the model's"
        for token, row in zip(THEIRS["lacking"], THEIRS["runs"][run][name], strict=True):
            if method == "subword" and token != "ab":
                # It splits the words "<call>" and Z into unknown tokens, whose rows stand for everything.
                continue
            torch.testing.assert_close(after[name][numbers[token]], torch.tensor(row), atol=2e-5, rtol=2e-5)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 8), st.integers(0, 99))
def test_a_pursuit_leaves_nothing_that_its_atoms_could_explain(k: int, atoms: int, width: int, seed: int) -> None:
    """The rest is orthogonal to every chosen atom, no larger with more atoms, and zero once they span the space."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn((atoms, width), generator=generator, dtype=torch.float64)
    targets = torch.randn((3, width), generator=generator, dtype=torch.float64)
    left = []
    for count in range(1, min(k, atoms, width) + 1):
        chosen, coefficients = pursue(targets, points, count)
        assert all(len(set(row)) == count for row in chosen.tolist()), "an atom is chosen once"
        rest = targets - torch.einsum("bk,bkd->bd", coefficients, points[chosen])
        inner = torch.einsum("bd,bkd->bk", rest, points[chosen])
        assert inner.abs().max() < 1e-8
        left.append(rest.norm(dim=1))
    assert all(bool((after <= before + 1e-9).all()) for before, after in pairwise(left))
    if len(left) == width:
        assert left[-1].max() < 1e-8


def test_equal_atoms_do_not_spoil_a_pursuit() -> None:
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    chosen, coefficients = pursue(torch.tensor([[2.0, 3.0]]), points, 3)
    assert torch.isfinite(coefficients).all()
    torch.testing.assert_close((coefficients[0] @ points[chosen[0]]), torch.tensor([2.0, 3.0]))


def _missing(**changes: Any) -> MissingRows:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn((50, 4), generator=generator)
    given = {
        "name": "embed",
        "rows": rows,
        "meanings": [Meaning(text="ab"), Meaning(part="<x>")],
        "shared_rows": rows[:9],
        "donor_shared_rows": rows[:9] * 2,
        "donor_rows": rows[10:12] * 2,
        "split": lambda text: [1, 2],
        "k": 4,
        "seed": 0,
    }
    return MissingRows(**{**given, **changes})


@pytest.mark.parametrize("name", row_estimators())
def test_every_estimator_gives_a_finite_row_for_every_token(name: str) -> None:
    estimator = row_estimators()[name]
    found = estimator.estimate(_missing())
    assert found.shape == (2, 4)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert torch.equal(found, estimator.estimate(_missing()))
    none = _missing(meanings=[], donor_rows=torch.zeros(0, 4))
    assert estimator.estimate(none).shape == (0, 4)
    assert estimator.source
    assert estimator.when


def test_rows_at_random_have_the_mean_and_the_spread_of_all_rows() -> None:
    drawn = row_estimators()["gaussian"].estimate(_missing(meanings=[Meaning(text="x")] * 20_000))
    rows = _missing().rows
    torch.testing.assert_close(drawn.mean(0), rows.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.T.cov(correction=0), rows.T.cov(correction=0), atol=0.05, rtol=0)
    other = row_estimators()["gaussian"].estimate(_missing(meanings=[Meaning(text="x")] * 20_000, seed=1))
    assert not torch.equal(drawn, other)


# ---------------------------------------------------------------------- matching


def _meanings(path: Path, tokens: list[str], spelling: Any, **parts: str) -> dict[Meaning, int]:
    path.mkdir(exist_ok=True)
    (path / "tokenizer_config.json").write_text(json.dumps(parts))
    vocabulary = Vocabulary(path, {token: number for number, token in enumerate(tokens)}, spelling=spelling)
    return meanings(vocabulary, path, len(tokens))


def test_tokens_match_by_their_text_whatever_tokenizer_writes_them(tmp_path: Path) -> None:
    written = {
        "byte_level": ["<s>", "Ġthe", "ing", "Ã©", "Ã"],
        "metaspace": ["<bos>", "▁the", "ing", "é", "<0xC3>"],
        "wordpiece": ["[CLS]", "the", "##ing", "##é"],
        "plain": ["<|start|>", " the", "ing", "é"],
    }
    found = {
        spelling: _meanings(tmp_path / spelling, tokens, spelling, bos_token=tokens[0])
        for spelling, tokens in written.items()
    }
    for one in found.values():
        for other in found.values():
            common = {(match.donor, match.model) for match in matches(one, other)}
            assert common == {(n, n) for n in range(min(len(one), len(other)))}


def test_bytes_and_beginnings_match_only_where_asked(tmp_path: Path) -> None:
    model = _meanings(tmp_path / "m", ["a", "the", "<0x41>", "é"], "metaspace")
    donor = _meanings(tmp_path / "d", ["A", "them", "xy", "<0xE9>"], "metaspace")
    assert not list(matches(donor, model))
    assert {(m.donor, m.model, m.kind) for m in matches(donor, model, byte=True)} == {(0, 2, "byte"), (3, 3, "byte")}
    assert {(m.donor, m.model, m.kind) for m in matches(donor, model, prefix=True)} == {(1, 1, "prefix")}


# ---------------------------------------------------------------------- the command


def test_the_result_has_the_donors_tokenizer_and_says_what_was_done(
    folders: dict[str, Path], tmp_path: Path, cli: Command
) -> None:
    out = tmp_path / "out"
    donor = tmp_path / "donor"
    donor.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (donor / name).write_bytes((folders["e_extended"] / name).read_bytes())
    (donor / "chat_template.jinja").write_text("{{ donor }}")
    settings = {"eos_token": "t", "bos_token": {"content": "<s>"}, "pad_token": "not there"}
    (donor / "tokenizer_config.json").write_text(json.dumps(settings))
    model = tmp_path / "model"
    shutil.copytree(folders["a"], model)
    (model / "generation_config.json").write_text('{"eos_token_id": 2, "pad_token_id": 0, "max_new_tokens": 5}')
    made = ["vocabulary", "transplant", model, "--tokenizer", donor, "--out", out, "--method", "subword"]
    answer = cli(*made, "--byte-match", "--prefix-match", "--seed", "3", "--json")
    assert answer.code == 0
    said = json.loads(answer.out)
    assert (said["tokens"], said["rows_before"], said["common"], said["estimated"]) == (27, 24, {"exact": 22}, 5)
    assert json.loads((out / "genepool.json").read_text())["transplant"]["common"] == {"exact": 22}
    assert (out / "tokenizer.json").read_bytes() == (donor / "tokenizer.json").read_bytes()
    assert (out / "chat_template.jinja").read_text() == "{{ donor }}"
    numbers = json.loads((out / "tokenizer.json").read_text())["model"]["vocab"]
    after = open_weights(out)
    assert after.config is not None
    assert after.config["vocab_size"] == 27
    # The ids of special tokens are the donor's, and the model's where the donor has none are gone.
    ids = {"bos_token_id": 1, "eos_token_id": numbers["t"]}
    assert {key: value for key, value in after.config.items() if key.endswith("_token_id")} == ids
    assert json.loads((out / "generation_config.json").read_text()) == {"max_new_tokens": 5, **ids}
    assert after.info(EMBED).shape == (27, 8)
    # What is not a row of a token is the model's own, bit for bit.
    layer = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(after[layer], open_weights(folders["a"])[layer])
    assert cli(*made).code == 2
    assert cli(*made, "--overwrite", "--allow-pickle", "--quiet").code == 0


def test_a_transplant_there_and_back_is_the_model(folders: dict[str, Path], tmp_path: Path, cli: Command) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    transplant = ["vocabulary", "transplant"]
    assert cli(*transplant, folders["a"], "--tokenizer", folders["e_extended"], "--out", there, "--quiet").code == 0
    assert cli(*transplant, there, "--tokenizer", folders["a"], "--out", back, "--quiet").code == 0
    assert open_weights(back).fingerprint() == open_weights(folders["a"]).fingerprint()


@pytest.mark.slow
def test_the_result_loads_and_answers_as_before_on_common_tokens(
    folders: dict[str, Path], tmp_path: Path, cli: Command
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = ["vocabulary", "transplant", folders["a"], "--tokenizer", folders["e_extended"], "--out", tmp_path / "out"]
    assert cli(*made, "--quiet").code == 0
    before = AutoModelForCausalLM.from_pretrained(folders["a"]).eval()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("abc", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(after(ids).logits[..., :24], before(ids).logits)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "opm"], "--method: unknown method 'opm'. Did you mean 'omp'?"),
        (["--k", "0"], "--k: must be at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense(
    folders: dict[str, Path], tmp_path: Path, cli: Command, options: list[str], said: str
) -> None:
    made = ["vocabulary", "transplant", folders["a"], "--tokenizer", folders["e_extended"], "--out", tmp_path / "out"]
    answer = cli(*made, *options)
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "out").exists()


def test_donors_that_cannot_be_used(folders: dict[str, Path], tmp_path: Path, cli: Command) -> None:
    made = ["vocabulary", "transplant", folders["a"], "--out", tmp_path / "out", "--tokenizer"]
    (tmp_path / "empty").mkdir()
    assert "no file here says the tokens of a tokenizer" in cli(*made, tmp_path / "empty").err
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "vocab.json").write_text('{"zz": 0}')
    assert "has no token in common with that of" in cli(*made, alone, "--method", "mean").err
    (alone / "vocab.json").write_text('{"a": 0}')
    answer = cli(*made, alone)
    assert answer.code == 2
    assert "holds a tokenizer alone, and omp needs the rows of a model" in answer.err
    assert "`--method subword`" in answer.err
    assert not (tmp_path / "out").exists()


def test_rows_that_nothing_can_be_estimated_of(folders: dict[str, Path], tmp_path: Path, cli: Command) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folders["a"] / "model.safetensors")
    nan = tensors[EMBED].clone()
    nan[1, 2] = float("nan")
    for name, changes in {"nan": {EMBED: nan}, "short": {HEAD: tensors[EMBED][:-2].clone()}}.items():
        shutil.copytree(folders["a"], tmp_path / name)
        save_file({**tensors, **changes}, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    donor = folders["d_extended"]
    for model, other, said in (
        ("nan", donor, f"nan:{EMBED}: holds NaN or infinity, and rows are estimated of it"),
        (donor, "nan", f"nan:{EMBED}: holds NaN or infinity"),
        ("short", donor, f"short:{HEAD}: holds {len(tensors[EMBED]) - 2} rows, and {EMBED} {len(tensors[EMBED])}"),
    ):
        out = tmp_path / "out"
        answer = cli("vocabulary", "transplant", tmp_path / model, "--tokenizer", tmp_path / other, "--out", out, "-q")
        assert (answer.code, answer.out) == (2, "")
        assert said in answer.err
        assert answer.err.count("\n") == 1
        assert not out.exists()
