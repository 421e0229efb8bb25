"""The conversations of a server."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from manyhands.serve.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.agents import MultiStepAgent
    from manyhands.serve.auth import Principal
    from manyhands.serve.record import Record
    from manyhands.serve.settings import Settings
    from manyhands.session import Session


class Conversation:
    """A session of an agent, and its turns.

    Args:
        session: The session.
        agent: The name under which its agent is served.
        tenant: Whose it is.
    """

    def __init__(self, session: Session, agent: str, tenant: str) -> None:
        self.id = uuid.uuid4().hex
        self.session = session
        self.agent = agent
        self.tenant = tenant
        self.created_at = self.used_at = time.time()
        self.turns = 0
        self._active: dict[str, Record] = {}

    def note_turn(self, record: Record) -> None:
        """Take in a turn that was asked for."""
        self.turns += 1
        self.used_at = time.time()
        self._active[record.id] = record

    def active(self) -> list[Record]:
        """Return the turns that have not ended."""
        for record in [record for record in self._active.values() if record.ended.is_set()]:
            del self._active[record.id]
            self.used_at = max(self.used_at, record.ended_at or 0.0)
        return list(self._active.values())

    def dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        active = [record.id for record in self.active()]
        return {
            "id": self.id,
            "agent": self.agent,
            "tenant": self.tenant,
            "created_at": self.created_at,
            "used_at": self.used_at,
            "turns": self.turns,
            "active_runs": active,
        }


class Conversations:
    """All conversations; those that nobody goes on with are forgotten.

    Args:
        settings: How many there may be, and for how long.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._all: dict[str, Conversation] = {}

    def begin(self, agent: MultiStepAgent, name: str, principal: Principal) -> Conversation:
        """Begin a conversation.

        Raises:
            Problem: There are too many.
        """
        if len(self._all) >= self._settings.max_sessions:
            self._forget_idle()
        if len(self._all) >= self._settings.max_sessions:
            raise Problem(
                429, f"There are {len(self._all)} conversations, which is the limit.", retry_after=30
            )
        made = Conversation(agent.session(), name, principal.tenant)
        self._all[made.id] = made
        return made

    def _forget_idle(self) -> None:
        oldest = time.time() - self._settings.session_seconds
        for one in list(self._all.values()):
            if not one.active() and one.used_at < oldest:
                del self._all[one.id]

    def get(self, session_id: str, principal: Principal) -> Conversation:
        """Return a conversation.

        Raises:
            Problem: There is none of this id that ``principal`` may see.
        """
        found = self._all.get(session_id)
        if found is None or not principal.sees(found.tenant):
            raise Problem(404, "There is no such conversation, or it was forgotten because nobody went on.")
        return found

    def newest(self, principal: Principal, after: str | None = None) -> Iterator[Conversation]:
        """Give conversations, the newest first.

        Args:
            principal: Who asks.
            after: Id of the one to begin behind.
        """
        self._forget_idle()
        begun = after is None or not self.get(after, principal)
        for one in reversed(self._all.values()):
            if begun and principal.sees(one.tenant):
                yield one
            begun = begun or one.id == after

    def end(self, conversation: Conversation) -> int:
        """End a conversation, and its turns; return how many of them went on."""
        self._all.pop(conversation.id, None)
        active = conversation.active()
        for record in active:
            record.cancel("its conversation was deleted")
        return len(active)
