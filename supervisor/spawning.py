"""Adding pods to a running fleet, for operators and for pods; and what may be restored.

    asked ─► resolved over its parent ─► added ─► started ─► granted  answered: it has its scope
                                                      └─────► refused  it never was: answered so

The answer waits for the grant, so that a conflict is known to whoever asks, and nothing is left of
what was refused: no claim, no record, no row. What comes after the grant is an operation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from protocol import control as c
from protocol.errors import Conflict, Forbidden, InvalidRequest, PodsupError, Unreachable
from supervisor import broker as b
from supervisor.answers import Answers
from supervisor.background import Background
from supervisor.core import fleet_terms as f
from supervisor.core.family import AT_REST
from supervisor.core.fleet import Fleet
from supervisor.desk import Desk
from supervisor.mistakes import FleetFileInvalid
from supervisor.takeover import KnownPod


class Spawner:
    """The spawns and restores of one supervisor.

    `feed` takes stimuli, `add` adds a pod to the fleet, `is_done` says whether an earlier
    supervisor did what an id asks for, `note` writes down that it is done; it blocks.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        desk: Desk,
        background: Background,
        answers: Answers,
        feed: Callable[[f.Stimulus], None],
        add: Callable[[KnownPod], None],
        is_done: Callable[[str], bool],
        note: Callable[[str, str, c.Started], None],
    ) -> None:
        self._fleet = fleet
        self._desk = desk
        self._background = background
        self._answers = answers
        self._feed = feed
        self._add = add
        self._is_done = is_done
        self._note = note
        self._asked: dict[str, b.ControlAsked] = {}
        self._grants: dict[str, asyncio.Future[PodsupError | None]] = {}

    async def spawn(self, asked: b.ControlAsked, spawn: c.Spawn) -> None:
        """Start one more pod; answered when it has its scope, to a pod when it has its task."""
        request_id, started = asked.request_id, c.Started(operation=asked.request_id)
        is_repeated = request_id in self._asked
        self._asked[request_id] = asked  # who asks again may have another connection
        if is_repeated:
            return
        try:
            if request_id not in self._fleet.operations and not self._is_done(request_id):
                await self._start(asked, spawn)
                await self._background.on_disk(self._note, request_id, spawn.method, started)
            self._answers.started(self._asked[request_id], started)
        except FleetFileInvalid as error:
            wrong = InvalidRequest(str(error), next_step="podsup spawn --help")
            self._answers.refuse(self._asked[request_id], wrong)
        except Exception as error:
            self._answers.refuse(self._asked[request_id], error)
        finally:
            del self._asked[request_id]

    def on_granted(self, pod: str, refusal: PodsupError | None) -> None:
        """Take what became of a start: it has its scope, or was refused it."""
        waiting = self._grants.pop(pod, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(refusal)

    async def restore(self, asked: b.ControlAsked, pod: str, go_on: Callable[[], None]) -> None:
        """Refuse what cannot be restored, each case by itself; else go on."""
        try:
            if self._fleet.member(pod).life.phase in AT_REST:
                await self._background.on_disk(self._desk.require_restorable, pod)
            go_on()
        except Exception as error:
            self._answers.refuse(asked, error)

    async def _start(self, asked: b.ControlAsked, spawn: c.Spawn) -> None:
        """Add and start the pod; returns when it has its scope, raises the refusal."""
        pod = await self._resolve(asked.sender, spawn)
        name, fleet = pod.manifest.name, self._fleet
        fleet.require_free(name)
        if fleet.is_ending:
            raise Conflict("the fleet is on its way down")
        if fleet.is_replaceable(name):
            self._feed(f.Withdrawn(name))
        fleet.require_room(pod.parent, name)
        self._add(pod)
        grant = self._grants[name] = asyncio.get_running_loop().create_future()
        self._feed(f.Spawned(asked.request_id, name, spawn.stop_jobs))
        if (refusal := await grant) is not None:
            self._feed(f.Withdrawn(name))
            raise refusal

    async def _resolve(self, sender: b.Principal, spawn: c.Spawn) -> KnownPod:
        """Return the pod that is asked for; raises what is wrong with it."""
        parent = spawn.parent or (None if sender.is_operator else sender.name)
        giver = None if parent is None else self._fleet.member(parent)
        if giver is not None and not giver.is_ready:
            raise Unreachable(
                f"pod {parent} is {giver.life.status} and cannot lend anything now",
                next_step=f"podsup why {parent}",
                pod=parent,
            )
        if not sender.is_operator and not self._fleet.member(sender.name).manifest.feature.pods:
            raise Forbidden(f"pod {sender.name} has not the feature pods")
        return await self._background.on_disk(
            partial(
                self._desk.resolve_spawn,
                spawn,
                parent=giver.manifest if giver else None,
                by_pod=not sender.is_operator,
            )
        )
