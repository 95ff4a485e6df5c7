"""Every case of what a provider may do, through the SDK and a real server, to the run's end."""

from __future__ import annotations

import logging

import pytest

from tests.podproc.models.openai_runs import Seen, play
from tests.podproc.models.openai_runs import plain_environment as plain_environment
from tests.support.providers.openai_cases import CASES, CHAT, RESPONSES, Case, runs_of, table


def run(case: Case, scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen = play(case, scheme)
    error = seen.over.error.message if seen.over.error else ""
    assert (seen.over.ending, seen.over.reason) == (case.ends, case.reason), error
    assert_each_begins(seen.history, case.history)
    assert len(seen.told) == len(case.told), seen.told
    for word, wanted in zip(seen.told, case.told, strict=True):
        kind, _, what = wanted.partition(" ")
        assert word.startswith(kind), word
        assert what in word, (word, wanted)
    for words in case.error:
        assert words in error
    assert len(seen.requests) == case.asked
    assert seen.ran == list(case.ran)
    assert (seen.heard.usage, seen.heard.stop) == (case.usage, case.stop)
    assert_no_key(case, seen, caplog)


def assert_each_begins(found: list[str], wanted: tuple[str, ...]) -> None:
    assert len(found) == len(wanted), found
    for word, beginning in zip(found, wanted, strict=True):
        assert word.startswith(beginning), (word, beginning)


def assert_no_key(case: Case, seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    logged = [record.getMessage() for record in caplog.records]
    said = [repr(seen.over), repr(seen.sink.events), repr(seen.sink.history), *seen.sink.alerts]
    said += [repr(error) + str(error) for error in seen.heard.failures]
    assert not [text for text in (*said, *logged) if case.key in text]


@pytest.mark.parametrize("case", runs_of(CHAT), ids=lambda case: case.id)
def test_chat_completions(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    run(case, CHAT, caplog)


@pytest.mark.parametrize("case", runs_of(RESPONSES), ids=lambda case: case.id)
def test_responses(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    run(case, RESPONSES, caplog)


def test_each_case_has_an_id_of_its_own_and_stands_in_the_table() -> None:
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))
    assert all(f"\n{name} " in table() for name in ids)
