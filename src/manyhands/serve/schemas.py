"""What clients may send and what they get: the models that check requests and describe the API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_VARIABLE = "^[A-Za-z][A-Za-z0-9_]{0,63}$"
Variables = Annotated[
    dict[Annotated[str, StringConstraints(pattern=_VARIABLE)], Any],
    WithJsonSchema({"type": "object", "propertyNames": {"pattern": _VARIABLE}}),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200_000)]
Reason = Annotated[str, StringConstraints(max_length=10_000)]


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


# JSON does not tell 2 from 2.0.
WHOLE = BeforeValidator(_whole)
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Steps = Annotated[int, Field(ge=1, le=10_000), WHOLE]


class Asked(BaseModel):
    """Base of all bodies: nothing is converted, and nothing unknown is taken."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Query(BaseModel):
    """Base of all queries, whose values are text."""

    model_config = ConfigDict(extra="forbid")


class Told(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="forbid")


# --- Runs --------------------------------------------------------------------------------------------


class TurnRequest(Asked):
    """A turn of a conversation."""

    task: Text = Field(description="What to do.")
    max_steps: Steps | None = Field(None, description="Most steps, instead of the agent's own number.")
    timeout: Seconds | None = Field(None, description="Most seconds of work.")
    additional_args: Variables | None = Field(None, description="Values for tools and code, by name.")
    wait: bool = Field(False, description="Answer when the run has ended, instead of at once.")
    cancel_on_disconnect: bool = Field(
        False, description="Cancel the run when the client that waits for it, or streams it, leaves."
    )


class RunRequest(TurnRequest):
    """A task for an agent."""

    agent: Name | None = Field(None, description="Which agent; the first one, if it is left out.")
    session: Name | None = Field(None, description="Id of the conversation that this is a turn of.")


class CancelRequest(Asked):
    """Why a run is cancelled."""

    reason: Reason = ""


class InjectRequest(Asked):
    """Something to tell a running run; its model sees it at the next step."""

    text: Text


class BudgetRequest(Asked):
    """What a run may use up from now on; what is left out stays as it is."""

    tokens: Annotated[int, Field(ge=1, le=10**12), WHOLE] | None = None
    requests: Annotated[int, Field(ge=1, le=10**9), WHOLE] | None = None
    money: float | None = Field(None, gt=0, le=10**9, description="US dollars.")
    seconds: Seconds | None = None
    steps: Steps | None = None
    tool_calls: Annotated[int, Field(ge=1, le=10**9), WHOLE] | None = None


class LimitsRequest(Asked):
    """New limits of a running run; what is left out stays as it is."""

    max_steps: Steps | None = None
    timeout: Seconds | None = Field(None, description="Most seconds, counted from the beginning of the run.")
    budget: BudgetRequest | None = None


class Failure(Told):
    """What went wrong."""

    type: str
    message: str


class Usage(Told):
    """Tokens."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    total_tokens: int


class RunSummary(Told):
    """A run, as it stands in a list."""

    id: str
    agent: str
    tenant: str
    session: str | None = Field(description="The conversation that it is a turn of.")
    task: str = Field(description="What it was asked, cut to 200 characters in lists.")
    status: str = Field(
        description="queued, running or paused; then success, max_steps_error, error, cancelled, "
        "interrupted, timeout or budget_exceeded."
    )
    activity: str = Field(description="What it does or waits for right now.")
    step: int
    created_at: float = Field(description="Seconds since the epoch.")
    started_at: float | None
    ended_at: float | None
    token_usage: Usage | None
    pending_approvals: int
    error: Failure | None


class RunView(RunSummary):
    """A run, and what it came to."""

    output: Any = Field(description="The final answer.")
    last_event: int = Field(description="Number of its latest event.")
    steps: list[dict[str, Any]] | None = Field(None, description="All steps; only where they were asked for.")


class RunList(Told):
    """Runs, newest first."""

    runs: list[RunSummary]
    next: str | None = Field(description="Give it as `after` to get the following page.")


class RunsQuery(Query):
    """Which runs to list."""

    limit: int = Field(50, ge=1, le=1000)
    after: Name | None = Field(None, description="Id of the run behind which the page begins.")
    status: Name | None = Field(None, description="A status, `active` or `ended`.")
    agent: Name | None = None
    session: Name | None = None


class RunQuery(Query):
    """How to get a run."""

    wait: float = Field(0, ge=0, le=300, description="Most seconds to wait for its end.")
    steps: bool = Field(False, description="With all its steps.")


class EventsQuery(Query):
    """Where a stream begins."""

    after: int | None = Field(
        None, ge=0, le=2**53, description="Number of the last event known; `Last-Event-ID` does the same."
    )


# --- Approvals -----------------------------------------------------------------------------------------


class ApprovalView(Told):
    """A call that waits for a person, or a question to one."""

    id: str
    run_id: str = Field(description="The run that asks; it may be one that the run of the API has started.")
    root_run_id: str = Field(description="The run of the API that it belongs to.")
    kind: Literal["approval", "question"]
    agent: str
    tool: str
    call_id: str
    arguments: dict[str, Any]
    reason: str
    created: float
    expires: float | None


class ApprovalList(Told):
    """What waits for people, the oldest first."""

    approvals: list[ApprovalView]


class DecisionRequest(Asked):
    """An answer to an approval request."""

    decision: Literal["approve", "deny", "change", "answer"]
    reason: Reason = Field("", description="For `deny`: the model is told.")
    arguments: dict[str, Any] | None = Field(None, description="For `change`: all arguments, by name.")
    text: Annotated[str, StringConstraints(max_length=200_000)] | None = Field(
        None, description="For `answer`: the answer to a question."
    )


class Done(Told):
    """It was done."""

    ok: Literal[True]


# --- Conversations --------------------------------------------------------------------------------------


class SessionRequest(Asked):
    """A conversation to begin."""

    agent: Name | None = Field(None, description="Which agent; the first one, if it is left out.")


class SessionView(Told):
    """A conversation."""

    id: str
    agent: str
    tenant: str
    created_at: float
    used_at: float
    turns: int = Field(description="Turns that were asked for.")
    active_runs: list[str] = Field(description="Turns at work, or in the queue.")


class SessionList(Told):
    """Conversations, the newest first."""

    sessions: list[SessionView]
    next: str | None


class PageQuery(Query):
    """A page of a list."""

    limit: int = Field(50, ge=1, le=1000)
    after: Name | None = None


# --- The server ------------------------------------------------------------------------------------------


class ToolView(Told):
    """A tool of an agent."""

    name: str
    description: str
    requires_approval: bool


class AgentView(Told):
    """An agent that is served."""

    name: str
    description: str | None
    kind: str
    model: str | None
    max_steps: int
    streams: bool = Field(description="Whether replies come in pieces.")
    tools: list[ToolView]
    managed_agents: list[str]


class AgentList(Told):
    """The agents."""

    agents: list[AgentView]


class FleetQuery(Query):
    """How much of the fleet to show."""

    runs: int = Field(200, ge=0, le=1000, description="Most runs in flight to list; totals count all.")


class Health(Told):
    """Whether the server works."""

    status: Literal["ok", "ready", "draining"]


class ProblemBody(Told):
    """What is wrong."""

    type: str
    message: str
    details: list[dict[str, str]] | None = None


class ProblemView(Told):
    """The form of all errors."""

    error: ProblemBody
