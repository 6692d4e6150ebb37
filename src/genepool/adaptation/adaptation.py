"""`Adaptation`: a model on a stream, batch by batch, as an iterator that stands in anybody's loop.

A batch is predicted and given out; only when the next one is asked for (or `update` is called) does the adapter learn
from it. So what is issued is never changed by what came later. Uses the adapters, the task of the stream and the
plan of the batches; `runner` makes a run that survives kills of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from genepool.adaptation.adapter import Answered, StreamBatch, find_adapter
from genepool.adaptation.augmentation import augmentation_cost, image_key, reads_images
from genepool.adaptation.choosing_model import choosing
from genepool.adaptation.orders import PlannedBatch, planned
from genepool.adaptation.reading import StreamReader
from genepool.adaptation.saved_states import read_state, write_state
from genepool.adaptation.sliding_window import SlidingWindow
from genepool.adaptation.stream import ORDERS, Order, Stream, load_stream
from genepool.adaptation.stream_lines import StreamExample
from genepool.adaptation.stream_model import StreamModel
from genepool.adaptation.stream_step import StreamStep, StreamUpdate
from genepool.adaptation.stream_task import StreamTask, task_of
from genepool.adaptation.suiting import check_asked, check_held, check_late
from genepool.checked import differences
from genepool.errors import InputError, nearest
from genepool.tasks import open_model
from genepool.threads import torch_threads
from genepool.training.run import sensible_threads

if TYPE_CHECKING:
    import torch

    from genepool.skills import Skill
    from genepool.tasks.models import Named

OnCollapse = Literal["stop", "reset", "continue"]
ON_COLLAPSE: tuple[OnCollapse, ...] = get_args(OnCollapse)


class Adaptation:
    """A model that adapts along a stream.

        import genepool as gp

        run = gp.adapt("bed/base", "bed/streams/mixed", adapter="diversity", rounds=1)
        for step in run:
            print(step.number, step.predicted[:3])
        run.save("state")

    Args:
        model: what to adapt: a classifier, or a forecaster of series.
        stream: a stream, or the folder of one.
        adapter: the name of the adapter.
        options: of the adapter; its defaults when None.
        order: in which the examples come; the stream's own when None.
        rounds: how often the stream is gone through; as the stream says when None.
        labels_late: labels of a batch are given to the adapter so many batches later; never when None. Of a series the
            truth comes as time passes, and None is all that may be said.
        window: where a batch is one example, so many of the last ones are learned from together (`sliding_window`).
        on_collapse: what to do when the watch raises an alarm: "stop", "reset" or "continue".
        seed: of every draw.
        device: torch's name of the device.
        dtype: what the model computes in.
        threads: torch's; decided by the size of the model when None.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

    Attributes:
        augments: whether the adapter compares images with changed ones.
        augmentation_cost: accuracy that the source loses on source examples when they are changed as the adapter
            changes images, in points of 1; None where it changes none, or there are no source examples.

    Raises:
        InputError: the model is of another kind, the stream does not suit it, or the adapter needs what is not there.
    """

    def __init__(
        self,
        model: Named,
        stream: Stream | str | Path,
        adapter: str = "tent",
        *,
        options: Mapping[str, Any] | None = None,
        order: str | None = None,
        rounds: int | None = None,
        labels_late: int | None = None,
        window: int | None = None,
        on_collapse: str = "continue",
        seed: int = 0,
        device: str = "cpu",
        dtype: str = "float32",
        threads: int | None = None,
        allow_pickle: bool = False,
    ) -> None:
        self.adapter = find_adapter(adapter, options)
        self.stream = stream if isinstance(stream, Stream) else load_stream(stream)
        self.order: Order = _one_of(order or self.stream.order, ORDERS, "--order")
        self.on_collapse: OnCollapse = _one_of(on_collapse, ON_COLLAPSE, "--on-collapse")
        self.rounds = self.stream.rounds if rounds is None else rounds
        self.labels_late, self.seed, self.dtype = labels_late, seed, dtype
        self.window = window
        check_asked(self.adapter, self.stream, self.order, self.rounds, labels_late, window)
        self.batches = planned(self.stream, self.order, self.rounds, seed)
        check_late(labels_late, len(self.batches))
        self._source = open_model(model, allow_pickle=allow_pickle)
        self.fingerprint = self._source.fingerprint
        loaded = self._source.load(device, dtype)
        asked = choosing(loaded, self.stream.choices, self.stream.where)
        self._reader = StreamReader(asked, self.stream)
        self.model = StreamModel(asked, self.stream.shape[-1] if self.stream.horizon else 0)
        self._check_batches()
        self._frozen_model = self.model.copy()
        # From here on the model in memory is no longer what it was loaded as.
        self.base = asked.taken()
        self.threads = threads or sensible_threads(self.base)
        self.task = task_of(self.stream, self.model, self._reader)
        self.watch = self.task.watch()
        with torch_threads(self.threads):
            self._frozen = self._asked_frozen()
            source = self._reader.source()
            # Before the adapter begins, which may change how the model normalises.
            self.augmentation_cost: float | None = None
            if self.augments and source is not None:
                self.augmentation_cost = augmentation_cost(self.model, source, seed)
            self.adapter.begin(self.model, source, seed)
        self._sliding: SlidingWindow | None = None
        if window is not None:
            self._sliding = SlidingWindow(self.adapter, window, self.batches, self._joined)
        self._next, self._position = 0, 0
        self._issued: tuple[PlannedBatch, StreamBatch, StreamStep] | None = None
        self.stopped = False

    def _check_batches(self) -> None:
        """Refuses batches of one example where a layer normalises by the batch, and texts where images are needed."""
        first = self._reader.inputs(self.stream.examples[:1])
        if "images" in self.adapter.needs:
            image_key(first, self.model.title)
        self.augments = self.adapter.augments and reads_images(first)
        alone = self.stream.batch == 1 and self.window is None
        if alone and self.adapter.trains == "norm" and self.model.has_batch_norm:
            raise InputError(
                f"has batches of one, and the batch norms of {self.model.title} compare the examples of a batch",
                where=self.stream.where,
                fix="Add --window W, set `batch` in stream.json to 2 or more, or choose another --adapter",
            )

    def _asked_frozen(self) -> torch.Tensor:
        """What the frozen model predicts for every example of the stream, in its batches, an example a row."""
        import torch

        examples, size = self.stream.examples, self.stream.batch
        parts = [examples[at : at + size] for at in range(0, len(examples), size)]
        found = torch.cat([self._frozen_model.predictions(self._reader.inputs(part)) for part in parts])
        bad = (~found.flatten(1).isfinite().all(-1)).nonzero()
        if len(bad):
            raise InputError(
                f"{self.model.title} predicts NaN for {len(bad)} of {len(found)} examples, before it learned anything",
                where=f"{self.stream.where}:{examples[int(bad[0])].key}",
                fix="Look for NaN in the model's weights, and for very large numbers in the inputs",
            )
        return found

    # ------------------------------------------------------------------ going on

    def __iter__(self) -> Iterator[StreamStep]:
        return self

    def __next__(self) -> StreamStep:
        self.update()
        if self.stopped or self._next >= len(self.batches):
            raise StopIteration
        plan = self.batches[self._next]
        if plan.fresh and plan.number:
            self.adapter.reset()
            self.watch.forget()
        batch = self._batch(plan)
        with torch_threads(self.threads):
            found = self.adapter.predict(batch) if self._sliding is None else self._sliding.predict(plan)
            step = self._step(plan, found.float())
        self._issued = (plan, batch, step)
        return step

    def update(self) -> StreamUpdate | None:
        """Learns from the batch that was issued last; None where that is done, or nothing was issued yet."""
        if self._issued is None:
            return None
        plan, batch, step = self._issued
        with torch_threads(self.threads):
            if self._sliding is None:
                signals = self.adapter.update(batch, self._late(plan))
            else:
                signals = self._sliding.update(plan)
        kept = float(signals.kept.float().mean())
        signs, alarm = self.watch.look(step.probabilities, self._frozen[list(plan.places)], kept)
        reset = "by itself" if signals.reset else ""
        if plan.fresh and plan.number:
            reset = "by the order"
        if alarm and self.on_collapse == "reset":
            self.adapter.reset()
            self.watch.forget()
            reset = "by the watch"
        self.stopped = bool(alarm) and self.on_collapse == "stop"
        self._issued = None
        self._next += 1
        self._position += len(batch)
        return StreamUpdate(signals, signs, alarm, reset, self.stopped)

    @property
    def done(self) -> int:
        """Batches that were issued and learned from."""
        return self._next

    def look(self, stream: Stream) -> tuple[list[float], list[float]]:
        """Scores of the adapted and of the frozen model on other examples with labels; nothing is learned from them.

        Args:
            stream: the examples; those without a label, or of an unknown class, are left out.

        Raises:
            InputError: they do not suit the model.
        """
        reader, task, examples = self.looking(stream)
        cuts = [examples[at : at + self.stream.batch] for at in range(0, len(examples), self.stream.batch)]
        if len(cuts) > 1 and len(cuts[-1]) == 1:
            cuts[-2:] = [cuts[-2] + cuts[-1]]
        ours: list[float] = []
        theirs: list[float] = []
        for cut in cuts:
            inputs = reader.inputs(cut)
            with torch_threads(self.threads):
                ours += task.scores(self.adapter.look(inputs).cpu(), cut)
                theirs += task.scores(self._frozen_model.predictions(inputs), cut)
        return ours, theirs

    def looking(self, stream: Stream) -> tuple[StreamReader, StreamTask, list[StreamExample]]:
        """What `look` asks: how other examples are read and scored, and those of them that count.

        Raises:
            InputError: they do not suit the model.
        """
        fix = "Name another --clean"
        if bool(stream.horizon) != bool(self.stream.horizon):
            what, reads = ("is a series", "reads no") if stream.horizon else ("is no series", "reads")
            what = f"{what}, and {self.model.title} is {self.model.asked.kind}, which {reads} series"
            raise InputError(what, where=stream.where, fix=fix)
        if stream.horizon and stream.shape[-1] != self.model.variables:
            raise InputError(
                f"has {stream.shape[-1]} variables, expected {self.model.variables} as the stream has",
                where=stream.where,
                fix=fix,
            )
        reader = StreamReader(self._frozen_model.asked, stream)
        examples = [one for one in stream.examples if one.answer is not None and one.known]
        if not examples:
            raise InputError("has no labels", where=stream.where, fix=fix)
        # A prompt that cannot be read is told here, before anything is written.
        reader.inputs(examples[:1])
        return reader, task_of(stream, self._frozen_model, reader), examples

    def _batch(self, plan: PlannedBatch) -> StreamBatch:
        return self._joined([plan])

    def _joined(self, plans: Sequence[PlannedBatch]) -> StreamBatch:
        """The examples of some batches as one, by the number of the last."""
        examples = [self.stream.examples[place] for plan in plans for place in plan.places]
        keys = tuple(one.key for one in examples)
        prompts = tuple(one.prompt or "" for one in examples) if self.model.writes else ()
        return StreamBatch(plans[-1].number, self._reader.inputs(examples), keys, prompts)

    def _late(self, plan: PlannedBatch) -> list[Answered]:
        """The batches whose labels come now."""
        found = []
        for before, known in self.task.late(self.batches, plan.number, self.labels_late):
            examples = [self.stream.examples[place] for place in before.places]
            whole = not self.stream.horizon or before.number != plan.number
            found.append(Answered(self._batch(before), self.task.targets(examples, known), whole))
        return found

    def _step(self, plan: PlannedBatch, probabilities: torch.Tensor) -> StreamStep:
        examples = [self.stream.examples[place] for place in plan.places]
        frozen, task = self._frozen[list(plan.places)], self.task
        return StreamStep(
            plan.number,
            plan.round,
            self._position,
            tuple(one.key for one in examples),
            tuple(one.domain for one in examples),
            tuple(one.answer for one in examples),
            tuple(one.known for one in examples),
            probabilities,
            task.answers(probabilities),
            task.entropies(probabilities),
            tuple(str(one) for one in task.answers(frozen)),
            tuple(float(one or 0.0) for one in task.entropies(frozen)),
            task.asked,
        )

    # ------------------------------------------------------------------ state

    def identity(self) -> dict[str, Any]:
        """Everything that decides what is predicted, as plain data, except for the machine."""
        return {
            "model": self.fingerprint,
            "stream": self.stream.digest,
            "adapter": self.adapter.name,
            "options": self.adapter.options.model_dump(mode="json"),
            "order": self.order,
            "rounds": self.rounds,
            "labels_late": self.labels_late,
            "on_collapse": self.on_collapse,
            "seed": self.seed,
            "dtype": self.dtype,
            # Only where there is one, so that runs of before stay themselves.
            **({} if self.window is None else {"window": self.window}),
        }

    def save(self, folder: str | Path) -> Path:
        """Writes the state as a folder, `state.safetensors` and `state.json`, replacing an earlier one.

        What was issued last is learned from first.

        Raises:
            InputError: the folder cannot be written, or holds something else.
        """
        self.update()
        adapter = self.adapter.state()
        values = {
            "identity": self.identity(),
            "batches": self._next,
            "position": self._position,
            "stopped": self.stopped,
            "watch": self.watch.state(),
            "adapter": dict(adapter.values),
        }
        return write_state(Path(folder), adapter.tensors, values)

    def restore(self, folder: str | Path) -> Self:
        """Goes on from a state that was saved.

        Returns:
            Itself.

        Raises:
            InputError: there is none, it is damaged, or it is of another model, stream, adapter or setting.
        """
        folder = Path(folder)
        state, values = read_state(folder)
        if found := differences(values.get("identity"), self.identity()):
            raise InputError(
                "is the state of another run: " + "; ".join(found), where=folder, fix="Name the state of this run"
            )
        try:
            self.adapter.restore(type(state)(state.tensors, values["adapter"]))
            check_held(state, self.adapter.state())
            self.watch.restore(values["watch"])
            self._next, self._position = int(values["batches"]), int(values["position"])
            self.stopped = bool(values["stopped"])
            if self._position != sum(len(one.places) for one in self.batches[: self._next]):
                raise ValueError("the position is not that of the batches")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"is damaged ({error})", where=folder, fix="Remove it to begin again") from None
        self._issued = None
        return self

    # ------------------------------------------------------------------ what comes out

    def lineage(self) -> dict[str, Any]:
        """How the adapted model was made, as it is kept with its skill."""
        from importlib.metadata import version

        told = self.identity()
        return {
            "made_by": "adapt",
            "base": {"name": str(self._source.name), "fingerprint": self.base.fingerprint()},
            "stream": {"name": self.stream.name, "digest": told.pop("stream")},
            **{key: value for key, value in told.items() if key != "model"},
            "batches": self._next,
            "genepool": version("genepool"),
        }

    def skill(self) -> Skill | None:
        """What the model has become, as a change of its base.

        Returns:
            The skill; None where the adapter changes no tensor of the model, or a tensor is no number any more.

        Raises:
            InputError: a tensor has another name or layout in memory than on the disk.
        """
        from genepool.adaptation.learned_skill import learned_change
        from genepool.skills import Skill as Made

        change = learned_change(self.base, self.adapter.result(), self.stream.name)
        return None if change is None else Made(change, "extract")


def _one_of(given: str, known: tuple[Any, ...], where: str) -> Any:
    if given not in known:
        raise InputError(f"there is no '{given}'", where=where, fix=nearest(given, known))
    return given
