"""A pod among enemies: whatever model, tools and operator do, what was promised stays true.

The model, the tools and the operator are in `hostile.py`, what must be true in `hostile_audit.py`.
The quick look is part of the suite and the same every time. For a long one, at random:

    scripts/test tests/podproc/test_hostile.py --hypothesis-profile=explore
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podproc.engine.history import OUTCOME_UNKNOWN
from podproc.models import base
from podproc.tools.base import Call, Tool
from podproc.tools.base import ToolResult as Outcome
from protocol import methods as m
from protocol.entries import Item, ToolResult, Usage
from protocol.pod_events import TurnEnded
from protocol.status import RunResult
from tests.podproc.engines import Hang, Move, NoArgs, PlayedModel, call, end, text
from tests.podproc.hostile import Deed, Do, HostileHome, Last, Part, Play, Stage, Step
from tests.podproc.hostile_audit import audit, story
from tests.podproc.pods import RULES, Home, Life, Sent, alive, drive, say

EXAMPLES = 150

CALLS = [Part.CALL, Part.QUIET_CALL, Part.SAME_ID, Part.NO_ID]
parts = st.tuples(
    st.one_of(st.sampled_from(Part), st.sampled_from(CALLS)),
    st.one_of(st.sampled_from(Deed), st.just(Deed.HANG)),
    st.integers(0, 4),
)
plays = st.builds(
    Play,
    parts=st.lists(parts, max_size=5).map(tuple),
    last=st.one_of(st.just(Last.ENDED), st.sampled_from(Last)),
    pace=st.sampled_from([1, 0, 3]),
    tokens=st.sampled_from([10, 10, 16_000, 19_000]),
)
OFTEN = [Do.RUN, Do.RUN, Do.PAUSE, Do.CANCEL, Do.RESUME, Do.KILL, Do.NOTIFY]
one_step = st.builds(
    Step,
    st.one_of(st.sampled_from(OFTEN), st.sampled_from(Do)),
    st.one_of(st.integers(1, 12), st.integers(1, 40)),
).map(lambda step: [step])
in_a_row = st.tuples(
    st.builds(Step, st.sampled_from([Do.RUN, Do.NOTIFY, Do.RESUME, Do.COMPACT]), st.just(40)),
    st.builds(Step, st.sampled_from([Do.PAUSE, Do.CANCEL, Do.KILL, Do.SIGNAL]), st.integers(2, 9)),
).map(list)
steps = st.one_of(one_step, one_step, in_a_row)


@pytest.mark.timeout(900)  # a failure is made small before it is told
@settings(max_examples=max(EXAMPLES, settings().max_examples))
@given(
    st.lists(plays, min_size=3, max_size=12),
    st.lists(steps, min_size=3, max_size=10),
    st.lists(plays, max_size=2),
)
def test_whatever_is_done_to_a_pod_what_it_promised_stays_true(
    plays: list[Play], steps: list[list[Step]], summaries: list[Play]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), plays, [Step(Do.RUN), *chain(*steps)], summaries)
        drive(stage.play())
        faults = audit(stage)
        assert not faults, "\n".join([*faults, story(stage)])


# -- single defects that systems like this really had (pitfalls), as a pod lives through them ------
#
# A half-read message (5) cannot occur: frames come whole from ZeroMQ, in one callback, and nothing
# is awaited between a message's arrival and its hand-over (`Link._on_frames`).


DONE: list[Move] = [*text("done"), *end()]
SILENT: list[Move] = [Hang()]


@dataclass
class Lever:
    """A tool that is pulled and does not come back; remembers for which calls."""

    pulled: list[str] = field(default_factory=list)
    name: ClassVar[str] = "Lever"
    description: ClassVar[str] = "Pull it."
    Args: ClassVar[type[NoArgs]] = NoArgs

    async def run(self, args: NoArgs, call: Call) -> Outcome:
        """Pull."""
        self.pulled.append(call.call_id)
        call.emit("stdout", "pulled")
        await asyncio.get_running_loop().create_future()
        raise AssertionError


def add(life: Life, tool: Tool) -> None:
    life.pod._tools.registry.register(tool, "test")


def told(house: Home, word: str) -> int:
    """How often the model was told of it, by the newest segment."""
    return sum(e["kind"] == "system_item" and word in e["item"]["body"] for e in house.entries())


@pytest.fixture
def house(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.mark.parametrize("stop", [m.Cancel(), m.Pause()])
def test_a_wake_up_after_an_interruption_executes_no_dangling_call_again(
    house: Home, stop: m.Method
) -> None:
    """Pitfall 2, without a crash."""
    lever = Lever()

    async def main() -> list[Item]:
        model = PlayedModel([*call("c1", "Lever"), *end("tool_use")], DONE)
        async with alive(house, model=model) as life:
            add(life, lever)
            await life.ask(say("pull"))
            await life.see("entry assistant_item")
            await life.wait_for(lambda: lever.pulled, "the lever is pulled")
            await life.ask(stop)
            await life.ends(1)
            await life.ask(m.Notify(message="news"))
            if stop.method == "pause":
                await life.ask(m.Resume())
            await life.ends(2)
        return list(model.requests[-1].items)

    items = drive(main())
    assert lever.pulled == ["c1"]
    assert [(i.call_id, i.summary) for i in items if isinstance(i, ToolResult)] == [
        ("c1", OUTCOME_UNKNOWN)
    ]


@pytest.mark.parametrize("moves", [[base.CallDone("c1", "Lever", "{}"), *end("tool_use")]])
def test_a_run_whose_tool_had_begun_is_never_taken_back(house: Home, moves: list[Move]) -> None:
    """A call that comes in one piece is output too: what it did must stay in the log."""
    lever = Lever()

    async def main() -> Sent:
        async with alive(house, model=PlayedModel(moves)) as life:
            add(life, lever)
            await life.ask(say("pull"))
            await life.wait_for(lambda: lever.pulled, "the lever is pulled")
            await life.ask(m.Cancel())
            return (await life.ends(1))[0]

    assert drive(main()).what == "run_end cancelled"
    assert "assistant_item" in house.kinds()


def test_what_a_run_had_drained_that_is_taken_back_goes_with_the_next_run(house: Home) -> None:
    """Pitfall 3: it must neither vanish nor come twice."""

    async def main() -> None:
        async with alive(house, model=PlayedModel(SILENT, DONE)) as life:
            await life.ask(m.Notify(message="news", auto_run=False))
            await life.ask(say("hi"))
            await life.see("llm_call_start")
            await life.ask(m.Cancel())
            assert (await life.ends(1))[0].what == "run_end rolled_back"
            assert told(house, "news") == 0
            await life.run()
            assert told(house, "news") == 1

    drive(main())


def test_a_child_that_ends_while_its_parent_is_idle_wakes_it(house: Home) -> None:
    """Pitfall 4: what comes in goes through the machine, not into a buffer beside it."""

    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            event = TurnEnded(pod_name="kid", result=RunResult.FINISHED)
            await life.ask(m.PodEventMethod(event_id="kid.1", event=event))
            assert (await life.ends(1))[0].what == "run_end finished"

    drive(main())
    assert told(house, "kid") == 1


@pytest.mark.parametrize(
    "moves",
    [
        [base.CallDone("c1", "Glob", '{"pattern":"*"}'), base.Ended("tool_use")],
        [
            *(base.CallDone(f"c{n}", "Glob", '{"pattern":"*"}') for n in (1, 2)),
            base.Ended("end_turn"),
        ],
        [
            base.CallStart("c1", "Glob"),
            base.CallStart("c2", "Glob"),
            base.CallArgs("c2", '{"pattern"'),
            base.CallArgs("c1", '{"pattern":"*"}'),
            base.CallDone("c2", "Glob", '{"pattern":"*"}'),
            base.CallDone("c1", "Glob", '{"pattern":"*"}'),
            base.Ended("tool_use"),
        ],
    ],
    ids=["no start, no figures", "no start, wrong reason", "interleaved"],
)
def test_no_call_is_lost_however_its_stream_is_cut_up(house: Home, moves: list[Move]) -> None:
    """Pitfall 6: the loop's part; whether an adapter gives each call its end is the adapter's."""

    async def main() -> None:
        async with alive(house, model=PlayedModel(moves, DONE)) as life:
            assert (await life.run()).what == "run_end finished"

    drive(main())
    items = [entry["item"] for entry in house.entries() if "item" in entry]
    calls = [item["call_id"] for item in items if item["kind"] == "tool_call"]
    results = [item for item in items if item["kind"] == "tool_result"]
    assert sorted(calls) == sorted(one["call_id"] for one in results)
    assert len(calls) == sum(isinstance(move, base.CallDone) for move in moves)
    assert not any(one["is_error"] for one in results)


def test_max_turns_is_per_run_after_a_restart_too(tmp_path: Path) -> None:
    """Pitfall 8: the turns that the log counts are those of the session."""
    house = Home(tmp_path, RULES.model_copy(update={"max_turns": 2}))
    looks: list[Move] = [*call("c1", "Glob", '{"pattern":"*"}'), *end("tool_use")]

    async def main() -> list[str]:
        ends = []
        for incarnation in (1, 2, 3):
            model = PlayedModel(looks, DONE)
            async with alive(house, incarnation=incarnation, model=model) as life:
                ends.append((await life.run()).what)
        return ends

    assert drive(main()) == ["run_end finished"] * 3
    assert [e["turn_count"] for e in house.entries() if e["kind"] == "turn_end"] == [*range(1, 7)]


@pytest.mark.parametrize("arguments", ["", "{", '{"pattern":', "null", "[]"])
def test_a_tool_with_broken_arguments_does_not_run_and_the_model_reads_why(
    house: Home, arguments: str
) -> None:
    """Pitfall 10: not even a tool that needs no argument at all."""
    lever = Lever()

    async def main() -> list[Item]:
        model = PlayedModel([*call("c1", "Lever", arguments), *end("tool_use")], DONE)
        async with alive(house, model=model) as life:
            add(life, lever)
            await life.run()
        return list(model.requests[-1].items)

    [result] = [item for item in drive(main()) if isinstance(item, ToolResult)]
    assert lever.pulled == []
    assert result.is_error
    assert result.summary.startswith("invalid_argument")


@pytest.mark.parametrize("elsewhere", ["compacted", "rewound"])
def test_what_a_cut_run_had_consumed_is_not_told_again_when_the_log_goes_on_without_it(
    house: Home, elsewhere: str
) -> None:
    """Pitfall 11: neither the new segment nor the cut one names what was delivered before."""
    large: list[Move] = [*text("x" * 2000), base.Figures(Usage(input_tokens=900)), *end()[1:]]
    left: list[Home] = []

    async def before() -> None:
        async with alive(house, model=PlayedModel(SILENT)) as life:
            await life.ask(m.Notify(message="news", auto_run=False))
            await life.ask(say("hi"))
            await life.see("llm_call_start")
            left.append(house.copy("crashed"))

    async def after() -> None:
        model = PlayedModel(large, [*text("summary"), *end()])
        async with alive(left[0], incarnation=2, model=model) as life:
            if elsewhere == "compacted":
                await life.run()
                await life.ask(m.Compact())
                await life.see("compact_done")
            else:
                targets = await life.ask(m.ListRewindTargets())
                target = m.RewindTargets.from_wire(targets.body).targets[0]
                await life.ask(
                    m.RewindTo(
                        target=m.RewindTargetId(
                            segment_id=target.segment_id,
                            user_input_entry_index=target.user_input_entry_index,
                        ),
                        expected_head_entries=targets.body["head_entries"],
                    )
                )
                await life.see("rewind_applied")
            segment = life.pod._record.segment_id

        model = PlayedModel(DONE)
        async with alive(
            HostileHome(left[0].root, named=segment or ""), incarnation=3, model=model
        ) as life:
            await life.run()
        assert not any("news" in str(item) for item in model.requests[0].items)

    drive(before())
    drive(after())
