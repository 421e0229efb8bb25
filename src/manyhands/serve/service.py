"""What an app of agents is made of, apart from HTTP: agents, runs, conversations, the fleet, who comes in."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from manyhands.errors import CallerError
from manyhands.observe.fleet import Fleet
from manyhands.serve.auth import Doorkeeper
from manyhands.serve.problems import Problem
from manyhands.serve.sessions import Conversations
from manyhands.serve.settings import Settings
from manyhands.serve.store import RunStore

if TYPE_CHECKING:
    from manyhands.agents import MultiStepAgent
    from manyhands.run import Run
    from manyhands.serve.auth import Principal, Token
    from manyhands.serve.record import Record
    from manyhands.serve.schemas import RunRequest, TurnRequest
    from manyhands.serve.sessions import Conversation


class Service:
    """Agents for clients to use.

    Use it as an async context manager where nobody runs the lifespan of the app: at the end it lets runs
    finish, and cancels those that do not.

    Args:
        agents: One, several, or a mapping from name to agent.
        tokens: What lets clients in.
        open_to_all: Ask nobody for a token.
        settings: Limits.

    Attributes:
        agents: The agents by name.
        store: The runs.
        conversations: The conversations.
        doorkeeper: Who comes in.
        settings: Limits.
        created_at: When it was made, in seconds since the epoch.
    """

    def __init__(
        self,
        agents: MultiStepAgent | Iterable[MultiStepAgent] | Mapping[str, MultiStepAgent],
        tokens: Iterable[Token] = (),
        *,
        open_to_all: bool = False,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.agents = named(agents)
        self.doorkeeper = Doorkeeper(tokens, open_to_all=open_to_all)
        self.store = RunStore(self.settings)
        self.conversations = Conversations(self.settings)
        self.created_at = time.time()
        self._everything = Fleet()
        self._fleets = {tenant: Fleet() for tenant in self.doorkeeper.tenants}

    # --- Agents and runs ------------------------------------------------------------------------

    def choose(self, name: str | None) -> tuple[str, MultiStepAgent]:
        """Return the agent of a name; without one, the first.

        Raises:
            Problem: There is none of this name.
        """
        if name is None:
            return next(iter(self.agents.items()))
        if name not in self.agents:
            known = ", ".join(self.agents)
            raise Problem(404, f"There is no agent {name!r}; known are: {known}."[:1000])
        return name, self.agents[name]

    def start(self, asked: RunRequest, principal: Principal) -> Record:
        """Start a run.

        Raises:
            Problem: It cannot be, or there is no room.
        """
        if asked.session is not None:
            conversation = self.conversations.get(asked.session, principal)
            if asked.agent not in (None, conversation.agent):
                raise Problem(409, f"The conversation is one of the agent {conversation.agent!r}.")
            return self.start_turn(conversation, asked, principal)
        name, agent = self.choose(asked.agent)
        self.store.check(principal)
        run = agent.arun(
            asked.task,
            additional_args=asked.additional_args,
            max_steps=asked.max_steps,
            timeout=asked.timeout,
            tenant=principal.tenant,
        )
        return self.take_on(run, name, principal, cancel_on_disconnect=asked.cancel_on_disconnect)

    def start_turn(self, conversation: Conversation, asked: TurnRequest, principal: Principal) -> Record:
        """Start a turn of a conversation.

        Raises:
            Problem: There is no room.
        """
        self.store.check(principal)
        run = conversation.session.arun(
            asked.task,
            additional_args=asked.additional_args,
            max_steps=asked.max_steps,
            timeout=asked.timeout,
        )
        record = self.take_on(
            run,
            conversation.agent,
            principal,
            conversation.id,
            cancel_on_disconnect=asked.cancel_on_disconnect,
        )
        conversation.note_turn(record)
        return record

    def take_on(
        self,
        run: Run,
        agent: str,
        principal: Principal,
        session: str | None = None,
        *,
        cancel_on_disconnect: bool = False,
    ) -> Record:
        """Have a run watched by the fleet, and put it into the queue."""
        run.options.tenant = principal.tenant
        run.observers.append(self._everything.observe)
        own = self._fleets.get(principal.tenant)
        if own is not None:
            run.observers.append(own.observe)
        return self.store.add(run, principal, agent, session, cancel_on_disconnect=cancel_on_disconnect)

    # --- What goes on ---------------------------------------------------------------------------

    def fleet(self, principal: Principal) -> Fleet:
        """Return the fleet that ``principal`` sees."""
        return self._everything if principal.operator else self._fleets[principal.tenant]

    def snapshot(self, principal: Principal, runs: int) -> dict[str, Any]:
        """Return what goes on, as JSON values.

        Args:
            principal: Who asks.
            runs: Most runs in flight to list.
        """
        told = self.fleet(principal).dict(runs)
        store = self.store
        if principal.operator:
            told["server"] = {
                "queued": store.queued,
                "running": store.running,
                "max_runs": self.settings.max_runs,
                "max_queued": self.settings.max_queued,
                "draining": store.draining,
            }
        else:
            told["limits"] = []  # they are those of all tenants together
            told["server"] = {"draining": store.draining}
        return told

    # --- The end --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Take no new runs, let those at work finish within ``drain_seconds``, cancel the rest."""
        await self.store.drain(self.settings.drain_seconds)


def named(
    agents: MultiStepAgent | Iterable[MultiStepAgent] | Mapping[str, MultiStepAgent],
) -> dict[str, MultiStepAgent]:
    """Return agents by the names under which they are served.

    Raises:
        CallerError: There are none, two have the same name, or something is no agent.
    """
    from manyhands.agents import MultiStepAgent

    if isinstance(agents, MultiStepAgent):
        pairs = [(agents.name or "agent", agents)]
    elif isinstance(agents, Mapping):
        pairs = list(agents.items())
    elif isinstance(agents, Iterable) and not isinstance(agents, str):
        pairs = [(getattr(agent, "name", None) or "agent", agent) for agent in agents]
    else:
        raise CallerError(f"Agents can be served, not {agents!r}.")
    for name, agent in pairs:
        if not isinstance(agent, MultiStepAgent):
            raise CallerError(f"Agents can be served, not {agent!r}.")
        if not isinstance(name, str) or not name or len(name) > 200:
            raise CallerError(f"An agent is served under a name of up to 200 characters, not {name!r}.")
    found = dict(pairs)
    if not found:
        raise CallerError("There is no agent to serve.")
    if len(found) != len(pairs):
        raise CallerError("Two agents have the same name; give them as a mapping from name to agent.")
    return found
