"""All a pod is told at birth, and the tables an operator writes to say it.

The same settings appear in two forms. *As written*, in a fleet file, a profile or the user's
config: any key may be missing, paths are as people type them, a model may point to a script.
*Resolved*, in a `PodManifest`: every key has its value, every path is absolute and every scope
target canonical, the script has become its answers. Most sections are alike in both and stand here
once; `ModelTable` and `ScopeTable` are the written forms of `Model` and `Scope`.

    Settings ── what both forms share
     ├─ Profile ── as written, without a name ── PodTable ── with a name and a profile to lie on
     └─ PodManifest ── resolved; what is stored, compared and sent to the pod

Unknown keys are refused everywhere, and so are values that only look right (`"40"` for 40, 1 for
true): a file in which a typing mistake is silently a default is worse than one that does not load.

Sections of features that are not built yet are here in full and validate like the others;
`unavailable` names the keys that would turn one of them on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, JsonValue, Strict

from protocol.base import Wire
from protocol.names import POD_NAME, is_pod_name
from protocol.scope import Scope, ScopeRule

_SIZE = re.compile(r"(\d+) ?(?:([KMGT]i?)?B?)", re.IGNORECASE)


def _size_in_bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if (found := _SIZE.fullmatch(value.strip())) is None:
        raise ValueError("should be a number of bytes, such as 65536 or '64KiB'")
    number, unit = int(found[1]), (found[2] or "").lower()
    return number * (1024 if unit.endswith("i") else 1000) ** " kmgt".index(unit[:1] or " ")


def _regular_expression(value: str) -> str:
    try:
        re.compile(value, re.MULTILINE)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return value


def _not_reserved(value: str) -> str:
    if not is_pod_name(value):
        raise ValueError(f"'{value}' is a reserved name")
    return value


def _model_name(value: str) -> str:
    scheme, colon, model_id = value.partition(":")
    known = [one.value for one in Scheme]
    if not colon or not model_id or scheme not in known:
        raise ValueError(f"should be 'scheme:model id' with a scheme of {', '.join(known)}")
    return value


Name = Annotated[str, Field(pattern=f"^{POD_NAME}$"), AfterValidator(_not_reserved)]
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]
Positive = Annotated[int, Strict(), Field(ge=1)]
Number = Annotated[float, Strict(), Field(ge=0)]
Seconds = Annotated[float, Strict(), Field(ge=0)]
Fraction = Annotated[float, Strict(), Field(gt=0, le=1)]
Size = Annotated[
    int, Strict(), BeforeValidator(_size_in_bytes, json_schema_input_type=int | str), Field(ge=0)
]
Pattern = Annotated[str, AfterValidator(_regular_expression)]
Text = Annotated[str, Field(min_length=1)]
ModelName = Annotated[str, AfterValidator(_model_name)]
"""A model as `scheme:model id`."""


class Section(Wire):
    """A table of a manifest: frozen, and a key it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid")


# ---- the model -----------------------------------------------------------------------------------


class Scheme(StrEnum):
    """Which adapter speaks to the model."""

    SCRIPTED = "scripted"
    ANTHROPIC = "anthropic"
    OPENAI_CHAT = "openai_chat"
    OPENAI_RESPONSES = "openai_responses"
    GEMINI = "gemini"


_KEY_ENV = {
    Scheme.ANTHROPIC: "ANTHROPIC_API_KEY",
    Scheme.OPENAI_CHAT: "OPENAI_API_KEY",
    Scheme.OPENAI_RESPONSES: "OPENAI_API_KEY",
    Scheme.GEMINI: "GEMINI_API_KEY",
}


class OnExhausted(StrEnum):
    """What a scripted model does when no answer fits."""

    ECHO = "echo"
    ERROR = "error"
    REPEAT_LAST = "repeat_last"


class StopReason(StrEnum):
    """Why a scripted answer says that it ends."""

    END_TURN = "end_turn"
    TOOL_USE = "tool_use"
    MAX_TOKENS = "max_tokens"
    REFUSAL = "refusal"


class ScriptedCall(Section):
    """A tool call of a scripted answer."""

    name: Text
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class ScriptedUsage(Section):
    """The token counts a scripted answer reports."""

    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    reasoning_tokens: Count = 0


class ScriptedFailure(Section):
    """A refusal before the first event, as an HTTP status."""

    status: Annotated[int, Strict(), Field(ge=400, le=599)] = 500
    retry_after_s: Seconds | None = None
    message: str = "scripted failure"


class ScriptedAnswer(Section):
    """One answer of a scripted model, and the ways in which it goes wrong.

    `match` is searched in the request's new input; without it the answer fits any. `fail` comes
    before the first event, `fail_times` times (None: always). `cut_after` counts characters of the
    whole answer.
    """

    match: Pattern | None = None
    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ScriptedCall, ...] = ()
    usage: ScriptedUsage | None = None
    repeat: Flag = False
    delay_ms: Count = 0
    chunk: Positive = 16
    fail: ScriptedFailure | None = None
    fail_times: Positive | None = None
    cut_after: Count | None = None
    no_terminal_event: Flag = False
    hang_s: Seconds = 0
    stop_reason: StopReason | None = None


class Script(Section):
    """What a scripted model plays; a script file is exactly this table."""

    on_exhausted: OnExhausted = OnExhausted.ECHO
    chars_per_s: Number = 0
    answers: tuple[ScriptedAnswer, ...] = ()


class Price(Section):
    """USD per million tokens, over what the price list says."""

    input: Number = 0
    output: Number = 0
    cache_read: Number = 0
    cache_write: Number = 0


class Model(Script):
    """Which model answers, and how it is reached. The key itself is never here."""

    scheme: Scheme = Scheme.SCRIPTED
    ref: Text | None = None
    model_id: Text = "scripted"
    base_url: Text | None = None
    api_key_env: Text | None = None
    api_key_file: Text | None = None
    context_window: Positive | None = None
    price: Price | None = None

    @property
    def key_variable(self) -> str | None:
        """The environment variable that holds the key; None where a file does or none is needed."""
        return None if self.api_key_file else self.api_key_env or _KEY_ENV.get(self.scheme)

    @property
    def name(self) -> str:
        """The model as `delegation_models` names it."""
        return f"{self.scheme}:{self.model_id}"


class ModelTable(Model):
    """A model as written: answers inline, or the name of a script file that has them."""

    script: Text | None = None


# ---- the engine ----------------------------------------------------------------------------------


class Reasoning(StrEnum):
    """How much a model may think before it answers."""

    OFF = "off"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Timeouts(Section):
    """How long a request may be silent, in seconds; `run_s` None means no limit on a whole run."""

    headers_s: Seconds = 20
    first_event_s: Seconds = 30
    idle_s: Seconds = 60
    run_s: Seconds | None = None


class Retry(Section):
    """How a request that failed before its first event is tried again."""

    attempts: Positive = 4
    base_s: Seconds = 0.5
    cap_s: Seconds = 10
    total_s: Seconds = 40


class Engine(Section):
    """How a run is driven. `max_turns` is per run, `tool_output` the bytes kept of one result."""

    instruction: str | None = None
    max_tokens: Positive = 8192
    max_turns: Positive = 200
    temperature: Number | None = None
    reasoning: Reasoning | None = None
    language: Text | None = None
    tool_output: Size = 64 * 1024
    max_parallel_tools: Positive = 8
    max_continuations: Count = 3
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()


class Compaction(Section):
    """When history is summarised, as fractions of the context window, and what is kept."""

    auto: Flag = True
    threshold: Fraction = 0.75
    request_threshold: Fraction = 0.9
    tail_tokens: Count = 8000
    must_read_tokens: Count = 16000
    model: Model | None = None


# ---- authority -----------------------------------------------------------------------------------


class RuleTable(ScopeRule):
    """A scope rule as written: its target may be relative to the workspace."""

    model_config = ConfigDict(extra="forbid")

    target: Text
    recursive: Flag = True


class ScopeTable(Section):
    """A scope as written."""

    allow: tuple[RuleTable, ...] = ()
    deny: tuple[RuleTable, ...] = ()


class DelegationTable(ScopeTable):
    """What a pod may lend, as written."""

    override_denies: Flag = False


class Delegation(Scope):
    """What a pod may lend.

    The denies of its own scope bind those below it too. `override_denies` frees them of its write
    denies; only an operator says so.
    """

    override_denies: bool = False


class Action(StrEnum):
    """What the permission policy says about a tool call."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


class PermissionRule(Section):
    """One line of the policy: the tool's name, and a glob over what it is called with."""

    tool: Text
    pattern: str = "*"
    action: Action


class Permissions(Section):
    """The policy on tool calls; the first rule that matches decides, else the default."""

    default_action: Action = Action.ALLOW
    rule: tuple[PermissionRule, ...] = ()


class SandboxMode(StrEnum):
    """What to do where commands cannot be caged."""

    REQUIRE = "require"
    PREFER = "prefer"
    OFF = "off"


class SandboxLevel(StrEnum):
    """How strong a cage is, weakest first."""

    LANDLOCK = "landlock"
    NAMESPACES = "namespaces"


class Sandbox(Section):
    """The cage of a pod's commands; `level` is the least that `require` accepts.

    `network`, `extra_read`, `extra_write` and `unix_sockets` open what is closed otherwise.
    """

    mode: SandboxMode = SandboxMode.PREFER
    level: SandboxLevel = SandboxLevel.LANDLOCK
    network: Flag = False
    extra_read: tuple[Text, ...] = ()
    extra_write: tuple[Text, ...] = ()
    unix_sockets: Flag = False


class Budget(Section):
    """What a pod and all below it may use; None is no bound."""

    usd: Number | None = None
    tokens: Count | None = None
    turns: Count | None = None
    tool_calls: Count | None = None
    wall_s: Seconds | None = None
    children: Count | None = None
    depth: Count | None = None


class RunBounds(Section):
    """How often a pod may run without a person's input, within a minute and within an hour."""

    per_minute: Positive = 30
    per_hour: Positive = 200


class Limits(Section):
    """What the kernel lets a pod and its tree use; sizes in bytes, None is no bound."""

    memory: Size | None = None
    file_size: Size | None = None
    open_files: Positive | None = None
    processes: Positive | None = None
    cpu_s: Positive | None = None
    nice: Annotated[int, Strict(), Field(ge=0, le=19)] | None = None
    oom_score_adj: Annotated[int, Strict(), Field(ge=0, le=1000)] | None = None


# ---- features ------------------------------------------------------------------------------------


class TicketAccess(StrEnum):
    """What the tickets feature may do with tickets."""

    READ_ONLY = "read_only"
    LIFECYCLE = "lifecycle"


class Tickets(Section):
    """Tickets of the tree that is checked out; `access` counts only when enabled."""

    enabled: Flag = False
    access: TicketAccess = TicketAccess.READ_ONLY


class Feature(Section):
    """What a pod has besides the core tools."""

    pods: Flag = False
    tasks: Flag = False
    tickets: Tickets = Tickets()
    ticket_orchestration: Flag = False
    memory: Flag = False
    web: Flag = False
    skills: Flag = False
    plugins: Flag = False


class McpServer(Section):
    """A tool server, started as a command or reached at an address."""

    command: Text | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    cwd: Text | None = None
    url: Text | None = None
    headers: dict[str, str] = Field(default_factory=dict)


class Mcp(Section):
    """Tool servers; `trust` also takes those that the workspace itself names."""

    servers: dict[str, McpServer] = Field(default_factory=dict)
    trust: Flag = False


class Memory(Section):
    """The jobs after a run that extract and consolidate what is worth keeping."""

    extract: Flag = True
    consolidate: Flag = True
    model: Model | None = None


class Web(Section):
    """What WebFetch and WebSearch may reach."""

    allow_hosts: tuple[Text, ...] = ()
    deny_hosts: tuple[Text, ...] = ()
    max_bytes: Size = 2 * 1024 * 1024
    search_url: Text | None = None
    search_key_env: Text | None = None


class HookPoint(StrEnum):
    """Where a hook is called."""

    BEFORE_TOOL = "before_tool"
    AFTER_TOOL = "after_tool"
    BEFORE_REQUEST = "before_request"
    RUN_END = "run_end"


class Hook(Section):
    """Something to call at a point of the run: a command, or a Python entry point."""

    at: HookPoint
    command: tuple[Text, ...] = ()
    entry_point: Text | None = None
    timeout_s: Seconds = 30


class Logs(Section):
    """The log file of a pod's stdout and stderr: how large it grows, how many are kept."""

    size: Size = 8 * 1024 * 1024
    keep: Positive = 5


# ---- a pod ---------------------------------------------------------------------------------------


class Restart(StrEnum):
    """When a pod that ended is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Until(StrEnum):
    """How far another pod must be before a dependent one starts."""

    STARTED = "started"
    READY = "ready"
    IDLE = "idle"
    COMPLETED = "completed"


class Dependency(Section):
    """Another pod of the fleet, and how far it must be."""

    pod: Name
    until: Until = Until.READY


class OnParentExit(StrEnum):
    """What becomes of a child whose parent is gone."""

    KEEP = "keep"
    STOP = "stop"


class Settings(Section):
    """What a manifest says in the same words whether written or resolved.

    `delegation_models` are those that the pod may name for a child; None: its own alone.
    """

    description: str = ""
    role: Text | None = None
    task: Text | None = None
    restart: Restart = Restart.ON_FAILURE
    success_codes: tuple[Whole, ...] = (0,)
    essential: Flag = False
    depends_on: tuple[Dependency, ...] = ()
    on_parent_exit: OnParentExit = OnParentExit.KEEP
    engine: Engine = Engine()
    permissions: Permissions = Permissions()
    sandbox: Sandbox = Sandbox()
    compaction: Compaction = Compaction()
    delegation_models: tuple[ModelName, ...] | None = None
    budget: Budget = Budget()
    feature: Feature = Feature()
    mcp: Mcp = Mcp()
    memory: Memory | None = None
    web: Web | None = None
    hooks: tuple[Hook, ...] = ()
    plugins: tuple[Text, ...] = ()
    limits: Limits = Limits()
    logs: Logs = Logs()
    stop_grace_s: Seconds = 5
    supervisor_wait_s: Seconds = 300


class Profile(Settings):
    """A manifest without a name, as written: a profile's file, or the `[defaults]` of a file."""

    workspace: Text | None = None
    cwd: Text | None = None
    model: ModelTable = ModelTable()
    scope: ScopeTable = ScopeTable()
    delegation_scope: DelegationTable = DelegationTable()
    stall_timeout_s: Seconds | None = None
    hang_timeout_s: Seconds | None = None


class PodTable(Profile):
    """One `[[pod]]` of a fleet file, as written."""

    name: Name
    profile: Text | None = None


class PodManifest(Settings):
    """All one pod is told at birth: paths absolute, scope targets canonical, nothing left open.

    `beat_interval_s`, `stall_timeout_s` and `hang_timeout_s` are the supervisor's where the pod has
    no own; 0 switches the latter two off. `max_notification_runs` is always the supervisor's.
    """

    name: Name
    fleet: Name
    workspace: str
    cwd: str
    model: Model = Model()
    scope: Scope = Scope()
    delegation_scope: Delegation = Delegation()
    beat_interval_s: Seconds = 1
    stall_timeout_s: Seconds = 0
    hang_timeout_s: Seconds = 60
    max_notification_runs: RunBounds = RunBounds()


# ---- the fleet file ------------------------------------------------------------------------------


class FleetTable(Section):
    """`[fleet]`: the name defaults to that of the workspace's folder."""

    name: Name | None = None
    workspace: Text = "."


class OrphanPolicy(StrEnum):
    """What pods do when their supervisor is gone."""

    ADOPT = "adopt"
    STOP = "stop"


class SupervisorTable(Section):
    """`[supervisor]`: how pods are watched, in seconds; 0 switches a timeout off.

    The caps say how many spawned pods may be alive below one pod and below one top-level pod, how
    many generations there may be, and how often a pod may run without a person's input.
    """

    beat_interval_s: Annotated[float, Strict(), Field(ge=0.05)] = 1
    unreachable_after_s: Seconds = 10
    hang_timeout_s: Seconds = 60
    stall_timeout_s: Seconds = 0
    orphan_policy: OrphanPolicy = OrphanPolicy.ADOPT
    budget: Budget = Budget()
    max_children: Positive = 16
    max_tree: Positive = 64
    max_depth: Positive = 4
    max_notification_runs: RunBounds = RunBounds()


class FleetFile(Section):
    """A whole fleet file, as written."""

    fleet: FleetTable = FleetTable()
    supervisor: SupervisorTable = SupervisorTable()
    defaults: Profile = Profile()
    pod: tuple[PodTable, ...] = ()


class UserConfig(Section):
    """The user's own config file: what lies under every fleet."""

    defaults: Profile = Profile()


# ---- what is not there yet -----------------------------------------------------------------------

_NOT_BUILT = "not available in this version"
_FEATURES = ("ticket_orchestration", "memory", "web", "skills", "plugins")


def unavailable(manifest: PodManifest) -> list[str]:
    """Return `<key>: not available in this version` for each key that turns such a thing on."""
    return [f"{key}: {_NOT_BUILT}{why}" for key, why in _turned_on(manifest)]


def unavailable_in_supervisor(table: SupervisorTable) -> list[str]:
    """Return the same for the supervisor's own table."""
    found = {
        "supervisor.orphan_policy": table.orphan_policy is OrphanPolicy.STOP,
        "supervisor.budget": table.budget != Budget(),
    }
    return [f"{key}: {_NOT_BUILT}" for key, on in found.items() if on]


def _turned_on(manifest: PodManifest) -> Iterator[tuple[str, str]]:
    """Yield each key, with what there is to add."""
    if manifest.model.ref is not None:
        yield "model.ref", ""
    for name in _FEATURES:
        if getattr(manifest.feature, name):
            yield f"feature.{name}", ""
    if manifest.feature.tickets.enabled:
        yield "feature.tickets", ""
    if manifest.mcp.servers or manifest.mcp.trust:
        yield "mcp", ""
    if manifest.hooks:
        yield "hooks", ""
    if manifest.plugins:
        yield "plugins", ""
    if manifest.depends_on:
        yield "depends_on", ""
    if manifest.budget != Budget():
        yield "budget", ""
    if manifest.limits != Limits():
        yield "limits", ""
    if manifest.permissions.default_action is Action.ASK:
        yield "permissions.default_action", " (ask)"
    if any(rule.action is Action.ASK for rule in manifest.permissions.rule):
        yield "permissions.rule", " (ask)"
