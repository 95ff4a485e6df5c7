"""Following what a child says, while its log grows, is cut, and goes on in another segment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.session.files import OsFiles
from podproc.session.log import SegmentLog
from podproc.tools.pod_output import BETWEEN, MOST_BYTES, PLACES, PodOutputs, Said
from protocol.entries import (
    AssistantItem,
    Entry,
    Item,
    Message,
    Reasoning,
    SegmentStart,
    ToolCall,
    ToolResult,
    ToolResultEntry,
    TurnEnd,
)
from protocol.session.line import encode_line
from protocol.session.store import SessionStore

SESSION = "0196b1b0-0000-7000-8000-{:012x}"
SEGMENT = "0196b1b0-0001-7000-8000-{:012x}"
KID = SESSION.format(1)


class FilesWithoutSync(OsFiles):
    """Real files that a loss of power may take: nobody pulls the plug here."""

    def fsync(self, fd: int) -> None:
        """Do nothing."""


class Child:
    """A pod that only writes its log: one segment at a time, with the writer that pods have."""

    def __init__(self, data: Path, session_id: str = KID) -> None:
        self._store = SessionStore(data)
        self._session_id = session_id
        self._segments = count(1)
        self._now = count(1_767_225_600_000)
        self.kept: list[list[str | None]] = []
        self.log: SegmentLog
        self.rotate()

    @property
    def texts(self) -> list[str]:
        """What it says in its log as this is now."""
        return [said for segment in self.kept for said in segment if said is not None]

    def rotate(self, *history: Item) -> None:
        """Go on in a new segment, as after a compaction; `history` is what it keeps in mind."""
        self.close()
        path = self._store.path(self._session_id, SEGMENT.format(next(self._segments)))
        first = SegmentStart(ts=next(self._now), session_id=self._session_id, history=history)
        self.log = SegmentLog.create(path, first, files=FilesWithoutSync())
        self.kept.append([None])

    def say(self, *texts: str) -> None:
        """Answer, once for each text."""
        self._append(*(self.line(text) for text in texts))
        self.kept[-1] += texts

    def do(self, *items: Item) -> None:
        """Log what is no text; the end of a turn where nothing is given."""
        entries: list[Entry] = [AssistantItem(ts=next(self._now), item=item) for item in items]
        self._append(*entries or [TurnEnd(ts=next(self._now), turn_count=1)])
        self.kept[-1] += [None] * max(len(items), 1)

    def line(self, text: str) -> AssistantItem:
        """Return the entry of a text."""
        message = Message(role="assistant", content=text)
        return AssistantItem(ts=next(self._now), item=message)

    def cut(self, entries: int) -> None:
        """Take its log back to so many entries of this segment, as a rewind does."""
        asyncio.run(self.log.cut(entries))
        del self.kept[-1][entries:]

    def write(self, data: bytes) -> None:
        """Put bytes at the end of its log, as a write that is on its way."""
        with self.log.path.open("ab") as file:
            file.write(data)

    def close(self) -> None:
        """Close the log."""
        if self.kept:
            self.log.close()

    def _append(self, *entries: Entry) -> None:
        self.log.append(*entries)


@contextmanager
def living(data: Path) -> Iterator[Child]:
    child = Child(data)
    try:
        yield child
    finally:
        child.close()


class Reader(PodOutputs):
    """Reads, and has shown what it read."""

    def read(self, pod: str, session_id: str) -> Said:
        """Read on, and keep the place."""
        said = super().read(pod, session_id)
        self.keep(pod, said)
        return said


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    with living(tmp_path) as child:
        yield child


@pytest.fixture
def outputs(tmp_path: Path) -> PodOutputs:
    return Reader(tmp_path)


def read(outputs: PodOutputs) -> list[str]:
    said = outputs.read("kid", KID)
    assert not said.more
    return list(said.texts)


# -- going on


def test_all_that_was_said_is_read_once_and_in_order(child: Child, outputs: PodOutputs) -> None:
    child.say("one", "two")
    child.do()
    assert read(outputs) == ["one", "two"]
    assert read(outputs) == []
    child.do()
    child.say("three")
    assert read(outputs) == ["three"]
    assert read(outputs) == []


def test_only_text_of_the_model_is_read(child: Child, outputs: PodOutputs) -> None:
    child.do(
        Reasoning(text="let me think"),
        ToolCall(call_id="c1", name="Echo", arguments='{"kind":"assistant_item"}'),
        Message(role="assistant", content=""),
    )
    result = ToolResult(call_id="c1", summary='"assistant_item"', content="of a tool")
    child._append(ToolResultEntry(ts=1, item=result))
    child.kept[-1].append(None)
    child.say("said")
    assert read(outputs) == ["said"]


def test_a_bad_line_hides_nothing_behind_it(child: Child, outputs: PodOutputs) -> None:
    child.say("one")
    line = encode_line(child.line("spoiled"))
    child.write(line.replace(b"spoiled", b"sp\0iled"))
    child.write(encode_line(child.line("two")))
    assert read(outputs) == ["one", "two"]


def test_a_session_of_which_there_is_nothing_yet_has_said_nothing(tmp_path: Path) -> None:
    outputs = Reader(tmp_path)
    assert outputs.read("kid", KID) == Said(())
    with living(tmp_path) as child:
        child.say("one")
        assert read(outputs) == ["one"]


def test_another_session_of_a_pod_is_read_from_its_start(
    tmp_path: Path, child: Child, outputs: PodOutputs
) -> None:
    child.say("of the old session")
    assert read(outputs) == ["of the old session"]
    other = Child(tmp_path, SESSION.format(2))
    try:
        other.say("of the new session")
        said = outputs.read("kid", SESSION.format(2))
        assert said == Said(("of the new session",))
    finally:
        other.close()


def test_each_pod_is_followed_by_itself(tmp_path: Path, child: Child, outputs: PodOutputs) -> None:
    child.say("one")
    other = Child(tmp_path, SESSION.format(2))
    try:
        other.say("uno")
        assert read(outputs) == ["one"]
        assert outputs.read("other", SESSION.format(2)) == Said(("uno",))
        child.say("two")
        assert read(outputs) == ["two"]
        assert outputs.read("other", SESSION.format(2)) == Said(())
    finally:
        other.close()


def test_a_line_that_is_still_being_written_is_left_for_later(
    child: Child, outputs: PodOutputs
) -> None:
    child.say("one")
    line = encode_line(child.line("two"))
    child.write(line[:-1])
    assert read(outputs) == ["one"]
    assert read(outputs) == []
    child.write(line[-1:])
    assert read(outputs) == ["two"]


# -- cuts


def test_a_cut_that_grows_again_hides_nothing(child: Child, outputs: PodOutputs) -> None:
    child.say("one", "two", "three")
    assert read(outputs) == ["one", "two", "three"]
    child.cut(2)
    child.say("deux")
    assert read(outputs)[-1] == "deux"
    assert read(outputs) == []


def test_a_cut_that_has_grown_beyond_the_place_hides_nothing(
    child: Child, outputs: PodOutputs
) -> None:
    child.say("one", "two", "three")
    assert read(outputs) == ["one", "two", "three"]
    child.cut(2)
    child.say("deux", "trois", "quatre", "cinq")
    assert read(outputs)[-4:] == ["deux", "trois", "quatre", "cinq"]
    assert read(outputs) == []


def test_a_cut_that_has_grown_by_lines_of_the_same_length_hides_nothing(
    child: Child, outputs: PodOutputs
) -> None:
    child.say("one", "two")
    child.do()
    size = child.log.size
    assert read(outputs) == ["one", "two"]
    child.cut(1)
    child.say("uno", "due")
    child.do()
    assert child.log.size == size
    assert read(outputs) == ["uno", "due"]


def test_a_cut_shows_again_only_what_stands_close_before_it(
    child: Child, outputs: PodOutputs
) -> None:
    child.say(*(f"text {number}" for number in range(100)))
    assert len(read(outputs)) == 100
    child.cut(51)
    assert read(outputs) == []
    child.say("after the cut")
    assert read(outputs) == ["after the cut"]


def test_a_cut_behind_what_is_no_text_may_show_the_text_before_it_twice(
    child: Child, outputs: PodOutputs
) -> None:
    child.say("one", "two")
    child.do()
    child.do()
    assert read(outputs) == ["one", "two"]
    child.cut(3)
    child.say("three")
    assert read(outputs) in (["three"], ["two", "three"])


def test_a_cut_before_all_the_places_that_are_remembered_hides_nothing(
    child: Child, outputs: PodOutputs
) -> None:
    child.say(*(f"text {number}" for number in range(PLACES + 50)))
    assert len(read(outputs)) == PLACES + 50
    child.cut(11)
    child.say("after the cut")
    assert read(outputs) == [*(f"text {number}" for number in range(10)), "after the cut"]


def test_a_cut_between_two_readings_of_a_long_text_hides_nothing(
    child: Child, outputs: PodOutputs
) -> None:
    child.say("one", "x" * MOST_BYTES, "three")
    assert outputs.read("kid", KID) == Said(("one",), more=True)
    child.cut(2)
    child.say("deux")
    assert read(outputs) == ["deux"]


# -- segments


def test_a_new_segment_is_read_after_the_rest_of_the_one_before(
    child: Child, outputs: PodOutputs
) -> None:
    child.say("one")
    assert read(outputs) == ["one"]
    child.say("two")
    child.rotate(Message(role="assistant", content="a summary of one and two"))
    child.say("three")
    assert read(outputs) == ["two", "three"]
    child.rotate()
    child.rotate()
    child.say("four")
    assert read(outputs) == ["four"]
    assert read(outputs) == []


def test_a_segment_shorter_than_the_one_before_hides_nothing(
    child: Child, outputs: PodOutputs
) -> None:
    child.say(*(f"text {number}" for number in range(20)))
    assert len(read(outputs)) == 20
    child.rotate()
    child.say("short")
    assert read(outputs) == ["short"]


def test_a_segment_that_was_cut_and_left_is_read_before_the_next(
    child: Child, outputs: PodOutputs
) -> None:
    child.say("one", "two")
    assert read(outputs) == ["one", "two"]
    child.cut(2)
    child.say("deux")
    child.rotate()
    child.say("three")
    assert read(outputs) == ["deux", "three"]


# -- much at once


def test_more_than_one_reading_holds_comes_in_several_and_nothing_is_lost(
    child: Child, outputs: PodOutputs
) -> None:
    texts = [f"{number} {'é' * 5000}" for number in range(12)]
    child.say(*texts[:7])
    child.rotate()
    child.say(*texts[7:])
    readings = [outputs.read("kid", KID)]
    while readings[-1].more:
        readings.append(outputs.read("kid", KID))
    assert [text for said in readings for text in said.texts] == texts
    sizes = [sum(len(text.encode()) for text in said.texts) for said in readings]
    assert len(readings) == 3
    assert max(sizes) <= MOST_BYTES
    assert read(outputs) == []


def test_a_text_that_is_too_long_for_one_reading_comes_in_several_and_whole(
    child: Child, outputs: PodOutputs
) -> None:
    long = "ä" * MOST_BYTES
    child.say("before", long, "after")
    readings = [outputs.read("kid", KID)]
    while readings[-1].more:
        readings.append(outputs.read("kid", KID))
    assert readings[0].texts == ("before",)
    assert all(len("".join(said.texts).encode()) <= MOST_BYTES for said in readings)
    assert "".join(text for said in readings for text in said.texts) == f"before{long}after"


def test_a_reading_that_is_exactly_full_says_that_there_is_no_more(
    child: Child, outputs: PodOutputs
) -> None:
    child.say("x" * (MOST_BYTES // 2), "y" * (MOST_BYTES // 2 - 2))
    child.do()
    assert len(read(outputs)) == 2


# -- whatever happens

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 4)),
        st.tuples(st.just("say much"), st.integers(1, 3)),
        st.tuples(st.just("do"), st.integers(1, 3)),
        st.tuples(st.just("cut"), st.integers(0, 8)),
        st.tuples(st.just("rotate"), st.just(0)),
        st.tuples(st.just("read"), st.integers(1, 2)),
    ),
    max_size=25,
)


@given(steps=STEPS)
def test_whatever_happens_to_a_log_all_that_stands_in_it_at_the_end_has_been_read(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    data = tmp_path_factory.mktemp("data")
    outputs, numbers = Reader(data), count(1)
    found: list[str] = []
    was_cut = False
    with living(data) as child:
        for what, many in [*steps, ("read", 100)]:
            match what:
                case "say":  # of one length all of them: a cut log grows to where it was
                    child.say(*(f"{next(numbers):04}" for _ in range(many)))
                case "say much":
                    child.say(*(f"{next(numbers):04} {'x' * 20_000}" for _ in range(many)))
                case "do":
                    for _ in range(many):
                        child.do()
                case "cut":
                    child.cut(max(1, child.log.head_entries - many))
                    was_cut = was_cut or many > 0
                case "rotate":
                    child.rotate()
                case "read":
                    for _ in range(many):
                        said = outputs.read("kid", KID)
                        found += said.texts
                        if not said.more:
                            break
        assert not said.more
        assert set(child.texts) <= set(found)
        if not was_cut:
            assert found == child.texts


def test_what_cannot_be_read_is_an_error_and_is_read_once_it_can_be(
    child: Child, outputs: PodOutputs
) -> None:
    child.say("one")
    hidden = child.log.path.with_suffix(".hidden")
    os.rename(child.log.path, hidden)
    child.log.path.mkdir()
    with pytest.raises(IsADirectoryError):
        outputs.read("kid", KID)
    child.log.path.rmdir()
    os.rename(hidden, child.log.path)
    assert read(outputs) == ["one"]


def test_what_was_read_and_not_shown_comes_again(child: Child, tmp_path: Path) -> None:
    child.say("one", "two")
    outputs = PodOutputs(tmp_path)
    assert outputs.read("kid", KID).texts == outputs.read("kid", KID).texts == ("one", "two")


def test_a_segment_that_cannot_be_read_takes_nothing_of_the_one_before_along(
    child: Child, outputs: PodOutputs
) -> None:
    child.say("one")
    child.rotate()
    child.say("two")
    hidden = child.log.path.with_suffix(".hidden")
    child.log.path.rename(hidden)
    child.log.path.mkdir()
    with pytest.raises(IsADirectoryError):
        outputs.read("kid", KID)
    child.log.path.rmdir()
    hidden.rename(child.log.path)
    assert read(outputs) == ["one", "two"]


def test_many_small_texts_come_whole_whatever_stands_between_them(
    child: Child, tmp_path: Path
) -> None:
    child.say(*["ab"] * 300)
    outputs = Reader(tmp_path, most=256)
    texts: list[str] = []
    while True:
        said = outputs.read("kid", KID)
        assert len(BETWEEN.join(said.texts).encode()) <= 256
        texts += said.texts
        if not said.more:
            break
    assert texts == ["ab"] * 300
