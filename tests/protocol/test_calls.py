"""The three books of requests: one answer and one effect each, within limits, until a deadline."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.calls import (
    PER_SENDER,
    PER_TARGET,
    REMEMBERED,
    REMEMBERED_S,
    RESEND_S,
    Answered,
    Asked,
    Full,
    InProgress,
    Pending,
    Relay,
)


def call(
    request_id: str,
    *,
    sender: str = "operator",
    target: str = "alice",
    asker: bytes = b"c1",
    deadline: float = 30,
) -> Pending:
    return Pending(sender, request_id, target, asker, deadline)


def test_limits_are_those_of_the_wire() -> None:
    assert (PER_TARGET, PER_SENDER, REMEMBERED, REMEMBERED_S, RESEND_S) == (256, 32, 1000, 600, 5)


# -- the asker


def test_asker_takes_one_answer_and_no_second() -> None:
    asked = Asked()
    asked.ask("r", 0, 30)
    assert asked.answer("r")
    assert not asked.answer("r")
    assert not asked.answer("never asked")
    assert len(asked) == 0


def test_asker_that_hears_nothing_for_five_seconds_sends_again_and_again() -> None:
    asked = Asked()
    asked.ask("r", 0, 30)
    assert asked.due(4.9) == []
    assert asked.due(5) == ["r"]
    assert asked.due(5) == []
    assert asked.due(10) == ["r"]
    asked.answer("r")
    assert asked.due(100) == []


def test_asker_gives_up_at_the_deadline_and_the_reply_is_late() -> None:
    asked = Asked()
    asked.ask("r", 0, 30)
    assert asked.expire(29.9) == []
    assert asked.expire(30) == ["r"]
    assert asked.expire(30) == []
    assert not asked.answer("r")


def test_asker_knows_when_to_look_next() -> None:
    asked = Asked()
    assert asked.next_at() is None
    asked.ask("slow", 0, 30)
    assert asked.next_at() == 5
    asked.ask("urgent", 1, 2)
    assert asked.next_at() == 2
    asked.expire(2)
    asked.due(5)
    assert asked.next_at() == 10


asker_steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "answer", "expire", "due"]), st.integers(0, 5), st.floats(0, 8)
    ),
    max_size=60,
)


@given(asker_steps)
def test_every_request_ends_once_answered_or_given_up(steps: list[tuple[str, int, float]]) -> None:
    asked, now, open_ = Asked(), 0.0, set[str]()
    for count, (what, number, wait) in enumerate(steps):
        now += wait
        match what:
            case "ask":
                asked.ask(f"{number}-{count}", now, now + number)
                open_.add(f"{number}-{count}")
            case "answer":
                chosen = next((i for i in sorted(open_) if i.startswith(f"{number}-")), "none")
                assert asked.answer(chosen) is (chosen in open_)
                open_.discard(chosen)
            case "expire":
                late = asked.expire(now)
                assert set(late) <= open_
                open_ -= set(late)
            case _:
                assert set(asked.due(now)) <= open_
        assert len(asked) == len(open_)


# -- the supervisor, between


def test_request_is_handed_on_and_its_reply_goes_to_its_asker_once() -> None:
    relay = Relay()
    assert relay.admit(call("r")) is True
    answered = relay.answer("alice", "r")
    assert answered is not None
    assert (answered.asker, answered.sender) == (b"c1", "operator")
    assert relay.answer("alice", "r") is None
    assert relay.waiting("alice") == 0


def test_reply_of_another_pod_is_nobodys() -> None:
    relay = Relay()
    relay.admit(call("r"))
    assert relay.answer("bob", "r") is None
    assert relay.waiting("alice") == 1


def test_repeated_request_is_not_handed_on_and_the_newest_connection_is_answered() -> None:
    relay = Relay()
    assert relay.admit(call("r", asker=b"c1")) is True
    assert relay.admit(call("r", asker=b"c2")) is False
    answered = relay.answer("alice", "r")
    assert answered is not None
    assert answered.asker == b"c2"
    assert relay.waiting("alice") == 0


def test_repeating_does_not_put_the_deadline_off() -> None:
    relay = Relay()
    relay.admit(call("r", deadline=30))
    for second in range(5, 30, 5):
        assert relay.admit(call("r", deadline=30.0 + second)) is False
    assert relay.next_deadline() == 30
    assert [late.request_id for late in relay.expire(30)] == ["r"]


def test_sender_who_chose_anothers_id_never_gets_the_others_answer() -> None:
    relay = Relay()
    assert relay.admit(call("r", sender="operator", asker=b"c1")) is True
    assert isinstance(relay.admit(call("r", sender="alice", asker=b"p")), Full)
    answered = relay.answer("alice", "r")
    assert answered is not None
    assert answered.asker == b"c1"
    assert relay.admit(call("r", sender="alice", asker=b"p")) is True, "safe to repeat"


def test_256_requests_wait_for_one_target_and_no_more() -> None:
    relay = Relay()
    for number in range(256):
        sender = f"s{number % 8}"
        assert relay.admit(call(str(number), sender=sender, asker=sender.encode())) is True
    assert isinstance(relay.admit(call("one more", sender="new", asker=b"new")), Full)
    assert relay.waiting("alice") == 256
    assert relay.admit(call("r", target="bob", asker=b"new")) is True, "others are not affected"
    relay.answer("alice", "0")
    assert relay.admit(call("one more", sender="new", asker=b"new")) is True


def test_32_requests_of_one_sender_wait_for_one_target_and_no_more() -> None:
    relay = Relay()
    for number in range(32):
        assert relay.admit(call(str(number))) is True
    refused = relay.admit(call("one more"))
    assert isinstance(refused, Full)
    assert "32" in refused.what
    assert relay.admit(call("0")) is False, "a repeat is not one more"
    assert relay.admit(call("r", target="bob")) is True
    assert relay.admit(call("r", sender="bob", asker=b"b")) is True
    relay.answer("alice", "5")
    assert relay.admit(call("one more")) is True


def test_32_requests_of_one_pod_wait_however_many_connections_it_opens() -> None:
    relay = Relay()
    for number in range(32):
        assert relay.admit(call(str(number), sender="bob", asker=f"b{number}".encode())) is True
    assert isinstance(relay.admit(call("one more", sender="bob", asker=b"another")), Full)


def test_operators_are_counted_by_connection_as_they_all_have_one_name() -> None:
    relay = Relay()
    for number in range(32):
        relay.admit(call(str(number), asker=b"busy program"))
    assert isinstance(relay.admit(call("more", asker=b"busy program")), Full)
    assert relay.admit(call("more", asker=b"person")) is True


def test_refused_request_leaves_nothing_waiting() -> None:
    relay = Relay(per_target=1)
    relay.admit(call("r"))
    relay.admit(call("refused", deadline=1))
    assert relay.waiting("alice") == 1
    assert relay.expire(1) == []
    assert relay.answer("alice", "refused") is None


def test_target_that_is_gone_leaves_its_requests_to_be_answered_once() -> None:
    relay = Relay()
    relay.admit(call("1"))
    relay.admit(call("2", sender="bob", asker=b"b"))
    relay.admit(call("3", target="bob"))
    assert [left.request_id for left in relay.drop("alice")] == ["1", "2"]
    assert relay.drop("alice") == []
    assert relay.answer("alice", "1") is None
    assert relay.answer("bob", "3") is not None


def test_request_that_is_late_is_given_up_once_and_its_reply_is_nobodys() -> None:
    relay = Relay()
    assert relay.next_deadline() is None
    relay.admit(call("1", deadline=10))
    relay.admit(call("2", deadline=20))
    assert relay.next_deadline() == 10
    assert [late.request_id for late in relay.expire(10)] == ["1"]
    assert relay.expire(10) == []
    assert relay.answer("alice", "1") is None
    assert relay.next_deadline() == 20


relay_steps = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "admit", "answer", "drop", "expire"]),
        st.sampled_from(["operator", "alice", "bob"]),
        st.integers(0, 6),
        st.sampled_from(["alice", "bob"]),
        st.sampled_from([b"c1", b"c2"]),
        st.floats(0, 5),
    ),
    max_size=80,
)


@settings(max_examples=300)
@given(relay_steps)
def test_every_request_that_is_taken_gets_exactly_one_answer_at_its_newest_connection(
    steps: list[tuple[str, str, int, str, bytes, float]],
) -> None:
    relay, now = Relay(per_target=5, per_sender=3), 0.0
    open_: dict[tuple[str, str], tuple[str, bytes]] = {}  # (target, id) -> who waits, and where
    for what, sender, number, target, asker, wait in steps:
        now += wait
        over: list[Pending] = []
        match what:
            case "admit":
                key = (target, str(number))
                new = Pending(sender, str(number), target, asker, now + 9)
                got = relay.admit(new)
                if got is True:
                    assert key not in open_
                    open_[key] = (sender, asker)
                elif got is False:
                    assert open_[key][0] == sender
                    open_[key] = (sender, asker)
            case "answer":
                answered = relay.answer(target, str(number))
                assert (answered is not None) is ((target, str(number)) in open_)
                over = [answered] if answered is not None else []
            case "drop":
                over = relay.drop(target)
                assert len(over) == sum(1 for waiting in open_ if waiting[0] == target)
            case _:
                over = relay.expire(now)
                assert all(late.deadline <= now for late in over)
        for done in over:
            assert open_.pop((str(done.target), done.request_id)) == (done.sender, done.asker)
        for pod in ("alice", "bob"):
            assert relay.waiting(pod) == sum(1 for waiting in open_ if waiting[0] == pod) <= 5


# -- the target


def test_request_is_begun_once_and_its_answer_repeated() -> None:
    answered: Answered[str] = Answered()
    assert answered.begin("operator", "r", 0) is None
    assert answered.begin("operator", "r", 1) == InProgress()
    answered.finish("operator", "r", "done", 2)
    assert answered.begin("operator", "r", 3) == "done"
    assert answered.begin("operator", "r", 4) == "done"


def test_ids_are_compared_per_sender() -> None:
    answered: Answered[str] = Answered()
    answered.begin("operator", "r", 0)
    answered.finish("operator", "r", "secret", 0)
    assert answered.begin("bob", "r", 1) is None


def test_answer_is_remembered_for_ten_minutes_from_when_it_was_given() -> None:
    answered: Answered[str] = Answered()
    answered.begin("operator", "r", 0)
    answered.finish("operator", "r", "done", 100)
    assert answered.begin("operator", "r", 699.9) == "done"
    assert answered.begin("operator", "r", 700) is None


def test_thousand_answers_are_remembered_and_the_oldest_goes_first() -> None:
    answered: Answered[int] = Answered()
    for number in range(1001):
        answered.begin("operator", str(number), 0)
        answered.finish("operator", str(number), number, 0)
    assert answered.begin("operator", "1", 1) == 1
    assert answered.begin("operator", "1000", 1) == 1000
    assert answered.begin("operator", "0", 1) is None


def test_request_in_progress_is_never_forgotten_however_long_and_whatever_else_comes() -> None:
    answered: Answered[int] = Answered()
    answered.begin("operator", "long", 0)
    for number in range(3000):
        answered.begin("operator", str(number), number)
        answered.finish("operator", str(number), number, number)
    assert answered.begin("operator", "long", 10_000) == InProgress()


def test_answers_behind_one_in_progress_are_forgotten_in_time() -> None:
    answered: Answered[str] = Answered()
    answered.begin("operator", "long", 0)
    for name in "abc":
        answered.begin("operator", name, 1)
        answered.finish("operator", name, "done", 1)
    assert [answered.begin("operator", name, 601) for name in "abc"] == [None, None, None]


def test_answer_to_a_read_is_not_kept() -> None:
    answered: Answered[bytes] = Answered(keep=1)
    answered.begin("operator", "change", 0)
    answered.finish("operator", "change", b"done", 0)
    answered.finish("operator", "read", b"four megabytes", 1)
    assert answered.begin("operator", "change", 2) == b"done"
    assert answered.begin("operator", "read", 2) is None


@pytest.mark.parametrize("keep", [1, 3])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["begin", "finish"]), st.integers(0, 5), st.floats(0, 60)),
        max_size=60,
    )
)
def test_effect_comes_once_while_the_id_is_remembered(
    keep: int, steps: list[tuple[str, int, float]]
) -> None:
    answered: Answered[int] = Answered(keep=keep, keep_s=100)
    now, running, done = 0.0, set[int](), dict[int, tuple[float, int]]()
    for count, (what, number, wait) in enumerate(steps):
        now += wait
        if what == "finish":
            answered.finish("s", str(number), count, now)
            if number in running:
                running.remove(number)
                done.pop(number, None)
                done[number] = (now, count)
            continue
        newest = dict(list(done.items())[-keep:])
        remembered = {n: reply for n, (at, reply) in newest.items() if at + 100 > now}
        expected = InProgress() if number in running else remembered.get(number)
        assert answered.begin("s", str(number), now) == expected
        if expected is None:
            running.add(number)
