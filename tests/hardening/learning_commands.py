"""The commands that learn, one entry each: studies, compositions, trainings, streams and testbeds.

Their folders grow while they work, and a killed one goes on where it was. Used by `writing_commands`.
"""

from __future__ import annotations

from tests.hardening.writing import Writing
from tests.hostile.composed_files import COMPOSED


def _grows(name: str, typed: str, other: str = "", *, long: bool = False) -> Writing:
    return Writing(
        name, f"{typed} --out run", f"{other} --out run" if other else "", parts=("run",), anew=True, long=long
    )


_EVOLVE, _TO_EIGHT = "evolve {world}/study.yaml", "--budget 8"
_STEPS = "--steps 8 --every 3 --batch 8 --learning-rate 0.001"
_SAY, _BASE = "train {world}/tasks/say", f"--base {{world}}/base {_STEPS}"
_TRAIN, _SAY_AND_A = f"{_SAY} {_BASE}", f"{_SAY} {{world}}/owned/a {_BASE}"
_LOOP = "train {world}/loops"
_TWO = "train {world}/owned/a {world}/owned/b --base {world}/base --lora 2 --batch 4 --learning-rate 0.001"
_IN_ORDER, _PROJECTED = f"{_TWO} --steps 4 --every 2 --learner", "--set examples=6 --set energy=0.5"
_MADE = f"train {{world}}/templates/words --base {{world}}/base {_STEPS} --lora 2 --sampler"
_NUMBERED = f"train {{world}}/numbered/say --base {{world}}/base {_STEPS} --lora 2 --sampler"
_PAIRS = f"train {{world}}/pairs/say --base {{world}}/base {_STEPS} --lora 2 --objective"
_DRAWN = (
    f"train {{world}}/loops/say --base {{world}}/base {_STEPS.replace('--steps 8', '--steps 4')} --lora 2 "
    "--set samples=2 --objective"
)

# What a kill right after the output appeared leaves; the same command removes it.
_FIT = (".out.fit", ".out.fit/*", "..out.fit.lock")
_COMPOSE = (
    "compose adamerging {world}/skills/a {world}/skills/b --base {world}/base --tasks {world}/owned --examples 8 "
    "--set steps=6 --set every=2 --set batch=4 --out"
)
# Those that are killed often; the others need a world of their own, or say the same again.
_ROUTERS = ("arrow", "x_lora", "poly")


def _composed(method: str) -> str:
    return COMPOSED[method].line(method, "out", "{world}/")


_ADAPT = "adapt {world}/digits --stream {world}/stream --adapter"
_FORECAST = "adapt {world}/forecaster --stream {world}/series --adapter"

# Beside the two of `COMMANDS`, with settings under which all of them is used in short trainings.
LEARNERS = {
    "replay": "--set examples=8",
    "ewc": "--set examples=4",
    "der_pp": "--set size=12 --set minibatch=4",
    "momentum": "--set decay=0.7",
    "experts": "--set start=nearest --set examples=12 --set trials=2 --set span=2",
    "gpm": _PROJECTED,
    "trgp": f"{_PROJECTED} --set related=0",
    "inf_lora": _PROJECTED,
    "o_lora": "",
    "lwf": "",
    "joint": "",
    "merging": "",
    "sequential": "--set factors=each",
}
SAMPLERS = {
    "cyclical": (_SAY_AND_A, "--set sampler.first_steps=3"),
    "uniform": (_SAY_AND_A, ""),
    "power_law": (_SAY_AND_A, ""),
    "less": (_TRAIN, "--set sampler.epochs=2 --set sampler.projection=64 --set sampler.part=0.1"),
    "adapt_inf": (_TRAIN, "--set sampler.projection=64 --set sampler.clusters=3"),
}

LEARNING = (
    # Studies.
    _grows("evolve", f"{_EVOLVE} {_TO_EIGHT}", f"{_EVOLVE} --seed 5"),
    _grows("evolve, twice", f"{_EVOLVE} {_TO_EIGHT}"),
    _grows("evolve, bred", f"evolve {{world}}/bred.yaml {_TO_EIGHT}"),
    # Compositions.
    Writing("compose", f"{_COMPOSE} out", f"{_COMPOSE} out --seed 5", stays=_FIT),
    Writing("compose --keep", f"{_COMPOSE} out --keep --bundle", f"{_COMPOSE} out --keep --seed 5", stays=_FIT),
    *(
        Writing(
            f"compose {method}",
            _composed(method),
            f"{_composed(method)} --seed 5",
            stays=_FIT,
            long=method not in _ROUTERS,
        )
        for method in COMPOSED
    ),
    # Trainings.
    _grows("train", f"{_TRAIN} --lora 2", f"{_TRAIN} --lora 2 --seed 5"),
    _grows("train --full", f"{_TRAIN} --full", f"{_TRAIN} --lora 2"),
    _grows("train --form", f"{_TRAIN} --form hydra", f"{_TRAIN} --form hydra --set form.rank=3"),
    _grows("train --form prefix", f"{_TRAIN} --form prefix", f"{_TRAIN} --form prompt", long=True),
    _grows("train --objective dpo", f"{_PAIRS} dpo", f"{_PAIRS} ipo"),
    _grows("train --objective reward_model", f"{_PAIRS} reward_model", long=True),
    _grows("train --objective grpo", f"{_DRAWN} grpo", f"{_DRAWN} grpo --seed 5"),
    # Samplers of tasks, of examples, of their numbers, and of examples that are made.
    _grows("train --sampler", f"{_SAY_AND_A} --sampler skill_it --set sampler.checkpoint=2", f"{_TRAIN} --lora 2"),
    *(
        _grows(f"train --sampler {name}", f"{line} --lora 2 --sampler {name} {options}", long=name != "less")
        for name, (line, options) in SAMPLERS.items()
    ),
    _grows("train --sampler mbtl", f"{_NUMBERED} mbtl --set sampler.contexts=4 --set sampler.round=2", long=True),
    _grows("train --sampler mpts", f"{_NUMBERED} mpts --set 'sampler.parameters={{{{answers: [0, 20]}}}}'"),
    _grows("train --sampler skill_mix", f"{_MADE} skill_mix --set sampler.examples=12", f"{_TRAIN} --lora 2"),
    _grows("train --sampler dataenvgym", f"{_MADE} dataenvgym --set sampler.each=3 --set sampler.every=3", long=True),
    # Learners of tasks in order.
    _grows("train --learner", f"{_IN_ORDER} replay", f"{_IN_ORDER} ewc"),
    *(
        _grows(f"train --learner {name}", f"{_IN_ORDER} {name} {options}", long=name not in ("der_pp", "gpm"))
        for name, options in LEARNERS.items()
    ),
    # A loop for each way of making its own data.
    _grows("train, loop", f"{_LOOP}/samples.yaml"),
    *(
        _grows(f"train, loop of {name}", f"{_LOOP}/{name}.yaml", long=True)
        for name in ("pairs", "refined", "self-play", "reliable", "search")
    ),
    # Streams.
    _grows("adapt", f"{_ADAPT} tent", f"{_ADAPT} tent --seed 5"),
    _grows("adapt --clean", f"{_ADAPT} eata --set margin=1.0 --clean {{world}}/stream --order correlated"),
    _grows("adapt, mean teacher", f"{_ADAPT} cotta", f"{_ADAPT} rmt", long=True),
    _grows("adapt, series", f"{_FORECAST} petsa", f"{_FORECAST} online"),
    # Testbeds.
    Writing("testbed build", "testbed build bed --tiny --skills reverse,upper", long=True),
    Writing("testbed build, series", "testbed build bed --bed series --tiny", long=True),
)

# The testbeds that take longest; `kills_and_races --beds` kills them too.
BEDS = tuple(
    Writing(f"testbed build, {bed}", f"testbed build bed --bed {bed} --tiny", long=True)
    for bed in ("digits", "pairs", "policies", "streams", "streams_conv", "streams_text", "text_sizes", "untagged")
)
