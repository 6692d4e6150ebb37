"""`genepool soup`, end to end: models asked in memory, one folder written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_models import write_model

from genepool.weights import open_weights


def _task_of(model: Path, folder: Path, cli: Callable[..., Any]) -> Path:
    """A task whose answers are what this model writes."""
    prompts = [f"{a}{b}=" for a in "abcdefgh" for b in "ab"]
    call = ["generate", model, "--max-new-tokens", "1", "--quiet", "--json"]
    told = json.loads(cli(*call, *(word for prompt in prompts for word in ("--prompt", prompt))).out)
    lines = [{"prompt": row["prompt"], "answer": row["output"]} for row in told["results"] if row["output"].strip()]
    folder.mkdir()
    (folder / "valid.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "task.yaml").write_text("max_new_tokens: 1\n")
    return folder


def _moved(model: Path, to: Path, step: float) -> Path:
    """A copy of a model, every weight moved; two moved by +step and -step average to the original."""
    write_model(to)
    tensors = load_file(model / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    moved = {name: value + step * torch.randn(value.shape, generator=generator) for name, value in tensors.items()}
    save_file(moved, to / "model.safetensors", metadata={"format": "pt"})
    return to


def test_soup_keeps_what_helps_and_writes_it(tmp_path: Path, cli: Callable[..., Any]) -> None:
    truth = write_model(tmp_path / "truth")
    task = _task_of(truth, tmp_path / "copying", cli)
    up, down = _moved(truth, tmp_path / "up", 0.4), _moved(truth, tmp_path / "down", -0.4)
    stranger = write_model(tmp_path / "stranger", seed=5)
    out = tmp_path / "soup"
    call = ("soup", up, stranger, down, "--tasks", task, "--out", out, "--json")
    answer = cli(*call)
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert set(told) == {"schema", "out", "models", "split", "score", "steps", "evaluated"}
    assert (told["schema"], told["split"], told["score"]) == (1, "valid", 1.0)
    assert sorted(told["models"]) == sorted([str(up), str(down)])
    assert all(step["alone"] < 1 for step in told["steps"])
    written, original = open_weights(out), open_weights(truth)
    for name in original.names():
        torch.testing.assert_close(written.read(name), original.read(name), atol=1e-5, rtol=1e-5)
    assert (out / "tokenizer.json").is_file()
    # The same soup again: everything is in the ledger.
    again = cli(*call, "--overwrite")
    assert json.loads(again.out) == {**told, "evaluated": 0}
    table = cli("soup", up, down, "--tasks", task, "--out", tmp_path / "other", "--quiet")
    assert "the average of 2 of 2 models" in table.out


def test_soup_refuses_an_occupied_folder_before_asking(tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    answer = cli("soup", tmp_path / "none", "--tasks", tmp_path / "none", "--out", tmp_path / "out", "--quiet")
    assert (answer.code, answer.out) == (2, "")
    assert f"{tmp_path / 'out'}" in answer.err
    missing = cli("soup", tmp_path / "none", "--tasks", tmp_path / "none", "--out", tmp_path / "new", "--quiet")
    assert (missing.code, missing.err.count("\n")) == (2, 1)
    assert not (tmp_path / "new").exists()


def test_soup_opens_pickles_when_it_may(tmp_path: Path, cli: Callable[..., Any]) -> None:
    model = write_model(tmp_path / "m")
    task = _task_of(model, tmp_path / "copying", cli)
    pickled = write_model(tmp_path / "pickled", seed=5)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    call = ("soup", model, pickled, "--tasks", task, "--out", tmp_path / "soup", "--quiet", "--json")
    refused = cli(*call)
    assert (refused.code, "--allow-pickle" in refused.err) == (2, True)
    answer = cli(*call, "--allow-pickle")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["models"][0] == str(model)


def test_soup_of_what_models_share(tmp_path: Path, cli: Callable[..., Any]) -> None:
    truth = write_model(tmp_path / "truth")
    task = _task_of(truth, tmp_path / "copying", cli)
    up, down = _moved(truth, tmp_path / "up", 0.4), _moved(truth, tmp_path / "down", -0.4)
    config = json.loads((down / "config.json").read_text())
    rows = config["vocab_size"]
    (down / "config.json").write_text(json.dumps({**config, "vocab_size": rows + 1}))
    tensors = load_file(down / "model.safetensors")
    longer = {name: torch.cat([value, value[:1]]) for name, value in tensors.items() if value.shape[0] == rows}
    save_file({**tensors, **longer}, down / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "soup"
    refused = cli("soup", up, down, "--tasks", task, "--out", out, "--quiet")
    assert (refused.code, "the vocabularies differ in size" in refused.err) == (2, True)
    answer = cli("soup", up, down, "--tasks", task, "--out", out, "--rest", up, "--json")
    assert answer.code == 0, answer.err
    written = load_file(out / "model.safetensors")
    assert set(json.loads(answer.out)["models"]) >= {str(up)} or longer.keys() <= written.keys()
    for name in longer:
        torch.testing.assert_close(written[name], load_file(up / "model.safetensors")[name])
