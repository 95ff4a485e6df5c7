"""What a fleet's journal says, folded: the state that a supervisor leaves behind for the next one.

A journal is a list of facts, each written before anybody acts on it. An `Intent` comes before the
fork, so that there is no process nobody knows of; `Forked` says which process it became; `Exited`
that it is no more. What counts is each pod's latest incarnation: a `Forked` or `Exited` that comes
late for an older one does not touch it.

    fold(records) -> FleetRecord        what is true now
    snapshot(record) -> records         the shortest journal that says the same

Folding never fails. A fact about a pod that is not known is dropped: the journal must not be what
keeps a fleet from being ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal, TypeAlias, assert_never

from protocol.base import Wire
from protocol.manifest import PodManifest
from protocol.pod_events import PodEvent
from supervisor.core.operator_settings import OperatorSettings
from supervisor.identity import Identity

CONTROLS_KEPT = 256
"""How many answers are remembered for clients that ask again with the same id."""

Wish: TypeAlias = Literal["up", "down"]
"""What somebody wants a pod to be."""


class FleetStarted(Wire):
    """A supervisor has taken the fleet; `epoch` is its number, each higher than the one before."""

    kind: Literal["fleet_started"] = "fleet_started"
    fleet: str
    workspace: str
    supervisor: Identity
    epoch: int


class SettingsFixed(Wire):
    """What the operator's files said when the fleet was started; `pods` are those of its file."""

    kind: Literal["settings_fixed"] = "settings_fixed"
    settings: OperatorSettings
    pods: tuple[PodManifest, ...] = ()


class PlacesGiven(Wire):
    """Where the models of a child are that the operator spawned, saying so at that moment."""

    kind: Literal["places_given"] = "places_given"
    places: tuple[dict[str, Any], ...]


class Spawned(Wire):
    """A pod that belongs to the fleet without standing in its file: it may write, too."""

    kind: Literal["spawned"] = "spawned"
    pod: PodManifest


class Intent(Wire):
    """An incarnation is about to be forked; `life_lock` is the path of its lock, taken already."""

    kind: Literal["intent"] = "intent"
    pod: str
    pod_id: str
    incarnation: int
    token: str
    life_lock: str
    session_id: str | None = None
    segment_id: str | None = None


class Forked(Wire):
    """The process that an incarnation became."""

    kind: Literal["forked"] = "forked"
    pod: str
    incarnation: int
    identity: Identity


class Exited(Wire):
    """The process of an incarnation is gone, or never came to be; `at` in epoch milliseconds."""

    kind: Literal["exited"] = "exited"
    pod: str
    incarnation: int
    cause: str
    code: int | None = None
    signal: str | None = None
    at: int


class Desired(Wire):
    """What somebody wants of a pod from now on."""

    kind: Literal["desired"] = "desired"
    pod: str
    desired: Wish


class ControlDone(Wire):
    """The answer that a control with this id was given, to be given again and not done again."""

    kind: Literal["control_done"] = "control_done"
    id: str
    method: str
    reply: dict[str, Any]


class Deleted(Wire):
    """The pod is forgotten."""

    kind: Literal["deleted"] = "deleted"
    pod: str


class Reported(Wire):
    """A parent is to be told this of a child; `while_away`: it came while it was at rest."""

    kind: Literal["reported"] = "reported"
    parent: str
    event_id: str
    event: PodEvent
    while_away: bool = False


class Told(Wire):
    """These reports were taken, or need not be told any more."""

    kind: Literal["told"] = "told"
    parent: str
    event_ids: tuple[str, ...]


class FleetDown(Wire):
    """The fleet was ended on purpose; nothing of it is left."""

    kind: Literal["fleet_down"] = "fleet_down"


Record: TypeAlias = (
    FleetStarted
    | SettingsFixed
    | PlacesGiven
    | Spawned
    | Intent
    | Forked
    | Exited
    | Desired
    | ControlDone
    | Deleted
    | Reported
    | Told
    | FleetDown
)

KINDS: Mapping[str, type[Record]] = {
    "fleet_started": FleetStarted,
    "settings_fixed": SettingsFixed,
    "places_given": PlacesGiven,
    "spawned": Spawned,
    "intent": Intent,
    "forked": Forked,
    "exited": Exited,
    "desired": Desired,
    "control_done": ControlDone,
    "deleted": Deleted,
    "reported": Reported,
    "told": Told,
    "fleet_down": FleetDown,
}
"""The class of each kind of record."""


@dataclass(frozen=True, slots=True)
class PodRecord:
    """The latest known of one pod; `identity` is that of the latest incarnation, once forked."""

    name: str
    desired: Wish = "up"
    intent: Intent | None = None
    identity: Identity | None = None
    last_exit: Exited | None = None

    @property
    def incarnation(self) -> int:
        """The number of the latest incarnation; 0 when none was ever intended."""
        return 0 if self.intent is None else self.intent.incarnation

    @property
    def ended(self) -> Exited | None:
        """How the latest incarnation ended; None while it may live."""
        last = self.last_exit
        return last if last is not None and last.incarnation == self.incarnation else None


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """What a journal says; `supervisor` and `fixed` are None before the first start.

    `spawned` are the pods since the last start that do not stand in the file, deleted ones, too.
    """

    fleet: str = ""
    workspace: str = ""
    epoch: int = 0
    supervisor: Identity | None = None
    fixed: SettingsFixed | None = None
    given: tuple[dict[str, Any], ...] = ()
    spawned: tuple[PodManifest, ...] = ()
    is_down: bool = False
    pods: Mapping[str, PodRecord] = field(default_factory=dict)
    controls: Mapping[str, ControlDone] = field(default_factory=dict)
    reports: Mapping[tuple[str, str], Reported] = field(default_factory=dict)

    @property
    def settings(self) -> OperatorSettings:
        """What the operator's files said at the last start."""
        return OperatorSettings() if self.fixed is None else self.fixed.settings

    @property
    def writers(self) -> tuple[PodManifest, ...]:
        """Every pod that may have written something since the last start.

        A child that a pod spawned is not among them: it may write what its parent may lend.
        """
        return (*(() if self.fixed is None else self.fixed.pods), *self.spawned)

    @property
    def places(self) -> tuple[dict[str, Any], ...]:
        """Every table in which the operator said where a model is."""
        return (*self.settings.model_tables(), *self.given)


def fold(records: Iterable[Record], before: FleetRecord | None = None) -> FleetRecord:
    """Return what is true after the records, from the beginning or from an earlier result on."""
    return reduce(_after, records, before or FleetRecord())


def snapshot(fleet: FleetRecord) -> list[Record]:
    """Return the records that fold to this, without history."""
    records: list[Record] = []
    if fleet.supervisor is not None:
        records.append(
            FleetStarted(
                fleet=fleet.fleet,
                workspace=fleet.workspace,
                supervisor=fleet.supervisor,
                epoch=fleet.epoch,
            )
        )
    if fleet.fixed is not None:
        records.append(fleet.fixed)
    if fleet.given:
        records.append(PlacesGiven(places=fleet.given))
    records += (Spawned(pod=pod) for pod in fleet.spawned)
    for pod in fleet.pods.values():
        records.append(Desired(pod=pod.name, desired=pod.desired))
        if pod.intent is not None:
            records.append(pod.intent)
        if pod.identity is not None:
            records.append(Forked(pod=pod.name, incarnation=pod.incarnation, identity=pod.identity))
        if pod.last_exit is not None:
            records.append(pod.last_exit)
    records += fleet.controls.values()
    records += fleet.reports.values()
    if fleet.is_down:
        records.append(FleetDown())
    return records


def _after(fleet: FleetRecord, record: Record) -> FleetRecord:
    match record:
        case FleetStarted():
            return replace(
                fleet,
                fleet=record.fleet,
                workspace=record.workspace,
                supervisor=record.supervisor,
                epoch=record.epoch,
                is_down=False,
            )
        case SettingsFixed():
            return replace(fleet, fixed=record, spawned=())
        case PlacesGiven():
            new = tuple(place for place in record.places if place not in fleet.given)
            return replace(fleet, given=(*fleet.given, *new))
        case Spawned():
            others = (pod for pod in fleet.spawned if pod != record.pod)
            return replace(fleet, spawned=(*others, record.pod))
        case Intent():
            pod = fleet.pods.get(record.pod, PodRecord(record.pod))
            return _with(fleet, replace(pod, intent=record, identity=None))
        case Forked():
            known = fleet.pods.get(record.pod)
            if known is None or known.incarnation != record.incarnation:
                return fleet
            return _with(fleet, replace(known, identity=record.identity))
        case Exited():
            known = fleet.pods.get(record.pod)
            if known is None or _is_older(record, known.last_exit):
                return fleet
            return _with(fleet, replace(known, last_exit=record))
        case Desired():
            pod = fleet.pods.get(record.pod, PodRecord(record.pod))
            return _with(fleet, replace(pod, desired=record.desired))
        case ControlDone():
            controls = {id: done for id, done in fleet.controls.items() if id != record.id}
            controls[record.id] = record
            newest = list(controls.items())[-CONTROLS_KEPT:]
            return replace(fleet, controls=dict(newest))
        case Deleted():
            pods = {name: pod for name, pod in fleet.pods.items() if name != record.pod}
            return replace(fleet, pods=pods)
        case Reported():
            return replace(
                fleet, reports={**fleet.reports, (record.parent, record.event_id): record}
            )
        case Told():
            told = {(record.parent, event_id) for event_id in record.event_ids}
            left = {key: one for key, one in fleet.reports.items() if key not in told}
            return replace(fleet, reports=left)
        case FleetDown():
            return replace(fleet, is_down=True)
        case _:
            assert_never(record)


def _with(fleet: FleetRecord, pod: PodRecord) -> FleetRecord:
    return replace(fleet, pods={**fleet.pods, pod.name: pod})


def _is_older(exit: Exited, than: Exited | None) -> bool:
    return than is not None and exit.incarnation < than.incarnation
