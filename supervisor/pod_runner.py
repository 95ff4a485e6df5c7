"""From `Fork` to `TreeGone`.

What the daemon does for each pod's process, in the order the table needs.

    wanted ─► prepared on disk ─► lent ─► fork ─► hello ─► adopted on disk ─► followed, welcome
    exit seen ─► what waits for it answered ─► tree proven gone ─► written down ─► claim renewed,
    or released ─► lenders told

Starts that are wanted in one turn of the loop, and hellos that come in one, share one trip to the
disk. Every `Fork` is answered by exactly one of Forked, ForkFailed and StartRefused; a fork that
failed is proven first.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from protocol import control as c
from protocol.birth import Birth
from protocol.errors import Internal, NoAnswer, NotSubset, PodsupError, UnknownPod
from protocol.manifest import Scheme
from protocol.status import Lane
from protocol.transport import Transport
from protocol.watch import Deliver, Watch
from protocol.wire import pack
from supervisor import broker as b
from supervisor import life_lock
from supervisor.background import Background, say, wall_ms
from supervisor.core import fleet_terms as f
from supervisor.core import stimuli as s
from supervisor.core.descent import exceeds
from supervisor.core.family import givers, line, line_above, parent_of
from supervisor.core.fleet import Fleet, exit_of
from supervisor.core.fleet_record import Exited, Forked
from supervisor.core.life import Phase
from supervisor.core.rows import Adoption, Allocation, Lends
from supervisor.identity import Identity, identity_of
from supervisor.journal import Journal
from supervisor.keys import MISSING, MissingKey
from supervisor.lending import Ask, Lending
from supervisor.logs import tail
from supervisor.paths import Paths
from supervisor.processes import ExitStatus, Processes
from supervisor.scope_table import ScopeTable
from supervisor.starting import Prepared, Starter, Wanted
from supervisor.watcher import Told, Watcher

HELLOS_S = 4.0
LOOK_S = 0.02


@dataclass(slots=True)
class Born:
    """One incarnation from its preparation on; `early_hello` overtook the answer to its fork."""

    prepared: Prepared
    pid: int | None = None
    early_hello: b.HelloAsked | None = None


def only_its_own(
    name: str, incarnation: int, on_told: Callable[[Told], None], warn: Callable[[str], None]
) -> Callable[[Told], None]:
    """Pass on what a pod says of itself; what it says in another's name is nobody's word.

    The first such event of an incarnation is warned of, the others are dropped in silence.
    """
    warned = False

    def hear(told: Told) -> None:
        nonlocal warned
        header = told.header if isinstance(told, Deliver) else None
        if header is None or (header.pod, header.incarnation) == (name, incarnation):
            on_told(told)
        elif not warned:
            warned = True
            warn(
                f"{name} (incarnation {incarnation}) publishes as {header.pod!r} "
                f"(incarnation {header.incarnation}): what it says so is dropped"
            )

    return hear


def _adoption(asked: b.HelloAsked, prepared: Prepared, identity: Identity) -> Adoption:
    """Return the claim of who said hello, on the segment of its session that it has opened."""
    birth, resume = prepared.birth, asked.hello.resume
    is_moved = resume.session_id == birth.session_id and resume.segment_id != birth.segment_id
    segment = {"session_id": birth.session_id, "segment_id": resume.segment_id} if is_moved else {}
    return Adoption(asked.sender.name, prepared.token, identity, **segment)


class PodRunner:
    """The processes of one fleet. `feed` takes stimuli, `out` what the broker returns."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        broker: b.Broker,
        paths: Paths,
        journal: Journal,
        table: ScopeTable,
        starter: Starter,
        transport: Transport,
        background: Background,
        environment: dict[str, str],
        schemes: Sequence[Scheme],
        feed: Callable[[f.Stimulus], None],
        out: Callable[[list[b.Out]], None],
        on_told: Callable[[str, Told], None],
        on_granted: Callable[[str, PodsupError | None], None],
        ask: Ask,
        before_exit: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._fleet = fleet
        self._broker = broker
        self._paths = paths
        self._journal = journal
        self._table = table
        self._starter = starter
        self._transport = transport
        self._background = background
        self._feed = feed
        self._out = out
        self._on_told = on_told
        self._on_granted = on_granted
        self.lending = Lending(fleet, table, background, ask)
        self._before_exit = before_exit
        self._born: dict[str, Born] = {}
        self._pids: dict[int, str] = {}
        self._to_fork: dict[str, int] = {}
        self._forking = False
        self._adopting = False
        self._hellos: list[b.HelloAsked] = []
        self._watches: dict[str, tuple[int, Watcher]] = {}
        self.processes = Processes(
            on_exit=self._on_exit, environment=environment, schemes=schemes, log=say
        )

    # -- starting

    def want(self, pod: str, incarnation: int) -> None:
        """Start an incarnation, together with all others wanted in this turn of the loop."""
        self._to_fork[pod] = incarnation
        if not self._forking:
            self._forking = True
            self._loop.call_soon(lambda: self._background.spawn(self._fork_wanted()))

    async def _fork_wanted(self) -> None:
        """Prepare all that are wanted, then those that came meanwhile, until nobody is."""
        try:
            while self._to_fork:
                wanted, self._to_fork = self._to_fork, {}
                await self._prepare_and_fork(wanted)
        finally:
            self._forking = False

    async def _prepare_and_fork(self, wanted: dict[str, int]) -> None:
        starts = []
        members = self._fleet.members
        for pod in sorted(wanted, key=lambda name: len(list(line_above(members, name)))):
            # Parents first: who was refused is nobody's lender any more.
            if (beyond := self._beyond(pod, parent_of(members, pod))) is None:
                starts.append(self._wanted(pod, wanted[pod]))
            else:
                self._refuse(pod, wanted[pod], beyond)
        fleet = [member.manifest for member in members.values()]
        try:
            outcomes = await self._background.on_disk(self._starter.prepare, starts, fleet)
        except Exception as error:
            failed = Internal(f"cannot prepare a start: {error}")
            for one in starts:
                self._fail(one.manifest.name, one.incarnation, failed)
            return
        for one, outcome in zip(starts, outcomes, strict=True):
            if isinstance(outcome, PodsupError):
                self._refuse(one.manifest.name, one.incarnation, outcome)
            elif outcome.lender is None and not outcome.wanted.newborn:
                self._on_granted(outcome.name, None)
                self._background.spawn(self._fork(outcome))
            else:
                self._background.spawn(self._lend_and_fork(outcome))

    def _wanted(self, pod: str, incarnation: int) -> Wanted:
        member = self._fleet.members[pod]
        return Wanted(
            member.manifest,
            incarnation,
            parent=member.parent,
            line=line(self._fleet.members, pod),
            newborn=member.newborn and member.parent is not None,
            spawned=member.spawned,
        )

    def _beyond(self, pod: str, lender: str | None) -> PodsupError | None:
        """Judge a child again: what its parent may give may be less than when it was spawned.

        Its parent judges it also where that is down, and all others up to who lends in its place.
        """
        members, places = self._fleet.members, self._journal.record.places
        for giver in givers(members, pod, lender):
            if beyond := exceeds(giver.manifest, members[pod].manifest, places=places):
                return NotSubset(
                    f"{giver.name!r} may not give {pod!r} so much any more: {'; '.join(beyond)}",
                    next_step=f"widen what {giver.name} may give in the fleet file, "
                    f"or podsup delete {pod}",
                    beyond=beyond,
                )
        return None

    def _fail(self, pod: str, incarnation: int, error: PodsupError) -> None:
        """Have the policy judge a start that failed; a pod that never was is not tried again."""
        if self._fleet.members[pod].newborn:
            self._refuse(pod, incarnation, error)
        else:
            self._feed(f.PodStimulus(pod, s.ForkFailed(incarnation, str(error))))

    def _refuse(self, pod: str, incarnation: int, error: PodsupError) -> None:
        self._on_granted(pod, error)
        cause = MISSING if isinstance(error, MissingKey) else error.code
        refused = s.StartRefused(incarnation, cause, str(error))
        self._feed(f.Refused(pod, refused, error.details))

    async def _lend_and_fork(self, prepared: Prepared) -> None:
        """Have those agree who could write there until now; else nothing was reserved.

        Who lends is judged by now, too: it may be another one than was thought.
        """
        pod = prepared.name
        refusal = self._beyond(pod, prepared.lender)
        try:
            if refusal is None and prepared.lenders:
                await self._wait_for_hellos(prepared.lenders)
                member = self._fleet.members[pod]
                whose = {member.parent} if member.stop_jobs else set()
                refusal = await self.lending.lend(pod, prepared.lenders, stop_jobs_of=whose)
            if refusal is None and prepared.wanted.newborn:
                await self._background.on_disk(self._starter.note_granted, pod)
        except Exception as error:  # whatever it is: the lock must not stay with us
            refusal = Internal(f"the lend failed: {type(error).__name__}: {error}")
        if refusal is None:
            self._on_granted(pod, None)
            await self._fork(prepared)
            return
        prepared.close()
        await self._background.on_disk(self._give_up, pod, prepared.token)
        await self.lending.give_back(self._above(pod))
        if isinstance(refusal, NoAnswer):
            self._fail(pod, prepared.incarnation, refusal)
        else:
            self._refuse(pod, prepared.incarnation, refusal)

    async def _wait_for_hellos(self, lenders: Iterable[str]) -> None:
        """Wait, for a while, until lenders that are on their way up can be asked."""
        members = self._fleet.members
        end = self._loop.time() + HELLOS_S
        while self._loop.time() < end and any(
            one in members and members[one].life.phase in (Phase.FORKING, Phase.JOINING)
            for one in lenders
        ):
            await asyncio.sleep(LOOK_S)

    async def _fork(self, prepared: Prepared) -> None:
        name, incarnation = prepared.name, prepared.incarnation
        born = self._born[name] = Born(prepared)
        self._broker.trust_pod(name, incarnation, prepared.token)
        try:
            process = await self.processes.fork(
                pack(prepared.birth), prepared.log_fd, prepared.lock_fd
            )
        except (PodsupError, OSError) as error:
            prepared.close()
            await self.processes.end_all_strays()
            self._feed(f.PodStimulus(name, s.ForkFailed(incarnation, str(error))))
            return
        finally:
            prepared.close_log()
        self._pids[process.pid] = name
        born.pid = process.pid
        self._feed(f.PodStimulus(name, s.Forked(incarnation, process.pid)))
        if born.early_hello is not None:
            self.on_hello(born.early_hello)

    def on_hello(self, asked: b.HelloAsked) -> None:
        """Adopt it with the others of this moment.

        One that overtook its fork's answer waits for it.
        """
        born = self._born.get(asked.sender.name)
        if born is not None and born.pid is None:
            born.early_hello = asked
            return
        self._hellos.append(asked)
        if not self._adopting:
            self._adopting = True
            self._background.spawn(self._adopt_all())

    def token_of(self, name: str, incarnation: int) -> str:
        """Return the token of a living incarnation, for the scope table; raises UnknownPod."""
        born = self._born.get(name)
        if born is None or born.prepared.incarnation != incarnation:
            raise UnknownPod(f"pod {name} has no incarnation {incarnation} now", pod=name)
        return born.prepared.token

    async def _adopt_all(self) -> None:
        try:
            while self._hellos:
                hellos, self._hellos = self._hellos, []
                await self._adopt(hellos)
        finally:
            self._adopting = False

    async def _adopt(self, hellos: list[b.HelloAsked]) -> None:
        outcomes: list[Lends | PodsupError]
        try:
            outcomes = await self._background.on_disk(self._adopt_on_disk, hellos)
        except (OSError, PodsupError) as error:
            failed = Internal(f"the adoption could not be written: {error}")
            outcomes = [failed for _ in hellos]
        for asked, outcome in zip(hellos, outcomes, strict=True):
            born = self._born.get(asked.sender.name)
            if isinstance(outcome, PodsupError):
                say(f"{asked.sender.name}: hello refused: {outcome}")
                self._out([self._broker.refuse(asked.route, asked.request_id, outcome)])
            elif born is not None and self._is_alive(born, asked):
                self._welcome(asked, born, outcome)

    def _is_alive(self, born: Born, asked: b.HelloAsked) -> bool:
        """Whether the process that said hello is still the pod's: it may have died meanwhile."""
        same = born.prepared.incarnation == asked.hello.incarnation
        return same and born.pid is not None and born.pid in self._pids

    def _welcome(self, asked: b.HelloAsked, born: Born, lends: Lends) -> None:
        name, birth = asked.sender.name, born.prepared.birth
        born.prepared.close_lock()
        self._broker.bind(asked.route, asked.sender)
        self._follow(name, birth)
        welcome = c.Welcome(lent=lends.lent, number=lends.number)
        self._out([self._broker.reply(asked.route, asked.request_id, welcome)])
        # Where it publishes is what it was told at birth, whatever it says.
        hello = asked.hello.model_copy(update={"endpoint": birth.events_endpoint})
        self._feed(f.Hello(name, hello, (birth.session_id, birth.segment_id)))

    def _adopt_on_disk(self, hellos: list[b.HelloAsked]) -> list[Lends | PodsupError]:
        adoptions: list[Adoption] = []
        forked: list[Forked] = []
        outcomes: list[Lends | PodsupError] = []
        for asked in hellos:
            name, born = asked.sender.name, self._born.get(asked.sender.name)
            identity = identity_of(born.pid) if born and born.pid else None
            if born is None or identity is None:
                outcomes.append(Internal("the pod that said hello is gone"))
                continue
            outcomes.append(Lends())
            adoptions.append(_adoption(asked, born.prepared, identity))
            incarnation = asked.hello.incarnation
            forked.append(Forked(pod=name, incarnation=incarnation, identity=identity))
        rows = self._table.adopt_many(adoptions)
        self._journal.append(*forked)
        adopted = [row for row in rows if isinstance(row, Allocation)]
        lent = self._table.lends([row.pod for row in adopted if row.lend_number])
        remaining = iter(rows)
        for index, outcome in enumerate(outcomes):
            if not isinstance(outcome, PodsupError):
                row = next(remaining)
                known = row if isinstance(row, PodsupError) else lent.get(row.pod, Lends())
                outcomes[index] = known
        return outcomes

    # -- watching

    def _follow(self, name: str, birth: Birth) -> None:
        known = self._watches.get(name)
        if known is not None and known[0] == birth.incarnation:
            return  # hello again: a second watch would hear, and pass on, everything twice
        self._unfollow(name)
        watcher = Watcher(
            self._transport,
            birth.events_endpoint,
            Watch(lambda: secrets.token_hex(8), (Lane.STATE,), complete=True),
            on_told=only_its_own(name, birth.incarnation, partial(self._on_told, name), say),
            clock=time.monotonic,
        )
        self._watches[name] = (birth.incarnation, watcher)

    def _unfollow(self, name: str) -> None:
        if (watched := self._watches.pop(name, None)) is not None:
            watched[1].drain()
            watched[1].close()

    def drain_and_tick(self) -> None:
        """Take what the pods have published; ask again where something is missing."""
        for _, watch in list(self._watches.values()):
            watch.drain()
            watch.tick()

    # -- ending

    def _on_exit(self, pid: int, status: ExitStatus) -> None:
        name = self._pids.pop(pid, None)
        if name is None or name not in self._fleet.members:
            return
        incarnation = self._fleet.members[name].life.incarnation
        if (watched := self._watches.get(name)) is not None:
            watched[1].drain()
        self._before_exit()
        last = "" if status.code == 0 else tail(self._paths.log(name, incarnation))
        exited = exit_of(status.code, status.signal, last)
        self._feed(f.PodStimulus(name, s.Exited(incarnation, exited)))
        # After the exit: a task that dies unanswered with its pod is not one it has refused.
        self._out(self._broker.drop_pod(name))

    async def end_tree(self, name: str, incarnation: int) -> None:
        """Prove that nothing of a dead pod is left, write it down, and say so."""
        pid = None
        if (born := self._born.get(name)) is not None:
            born.prepared.close_lock()
            pid = born.pid
        lock = self._table.life_lock(name, incarnation)
        await self.processes.end_tree(pid or 0, lambda: life_lock.is_free(lock) is not False)
        self._unfollow(name)
        fleet = self._fleet.name
        self._paths.pod_socket(fleet, name, incarnation).unlink(missing_ok=True)
        member = self._fleet.members.get(name)
        last = member.life.last_exit if member else None
        record = Exited(
            pod=name,
            incarnation=incarnation,
            cause=last.cause if last else "",
            code=last.code if last else None,
            signal=last.signal if last else None,
            at=wall_ms(),
        )
        # Not awaited: the disk keeps its order, so this is written before the next intent.
        self._background.spawn(self._background.on_disk(self._journal.note, record))
        self._feed(f.PodStimulus(name, s.TreeGone(incarnation)))

    async def release(self, name: str) -> None:
        """Give a claim back and tell those it was lent from; then say so."""
        above = self._above(name)
        born = self._born.get(name)
        try:
            if born is not None:
                await self._background.on_disk(self._give_up, name, born.prepared.token)
                await self.lending.give_back(above)
        finally:
            self._feed(f.Released(name))

    def _above(self, name: str) -> list[str]:
        members = self._fleet.members
        return [member.name for member in line_above(members, name)] if name in members else []

    def _give_up(self, name: str, token: str) -> None:
        """Give a claim back; blocks."""
        try:
            self._table.release(name, token)
        except (PodsupError, OSError) as error:
            say(f"alert: {name}: its claim was not released: {error}")

    def close(self) -> None:
        """Follow nobody any more and end the fork server; the pods must be gone."""
        for name in list(self._watches):
            self._unfollow(name)
        self.processes.close()
