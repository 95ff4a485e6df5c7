"""The filter of system calls, run step by step as the kernel would, for each machine it is for."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from podproc.confine import seccomp

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ALLOWED, IGNORED = 0, -1
JUDGED = {"x86_64": 336, "aarch64": 294}
CREATES, NAMELESS = 0o100, 0o20200000
CLONE_NEWUSER, CLONE_NEWNET, CLONE_VM, SIGCHLD = 0x10000000, 0x40000000, 0x100, 17
UNIX, INET, INET6, NETLINK, PACKET, ALG, VSOCK = 1, 2, 10, 16, 17, 38, 40
TIPC = 30
STREAM, DATAGRAM, RAW, SEQPACKET = 1, 2, 3, 5
CLOEXEC = 0o2000000


def run(program: bytes, architecture: int, number: int, *args: int) -> int:
    """Return the errno that a filter gives a call; one is ALLOWED, another IGNORED."""
    padded = [*args, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=iIQ6Q", number, architecture, 0, *padded)
    steps = list(struct.iter_unpack("=HBBI", program))
    at = value = 0
    while True:
        code, if_so, if_not, constant = steps[at]
        at += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, constant)
            case 0x54:
                value &= constant
            case 0x15:
                at += if_so if value == constant else if_not
            case 0x35:
                at += if_so if value >= constant else if_not
            case 0x25:
                at += if_so if value > constant else if_not
            case 0x06:
                return ALLOWED if constant == 0x7FFF0000 else constant & 0xFFFF or IGNORED
            case _:
                raise AssertionError(f"step {at - 1} has code {code:#x}")


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class Filter:
    """A filter for a machine, asked by the names of calls."""

    def __init__(
        self,
        machine: str,
        *,
        unix_sockets: bool = False,
        internet: bool = True,
        is_alone: bool = True,
    ) -> None:
        table = seccomp.rules(unix_sockets=unix_sockets, internet=internet, is_alone=is_alone)
        self._program = seccomp.assemble(table, machine)
        self._machine = machine

    def __call__(self, call: str, *args: int) -> int:
        number = seccomp.numbers(self._machine)[call]
        return run(self._program, MACHINES[self._machine], number, *args)

    def raw(self, architecture: int, number: int, *args: int) -> int:
        return run(self._program, architecture, number, *args)


def test_calls_that_nobody_in_a_cage_needs_are_refused(machine: str) -> None:
    ask = Filter(machine)
    for call in (
        *("mount", "umount2", "pivot_root", "setns", "fsopen", "fsmount", "fsconfig", "fspick"),
        *("open_tree", "open_tree_attr", "move_mount", "mount_setattr"),
        *("io_uring_setup", "io_uring_enter", "io_uring_register"),
        *("add_key", "request_key", "keyctl", "bpf", "userfaultfd", "fanotify_init"),
    ):
        assert ask(call) == errno.EPERM, call


def test_processes_and_threads_start_and_namespaces_do_not(machine: str) -> None:
    ask = Filter(machine)
    assert ask("clone", SIGCHLD) == ALLOWED
    assert ask("clone", CLONE_VM | SIGCHLD) == ALLOWED
    assert ask("clone", CLONE_NEWUSER | SIGCHLD) == errno.EPERM
    assert ask("clone", CLONE_NEWNET) == errno.EPERM
    assert ask("clone3") == errno.ENOSYS, "libc tries clone then"
    assert ask("unshare", 0x400) == ALLOWED
    assert ask("unshare", CLONE_NEWUSER) == errno.EPERM
    assert ask("unshare", 0x80) == errno.EPERM


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"internet": True}, {INET, INET6, NETLINK}),
        ({"internet": False}, {NETLINK}),
        ({"internet": True, "unix_sockets": True}, {INET, INET6, NETLINK, UNIX}),
        ({"internet": False, "unix_sockets": True}, {NETLINK, UNIX}),
    ],
)
def test_only_families_that_are_opened_have_sockets(
    machine: str, settings: dict[str, bool], allowed: set[int]
) -> None:
    ask = Filter(machine, **settings)
    for family in (UNIX, INET, INET6, NETLINK, PACKET, ALG, VSOCK):
        wanted = ALLOWED if family in allowed else errno.EACCES
        assert ask("socket", family, STREAM, 0) == wanted, family
    assert ask("socket", NETLINK, DATAGRAM, 4) == errno.EACCES, "the list of all sockets"


def test_pairs_that_are_connected_for_good_are_allowed_and_datagram_pairs_are_not(
    machine: str,
) -> None:
    ask = Filter(machine)
    assert ask("socketpair", UNIX, STREAM) == ALLOWED
    assert ask("socketpair", UNIX, STREAM | CLOEXEC) == ALLOWED
    assert ask("socketpair", UNIX, SEQPACKET) == ALLOWED
    assert ask("socketpair", UNIX, DATAGRAM) == errno.EACCES
    assert ask("socketpair", UNIX, DATAGRAM | CLOEXEC) == errno.EACCES
    assert ask("socketpair", UNIX, RAW) == errno.EACCES, "the kernel makes it a datagram pair"
    assert ask("socketpair", TIPC, STREAM) == errno.EACCES
    assert Filter(machine, unix_sockets=True)("socketpair", UNIX, DATAGRAM) == ALLOWED


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("call", ["prlimit64", "sched_setscheduler", "sched_setparam"])
def test_limits_and_priorities_of_others_are_out_of_reach(
    machine: str, call: str, is_alone: bool
) -> None:
    ask = Filter(machine, is_alone=is_alone)
    assert ask(call, 0) == ALLOWED
    assert ask(call, 1) == errno.EPERM, "alone, the first process is the keeper"
    assert ask(call, 4711) == (ALLOWED if is_alone else errno.EPERM)


@pytest.mark.parametrize(("call", "user"), [("setpriority", 2), ("ioprio_set", 3)])
def test_priorities_of_a_user_are_out_of_reach(machine: str, call: str, user: int) -> None:
    ask = Filter(machine, is_alone=False)
    process = user - 2
    assert ask(call, process, 0) == ALLOWED
    assert ask(call, process, 4711) == errno.EPERM
    assert ask(call, user, 0) == errno.EPERM


def test_a_terminal_cannot_be_typed_into(machine: str) -> None:
    ask = Filter(machine)
    assert ask("ioctl", 0, 0x5401) == ALLOWED
    assert ask("ioctl", 0, 0x5412) == errno.EPERM
    assert ask("ioctl", 0, 0x541C) == errno.EPERM
    assert ask("ioctl", 0, 0x5412 | 1 << 32) == errno.EPERM, "the kernel drops the upper half"


def test_calls_of_another_architecture_do_not_exist(machine: str) -> None:
    ask = Filter(machine)
    for other in (0x40000003, 0x40000028, *({*MACHINES.values()} - {MACHINES[machine]})):
        assert ask.raw(other, 0) == errno.ENOSYS
    if machine == "x86_64":
        assert ask.raw(MACHINES[machine], 0x40000000 + 41, UNIX) == errno.ENOSYS


def test_judged_calls_that_the_table_does_not_name_are_allowed(machine: str) -> None:
    named = set(seccomp.numbers(machine).values())
    ask = Filter(machine)
    judged = [*range(JUDGED[machine] + 1), *range(424, 470)]
    others = [number for number in judged if number not in named]
    assert {ask.raw(MACHINES[machine], number, 1, 2, 3) for number in others} == {ALLOWED}


def test_calls_that_nobody_has_judged_do_not_exist(machine: str) -> None:
    ask = Filter(machine)
    unknown = [*range(JUDGED[machine] + 1, 424), *range(470, 2000), 0x3FFFFFFF]
    assert {ask.raw(MACHINES[machine], number) for number in unknown} == {errno.ENOSYS}


def with_mode(call: str, mode: int) -> list[tuple[int, ...]]:
    """Return the arguments by which a call gives a file a mode."""
    arguments: dict[str, list[tuple[int, ...]]] = {
        "chmod": [(0, mode)],
        "fchmod": [(0, mode)],
        "fchmodat": [(0, 0, mode)],
        "fchmodat2": [(0, 0, mode), (0, 0, mode, 0x1000)],
        "creat": [(0, mode)],
        "open": [(0, CREATES | 1, mode), (0, NAMELESS | 2, mode)],
        "openat": [(0, 0, CREATES | 1, mode), (0, 0, NAMELESS | 2, mode)],
        "mknod": [(0, mode), (0, 0o100000 | mode), (0, 0o010000 | mode)],
        "mknodat": [(0, 0, mode), (0, 0, 0o100000 | mode)],
    }
    return arguments[call]


LOW_BITS = (0, 0o777, 0o755, 0o644, *(1 << bit for bit in range(9)))


@pytest.mark.parametrize(
    "call",
    [
        *("chmod", "fchmod", "fchmodat", "fchmodat2", "creat", "open", "openat"),
        *("mknod", "mknodat"),
    ],
)
def test_a_call_that_sets_a_mode_sets_no_setuid_or_setgid_bit(machine: str, call: str) -> None:
    ask = Filter(machine)
    if call not in seccomp.numbers(machine):
        pytest.skip(f"{machine} has no {call}")
    for mode in (special << 9 | low for special in range(8) for low in LOW_BITS):
        wanted = errno.EPERM if mode & 0o6000 else ALLOWED
        for args in with_mode(call, mode):
            assert ask(call, *args) == wanted, oct(mode)
            high = tuple(arg | 7 << 32 for arg in args)
            assert ask(call, *high) == wanted, "the kernel drops the upper half"


def test_an_opening_that_makes_no_file_ignores_the_mode(machine: str) -> None:
    ask = Filter(machine)
    assert ask("openat", 0, 0, 1, 0o6755) == ALLOWED
    assert ask("openat", 0, 0, 0o200000, 0o6755) == ALLOWED, "O_DIRECTORY alone"
    assert ask("openat2") == errno.ENOSYS, "its mode is in memory: libc and tools try openat"


@pytest.mark.parametrize("call", ["mknod", "mknodat"])
def test_device_files_are_never_made(machine: str, call: str) -> None:
    ask = Filter(machine)
    if call not in seccomp.numbers(machine):
        pytest.skip(f"{machine} has no {call}")
    ahead = (0,) if call == "mknod" else (0, 0)
    for kind in (0o020000, 0o060000):
        assert ask(call, *ahead, kind | 0o600) == errno.EPERM
    for kind in (0, 0o100000, 0o010000, 0o140000):
        assert ask(call, *ahead, kind | 0o600) == ALLOWED


def test_only_known_requests_change_what_is_open_for_reading(machine: str) -> None:
    ask = Filter(machine)
    kinds = (0x12, 0x54, 0x58, 0x66, 0x6F, 0x89, 0x94, 0xBC)
    requests = (kind << 8 | number for kind in kinds for number in range(256))
    refused = {request for request in requests if ask("ioctl", 3, request)}
    subvolumes = {0x9400 | number for number in (1, 14, 15, 19, 23, 24, 26, 37, 63)}
    others = {0xBC10, 0xBC11, 0x6F04, 0x6613, 0x6685}
    assert refused == subvolumes | others | {0x5412, 0x541C}
    assert ask("ioctl", 3, 0x5000940E) == errno.EPERM, "BTRFS_IOC_SUBVOL_CREATE"
    assert ask("ioctl", 3, 0x40049409) == ALLOWED, "FICLONE asks for a file open for writing"


def test_only_fcntl_that_makes_others_wait_or_listens_is_refused(machine: str) -> None:
    ask = Filter(machine)
    refused = {command for command in range(2048) if ask("fcntl", 3, command)}
    assert refused == {1024, 1026, 1040}, "F_SETLEASE, F_NOTIFY, F_SETDELEG"
    assert ask("fcntl", 3, 1024 | 1 << 32) == errno.EPERM, "the kernel drops the upper half"


def test_asynchronous_io_of_the_machine_s_few_does_not_exist(machine: str) -> None:
    assert Filter(machine)("io_setup", 128) == errno.ENOSYS


def test_a_choice_of_processors_is_taken_and_ignored(machine: str) -> None:
    ask = Filter(machine, is_alone=False)
    assert ask("sched_setaffinity", 0) == IGNORED
    assert ask("sched_setaffinity", 4711) == errno.EPERM


def test_numbers_are_those_of_the_kernel_s_headers(machine: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"{header} is not there")
    text = header.read_text()
    told = {name: int(number) for name, number in re.findall(r"__NR_(\w+)\s+(\d+)", text)}
    numbers = seccomp.numbers(machine)
    assert {name: told[name] for name in numbers if name in told} == {
        name: number for name, number in numbers.items() if name in told
    }
    assert len(numbers.keys() & told.keys()) > 30


def test_a_machine_without_a_table_has_no_filter() -> None:
    assert not seccomp.is_known("riscv64")
    with pytest.raises(KeyError):
        seccomp.assemble([], "riscv64")
