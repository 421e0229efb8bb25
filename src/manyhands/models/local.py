"""What the models that run in this process share: one thread for each, and calls that end when told to.

A library such as transformers or MLX computes for as long as it takes, in the thread that asks. So each
model has a thread of its own, where it is loaded and where it works. Calls stand in line for it, first come
first served, from whatever event loop they come. Text goes from there to the loop of its call piece by piece.

A call that is cancelled while it waits never starts. One that is cancelled while it runs is told to stop,
which it does at its next token; only then has the next call its turn.
"""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manyhands._bridge import Workers
from manyhands.errors import BadRequestError, CallerError
from manyhands.messages import ChatMessage, ChatMessageStreamDelta, DeltaFold, TokenUsage
from manyhands.models import libraries
from manyhands.models.base import Model
from manyhands.models.cleaning import REMOVE_PARAMETER, get_clean_message_list, tool_role_conversions
from manyhands.models.stopping import StopCutter
from manyhands.models.thinking import ThinkSplitter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

# Fields of a request that mean something to a provider only.
_OF_PROVIDERS = (
    "tool_choice",
    "parallel_tool_calls",
    "stream",
    "stream_options",
    "extra_headers",
    "extra_body",
)
_END = object()
_THINK = "<think>"
LAST_TOKENS = 12  # enough to see it at the end of a prompt


class OneThread(Workers):
    """A thread that does one thing at a time, and never gets a second one beside it.

    Args:
        forever: Whether it stays while there is nothing to do, for libraries that know it by its face.
    """

    def __init__(self, *, forever: bool = False) -> None:
        super().__init__(cap=1, idle_seconds=threading.TIMEOUT_MAX if forever else 10.0)

    def _abandon(self, *_: Any) -> None:
        # What nobody waits for any more ends soon, and keeps its place until then.
        pass


@dataclass
class Request:
    """What a local model is asked.

    Attributes:
        messages: The conversation.
        tools: Schemas of the tools that may be called.
        stop_sequences: Texts at which the reply ends.
        response_format: A JSON schema in OpenAI's form.
        options: Arguments for the library.
    """

    messages: Sequence[ChatMessage]
    tools: list[dict[str, Any]] | None = None
    stop_sequences: list[str] = field(default_factory=list)
    response_format: Mapping[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def take(self, *names: str, default: Any = None) -> Any:
        """Take an option out, under the first of its names that is given."""
        given = [self.options.pop(name, None) for name in names]
        return next((value for value in given if value is not None), default)


class Call:
    """One call of a local model: fed in the model's thread, read on the loop that asked.

    Args:
        stop_sequences: Texts at which the reply ends, wherever its tokens are cut.
        strip_thinking: Take a ``<think>`` block at the beginning for reasoning, not for text. No stop
            sequence ends it.

    Attributes:
        stopped: Whether nothing more is wanted: the text has ended, or nobody waits for it.
        over: Whether the thread is done with it.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens of the reply.
    """

    def __init__(self, stop_sequences: Sequence[str] = (), strip_thinking: bool = False) -> None:
        self.stopped = False
        self.over = False
        self.input_tokens = 0
        self.output_tokens = 0
        self._cutter = StopCutter(stop_sequences)
        self._thoughts = ThinkSplitter() if strip_thinking else None
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Any] = asyncio.Queue()

    # In the model's thread:

    def begin(self, prompt: str) -> None:
        """Say how the prompt ends: some templates open the reasoning there."""
        if self._thoughts is not None and prompt.rstrip().endswith(_THINK):
            self._thoughts.feed(_THINK)

    def feed(self, text: str) -> None:
        """Take more text."""
        if not self.stopped:
            self._hand_on(*(self._thoughts.feed(text) if self._thoughts else (text, "")))

    def finish(self) -> None:
        """Say that this was all."""
        if not self.stopped:
            self._hand_on(*(self._thoughts.end() if self._thoughts else ("", "")))
            self._hand_on("", "", self._cutter.end())
        self.stopped = self.over = True
        self._tell(_END)

    def _hand_on(self, text: str, thought: str, rest: str = "") -> None:
        piece = self._cutter.feed(text) + rest
        self.stopped = self._cutter.stopped
        if piece or thought:
            self._tell(ChatMessageStreamDelta(piece or None, reasoning_content=thought or None))

    def fail(self, error: BaseException) -> None:
        """Say that there will be no more because of ``error``."""
        self.stopped = self.over = True
        self._tell(error)

    def _tell(self, what: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, what)
        except RuntimeError:
            self.stopped = True  # its loop has ended, and who waited there with it

    # On its loop:

    async def next(self) -> Any:
        """Return the next delta, ``None`` at the end.

        Raises:
            BaseException: What the library raised.
        """
        piece = await self._pieces.get()
        if isinstance(piece, BaseException):
            raise piece
        return None if piece is _END else piece

    def give_up(self, _: object = None) -> None:
        """Let nobody wait for a thread that will never come to this call."""
        self.stopped = True
        self._pieces.put_nowait(_END)


class LocalModel(Model):
    """Base of the models that run in this process.

    A subclass loads itself in :meth:`_load` and replies in :meth:`_reply`, both of them in its thread.

    Args:
        model_id: Name on the Hub, or a folder.
        apply_chat_template_kwargs: More arguments of the tokenizer's ``apply_chat_template``.
        flatten_messages_as_text: Send text only.
        strip_thinking: Take a ``<think>`` block at the beginning of a reply for reasoning, not for text.
        thread: Where the model works; one of its own if not given.
        **kwargs: Arguments of every call; they win over those of the call.
    """

    native_tool_messages = False
    _label = "model"

    def __init__(
        self,
        model_id: str | None,
        apply_chat_template_kwargs: Mapping[str, Any] | None = None,
        flatten_messages_as_text: bool = True,
        *,
        strip_thinking: bool = False,
        thread: OneThread | None = None,
        **kwargs: Any,
    ) -> None:
        if not model_id:
            raise CallerError(f"{type(self).__name__} needs a model_id: a name on the Hub, or a folder.")
        super().__init__(flatten_messages_as_text=flatten_messages_as_text, model_id=model_id, **kwargs)
        self.apply_chat_template_kwargs = dict(apply_chat_template_kwargs or {})
        self.strip_thinking = strip_thinking
        self._thread = thread or OneThread()
        self._is_loaded = False

    @abstractmethod
    def _load(self) -> None:
        """Import the library and load the model; called in its thread before the first call."""

    @abstractmethod
    def _reply(self, call: Call, request: Request) -> None:
        """Reply: feed ``call``, count its tokens, and end soon after it is stopped; called in the thread."""

    async def aload(self) -> None:
        """Load the model now rather than at the first call."""
        await self._guarded(self._thread.run(self._loaded, label=self._label))

    async def agenerate(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: Any = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """Ask for a reply.

        Args:
            messages: The conversation.
            stop_sequences: Texts at which the reply ends.
            response_format: A JSON schema that the reply must fit, where the library can do that.
            tools_to_call_from: Tools that the chat template describes to the model.
            **kwargs: More arguments for the library.

        Returns:
            The reply.

        Raises:
            ProviderError: The library raised.
        """
        fold = DeltaFold()
        deltas = self.agenerate_stream(
            messages, stop_sequences, response_format, tools_to_call_from, **kwargs
        )
        async with aclosing(deltas):
            async for delta in deltas:
                fold.add(delta)
        return fold.message()

    async def agenerate_stream(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: Any = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Ask for a reply in pieces; arguments and errors are those of :meth:`agenerate`.

        Yields:
            Pieces of the reply; the last one holds the token counts.
        """
        options = {**kwargs, **self.kwargs}
        options = {name: value for name, value in options.items() if value is not REMOVE_PARAMETER}
        stops = options.pop("stop", None) or stop_sequences or []
        request = Request(
            messages,
            [tool if isinstance(tool, dict) else tool.json_schema() for tool in tools_to_call_from or ()]
            or None,
            [stops] if isinstance(stops, str) else list(stops),
            response_format,
            {name: value for name, value in options.items() if name not in _OF_PROVIDERS},
        )
        call = Call(request.stop_sequences, self.strip_thinking)
        working = asyncio.create_task(self._thread.run(self._work(call, request), label=self._label))
        working.add_done_callback(call.give_up)
        try:
            while (piece := await self._guarded(call.next())) is not None:
                yield piece
        finally:
            call.stopped = True
            working.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([working])
        yield ChatMessageStreamDelta(token_usage=TokenUsage(call.input_tokens, call.output_tokens))

    def _work(self, call: Call, request: Request) -> Callable[[], None]:
        def work() -> None:
            try:
                self._loaded()
                if not call.stopped:
                    self._reply(call, request)
            except BaseException as error:
                call.fail(error)
            else:
                call.finish()

        return work

    def _loaded(self) -> None:
        if not self._is_loaded:
            self._load()
            self._is_loaded = True

    async def _guarded(self, awaitable: Any) -> Any:
        try:
            return await awaitable
        except Exception as error:
            ours = libraries.failure(error, str(self.model_id))
        raise ours

    # --- For subclasses ---

    def _clean(self, request: Request) -> list[dict[str, Any]]:
        """Return the conversation as a chat template takes it."""
        return get_clean_message_list(
            request.messages,
            role_conversions=tool_role_conversions,
            flatten_messages_as_text=self.flatten_messages_as_text,
        )

    def _prompt_ids(self, tokenizer: Any, call: Call, request: Request) -> list[int]:
        """Return the conversation as token ids, and begin ``call`` with them."""
        ids = tokenizer.apply_chat_template(
            self._clean(request),
            tools=request.tools,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **self.apply_chat_template_kwargs,
        )
        prompt = list(ids)
        call.input_tokens = len(prompt)
        if self.strip_thinking:
            call.begin(tokenizer.decode(prompt[-LAST_TOKENS:]))
        return prompt

    def _refuse_format(self, request: Request) -> None:
        if request.response_format is not None:
            raise BadRequestError(
                f"{type(self).__name__} cannot keep a reply to a response_format; VLLMModel can."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON."""
        described = {
            "apply_chat_template_kwargs": self.apply_chat_template_kwargs or None,
            "strip_thinking": self.strip_thinking or None,
        }
        described = {name: value for name, value in described.items() if value is not None}
        return libraries.without_secrets({**super().to_dict(), **described})
