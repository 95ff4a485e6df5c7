"""Frames that nobody should send: valid ones bent, and bytes that never were a message."""

from __future__ import annotations

import random
from typing import Any

import msgpack
from hypothesis import strategies as st

from protocol.control import CONTROLS
from protocol.methods import METHODS
from protocol.wire import MAX_HEADER_BYTES, pack
from tests.protocol.samples import SAMPLES

TYPES = ("request", "reply", "beat", "who", "event", "")
NAMES = (*METHODS, *CONTROLS, "", "sing")
HEADERS = [sample for sample in SAMPLES if type(sample).__module__ == "protocol.wire"]
BODIES = [sample for sample in SAMPLES if type(sample).__module__ != "protocol.wire"]

numbers = st.integers(-(2**63), 2**64 - 1)
plain = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.binary(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)
packed = st.builds(lambda value: bytes(msgpack.packb(value)), plain)


def bomb(opener: bytes, depth: int) -> bytes:
    """Return a value nested so deep; `opener` begins one level."""
    return opener * depth + b"\xc0"


bombs = st.builds(
    bomb,
    st.sampled_from(
        [b"\x91", b"\x81\xa1v", b"\x81\xa7details", b"\xdc\x00\x01", b"\x82\xa1v\x01\xa1w"]
    ),
    st.sampled_from([1, 30, 300, 600, 1000, 1100, 5000]),
)
lies = st.sampled_from(
    [
        b"\xdf\xff\xff\xff\xff",  # a map of 4 billion
        b"\xdd\xff\xff\xff\xff",  # a list of 4 billion
        b"\xc6\xff\xff\xff\xff",  # 4 GB of bytes
        b"\xc9\xff\xff\xff\xff\x01",  # an extension of 4 GB
        b"\xd6\xff\xff\xff\xff\xff",  # a timestamp
        b"\xc7\x0c\xff" + b"\xff" * 12,  # a timestamp with too many nanoseconds
        b"\xd4\x05\x00",  # an extension nobody knows
        b"\xa2\xff\xfe",  # text that is not UTF-8
        b"\xc1",
    ]
)
header_like = st.fixed_dictionaries(
    {"v": st.just(1) | plain, "type": st.sampled_from(TYPES) | plain},
    optional={
        "id": st.text(max_size=5) | plain,
        "to": st.sampled_from(["", "alice", "nobody"]) | plain,
        "method": st.sampled_from(NAMES) | plain,
        "deadline_ms": numbers | plain,
        "token": st.sampled_from(["operator-token", "alice-token"]) | plain,
        "ok": st.booleans() | plain,
        "status": st.just("idle") | plain,
        "pod": plain,
        "incarnation": numbers | plain,
        "seq": numbers | plain,
        "progress": st.just({"what": "x"}) | plain,
        "seqs": plain,
    },
)
bent_headers = st.builds(lambda fields: bytes(msgpack.packb(fields)), header_like)


@st.composite
def cut(draw: st.DrawFn) -> bytes:
    """A valid frame with some bytes changed, taken away or put in."""
    data = bytearray(draw(st.sampled_from([frame for pair in PAIRS for frame in pair])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


PAIRS = [[pack(header), pack(body)] for header in HEADERS for body in BODIES[::7]]
anything = st.binary(max_size=40) | packed | bombs | lies | cut() | bent_headers
frame_lists = st.lists(anything, max_size=5) | st.builds(
    lambda first, rest: [first, *rest], bent_headers, st.lists(anything, max_size=3)
)


def stream(seed: int) -> Any:
    """Yield bent messages for ever, fast and repeatably; each a list of frames."""
    rng = random.Random(seed)
    nested = [bomb(b"\x91", 900), bomb(b"\x81\xa1v", 2000), b"\x00" * (MAX_HEADER_BYTES + 1)]
    while True:
        frames = list(PAIRS[rng.randrange(len(PAIRS))])
        which = rng.randrange(8)
        if which < 5:
            data = bytearray(frames[which % 2])
            for _ in range(rng.randrange(3)):
                if data:
                    data[rng.randrange(len(data))] = rng.randrange(256)
            frames[which % 2] = bytes(data)
        elif which == 5:
            frames[rng.randrange(2)] = rng.randbytes(rng.randrange(60))
        elif which == 6:
            frames += [rng.randbytes(5)] * rng.randrange(6)
        else:
            frames[rng.randrange(2)] = nested[rng.randrange(len(nested))]
        yield frames
