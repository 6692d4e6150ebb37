"""The page of quantised models, from what the schemes declare."""

from __future__ import annotations

from genepool.weights.schemes import UNREAD, schemes

_OPENING = """\
# Quantised models

A quantised checkpoint is read as the floats that it stands for. Merges, plans, inspections, skills, adapters and
evaluations take it like any other model. `BASE+ADAPTER` puts a QLoRA adapter on its quantised base.

Tensors are dequantised when they are read, a block of rows at a time, in float32. They are then given in the type that
`dtype` or `torch_dtype` of the config names, or in bfloat16 where it names none. Memory is that of the blocks in work.
A merge writes an ordinary checkpoint of floats: its config has no `quantization_config`. Plan, note and model card say
which models were dequantised. To get the floats of one model, merge it alone: `method: linear` with one model.

What a quantiser keeps beside the weights, such as scales of activations, is left out. The fingerprint of a model is
that of its files.

A network is computed by the quantiser's own library where it is installed and can load the model on this machine; it
then stays packed in memory. Otherwise a note gives the reason, and the network is made of dequantised tensors. Layers
that also quantise what goes into them compute other numbers than dequantised tensors do. The same holds for
`genepool train --lora`; whole tensors of a quantised model cannot be trained.

bitsandbytes 0.50.2 misreads 4-bit tensors on a processor when a row is no whole number of blocks. Such models are
computed from dequantised tensors.

## What is read

The last column says whose arithmetic the values were compared with, on tensors that the libraries packed.
`tests/weights/quantised_examples` keeps these tensors, and the tests compare every entry of them.

| scheme | `quant_method` | what is read | equal to |
|---|---|---|---|
"""
_BETWEEN = """
AutoRound's files are read where their `packing_format` is that of GPTQ or AWQ. GPTQ's zero points are those of
AutoGPTQ: 1 is added to a stored zero point, and the sum wraps around at the number of bits.

Shapes are checked from headers when a model is opened. A packed tensor that lacks its scale is an error that names the
tensor. Scales that are NaN or infinite, and groups that do not exist, are errors when they are read.

## What is refused

These are refused by name. Name the unquantised checkpoint instead. Adapters can be trained and evaluated on such a
base where transformers can load it.

| method | `quant_method` | why |
|---|---|---|
"""


def quantised_page(note: str) -> str:
    """The page, under a note that says where it is from."""
    read = []
    for kind in schemes():
        methods = ", ".join(f"`{method}`" for method in sorted(kind.methods))
        read.append(f"| {kind.title} | {methods} | {kind.reads} | {kind.oracle} |")
    refused = [f"| {title} | `{method}` | {why} |" for method, (title, why) in UNREAD.items()]
    return "\n".join([note, "", _OPENING.rstrip("\n"), *read, _BETWEEN.rstrip("\n"), *refused, ""])
