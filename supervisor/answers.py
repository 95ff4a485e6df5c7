"""How controls are answered: at once, when the disk has it, or when the work is done.

An operator is told that long work has begun, and follows the fleet's events. A pod has no ear for
those: it is answered when the operation is over, with what it came to.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol import control as c
from protocol import events as ev
from protocol.base import Wire
from protocol.error_body import error_from_body
from protocol.errors import Internal, PodsupError
from protocol.status import OperationState
from protocol.unfailing import print_traceback
from supervisor import broker as b
from supervisor.core.fleet import Fleet


class Answers:
    """The answers of one supervisor; `send` carries them out."""

    def __init__(self, fleet: Fleet, broker: b.Broker, send: Callable[[b.Send], None]) -> None:
        self._fleet = fleet
        self._broker = broker
        self._send = send
        self._until_over: dict[str, list[b.ControlAsked]] = {}

    def reply(self, asked: b.ControlAsked, body: Wire, *, ok: bool = True) -> None:
        """Answer a control."""
        self._send(self._broker.reply(asked.route, asked.request_id, body, ok=ok))

    def refuse(self, asked: b.ControlAsked, error: Exception) -> None:
        """Answer a control with what went wrong; a defect is printed and named as one."""
        if not isinstance(error, PodsupError):
            print_traceback(error)
            error = Internal(
                f"{asked.control.method} failed: {type(error).__name__}: {error}",
                next_step="see the supervisor's log",
            )
        self._send(self._broker.refuse(asked.route, asked.request_id, error))

    def started(self, asked: b.ControlAsked, started: c.Started) -> None:
        """Say that long work has begun; to a pod, when it is over."""
        operation = self._fleet.operations.get(started.operation)
        if asked.sender.is_operator or operation is None:
            self.reply(asked, started)
        elif operation.state is OperationState.RUNNING:
            self._until_over.setdefault(operation.id, []).append(asked)
        else:
            self._over(asked, operation.event())

    def operation_changed(self, event: ev.Operation) -> None:
        """Answer those that wait for an operation, once it is over."""
        if event.state != OperationState.RUNNING:
            for asked in self._until_over.pop(event.id, ()):
                self._over(asked, event)

    def _over(self, asked: b.ControlAsked, over: ev.Operation) -> None:
        if over.error is not None:
            self.refuse(asked, error_from_body(over.error))
        else:
            self.reply(asked, c.Started(operation=over.id, result=over.result))
