"""Models that adapt while they are used, and say when they should not have.

    stream         a folder of examples in an order, from anybody
    adapter        the door: predict a batch, and learn from it once it is issued; `adapters/`, one file each
    adaptation     a model on a stream as an iterator
    runner         a run in a folder that survives kills, always beside the frozen model
    watch          signs of a collapse, without labels

Uses tasks, measure, training's choice of threads and weights. Breeding knows nothing of it; reports and the command
line use it.
"""

from __future__ import annotations

from genepool.adaptation.adaptation import ON_COLLAPSE, Adaptation
from genepool.adaptation.adapter import (
    AdapterOptions,
    AdapterState,
    Answered,
    Signals,
    SourceExamples,
    StreamAdapter,
    StreamBatch,
    all_adapters,
    described_adapter,
    find_adapter,
)
from genepool.adaptation.runner import AdaptationResult, Adapting, read_adapted, run_adaptation
from genepool.adaptation.stream import ORDERS, Stream, StreamSettings, is_stream, load_stream
from genepool.adaptation.stream_lines import StreamExample
from genepool.adaptation.stream_step import StreamStep, StreamUpdate

__all__ = [
    "ON_COLLAPSE",
    "ORDERS",
    "Adaptation",
    "AdaptationResult",
    "AdapterOptions",
    "AdapterState",
    "Adapting",
    "Answered",
    "Signals",
    "SourceExamples",
    "Stream",
    "StreamAdapter",
    "StreamBatch",
    "StreamExample",
    "StreamSettings",
    "StreamStep",
    "StreamUpdate",
    "all_adapters",
    "described_adapter",
    "find_adapter",
    "is_stream",
    "load_stream",
    "read_adapted",
    "run_adaptation",
]
