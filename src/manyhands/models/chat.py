"""Models behind a chat-completions endpoint, whoever runs it: what to send, what to make of the answer.

Where to send it is the subclass's affair: see :meth:`ChatCompletionsModel.endpoint`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from manyhands._bridge import workers
from manyhands.errors import ConnectionFailedError, ProviderError, ServerError
from manyhands.messages import ChatMessage, DeltaFold
from manyhands.models import codec, failures, sdk, wire
from manyhands.models.base import Model
from manyhands.models.cleaning import (
    REMOVE_PARAMETER,
    remove_content_after_stop_sequences,
    supports_stop_parameter,
)
from manyhands.models.events import ObjectStream
from manyhands.models.sse import EventReader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from manyhands.messages import ChatMessageStreamDelta
    from manyhands.models.endpoint import Endpoint
    from manyhands.models.http import Client

# Fields that a provider refuses in a request without tools.
_ONLY_WITH_TOOLS = ("tool_choice", "parallel_tool_calls")
_tools = wire.ToolEncoder()


class _Request(NamedTuple):
    """What is sent."""

    pieces: list[bytes]
    headers: Mapping[str, str] | None  # of this call only
    extra: Mapping[str, Any]  # fields that a client object may not know by name
    cut: list[str] | None  # stop sequences that are not sent: the reply is cut at them


class ChatCompletionsModel(Model):
    """Base of the models that speak OpenAI's chat-completions format.

    Args:
        model_id: Name of the model at its provider.
        custom_role_conversions: Roles by the names that the provider wants for them.
        flatten_messages_as_text: Send text only: no images, no tool messages.
        client: An object like ``openai.AsyncOpenAI`` to ask instead of our own connections; it may
            be set later too.
        extra_headers: More headers of every request.
        extra_body: More fields of every request; they win over all others.
        **kwargs: Sent along with every request; they win over the arguments of a call.
    """

    native_tool_messages = True

    def __init__(
        self,
        model_id: str,
        custom_role_conversions: Mapping[Any, Any] | None = None,
        flatten_messages_as_text: bool = False,
        *,
        client: Any = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(flatten_messages_as_text=flatten_messages_as_text, model_id=model_id, **kwargs)
        self.client = client
        self.custom_role_conversions = custom_role_conversions
        self.extra_headers = dict(extra_headers or {})
        self.extra_body = dict(extra_body or {})
        self._encoder = wire.message_encoder(flatten_messages_as_text, custom_role_conversions)
        self.native_tool_messages = self._encoder.native_tools
        self._connection: Client | None = None
        self._connecting: dict[asyncio.AbstractEventLoop, asyncio.Task[Client]] = {}

    def endpoint(self) -> Endpoint:
        """Return where this model is asked; called once, at the first call, on a worker thread.

        Raises:
            AuthenticationError: There is no key.
        """
        raise NotImplementedError

    @property
    def supports_stop_parameter(self) -> bool:
        """Whether the model takes stop sequences; if not, its replies are cut here."""
        return supports_stop_parameter(self.model_id)

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
            response_format: A JSON schema that the reply must fit in OpenAI's form, or a pydantic class.
            tools_to_call_from: Tools that the reply may call; one it must, unless ``tool_choice`` is given.
            **kwargs: More fields of the request; ``extra_headers`` and ``extra_body`` as at construction.

        Returns:
            The reply.

        Raises:
            ProviderError: The provider gave none; its class says whose fault that is.
        """
        request = await self._request(messages, stop_sequences, response_format, tools_to_call_from, kwargs)
        cut = request.cut
        if self.client is not None:
            reply = await self._ask_client(request)
        else:
            connection = await self._connected()
            answer = connection.post(request.pieces, request.headers)
            del request, messages  # held by thousands of waiting calls, it adds up
            reply = _reply(await answer, connection.where, connection.secret)
        if cut and reply.content:
            reply.content = remove_content_after_stop_sequences(reply.text, cut)
        return reply

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
        kwargs = {"stream": True, "stream_options": {"include_usage": True}, **kwargs}
        request = await self._request(messages, stop_sequences, response_format, tools_to_call_from, kwargs)
        reply = wire.StreamedReply(request.cut)
        source = await self._open(request)
        try:
            while (chunks := await source.next()) is not None:
                for chunk in chunks:
                    if failures.is_error(chunk):
                        raise self._error_inside(chunk)
                    delta = reply.take(chunk)
                    if delta is not None:
                        yield delta
        finally:
            await source.aclose()
        if not (reply.finished or source.done):
            raise ConnectionFailedError(f"{self.model_id}: the stream ended before the reply was complete.")
        last = reply.end()
        if last is not None:
            yield last

    # --- The request ---

    async def _request(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None,
        response_format: Any,
        tools: list[Any] | None,
        more: dict[str, Any],
    ) -> _Request:
        headers, extra = more.pop("extra_headers", None), more.pop("extra_body", None)
        options: dict[str, Any] = {"model": self.model_id}
        if stop_sequences and self.supports_stop_parameter:
            options["stop"] = stop_sequences
        if response_format is not None:
            options["response_format"] = wire.response_format(response_format)
        if tools:
            options["tool_choice"] = "required"
        options.update(more)
        options.update(self.kwargs)
        extra = {**self.extra_body, **extra} if extra else self.extra_body
        if self.client is None:
            options.update(extra)
        encoded_tools = _tools.encode(tools) if tools and "tools" not in options else b""
        if not encoded_tools and not options.get("tools"):
            for name in _ONLY_WITH_TOOLS:
                options.pop(name, None)
        if any(value is REMOVE_PARAMETER for value in options.values()):
            options = {name: value for name, value in options.items() if value is not REMOVE_PARAMETER}
        pieces = await self._pieces(options, encoded_tools, messages)
        return _Request(pieces, headers, extra, None if "stop" in options else stop_sequences)

    async def _pieces(
        self, options: dict[str, Any], tools: bytes, messages: list[ChatMessage]
    ) -> list[bytes]:
        """Return a request as JSON, in pieces that are shared with other requests where possible."""
        try:
            encoded = self._encoder.encode(messages, on_loop=True)
        except wire.ImageOnLoop:
            encoded = await workers.run(lambda: self._encoder.encode(messages), label="image")
        head = codec.dumps(options)[:-1]
        if tools:
            return [head, b',"tools":', tools, b',"messages":[', *encoded, b"]}"]
        return [head, b',"messages":[', *encoded, b"]}"]

    async def _connected(self) -> Client:
        if self._connection is None:
            loop = asyncio.get_running_loop()
            connecting = self._connecting.get(loop)
            if connecting is None:
                connecting = loop.create_task(workers.run(self._connect, label="connect"))
                connecting.add_done_callback(self._end_connecting)
                self._connecting[loop] = connecting
            # All first calls wait for one and the same; none of them may cancel it for the others.
            self._connection = await asyncio.shield(connecting)
        return self._connection

    def _end_connecting(self, done: asyncio.Task[Client]) -> None:
        self._connecting.pop(done.get_loop(), None)
        if not done.cancelled():
            done.exception()  # seen, even if all who waited have gone

    def _connect(self) -> Client:
        # Imports aiohttp and reads certificates: too slow for an event loop.
        from manyhands.models.http import Client

        return Client(self.endpoint())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_connection": None, "_connecting": {}}  # copies connect anew

    async def _open(self, request: _Request) -> ObjectStream | sdk.SdkStream:
        if self.client is not None:
            return sdk.SdkStream(await self._create(request))
        connection = await self._connected()
        return ObjectStream(await connection.open(request.pieces, request.headers), connection.where)

    # --- The reply ---

    async def _ask_client(self, request: _Request) -> ChatMessage:
        answer = await self._create(request)
        reply = _message(sdk.as_dict(answer), f"The client of {self.model_id}", None)
        reply.raw = answer
        return reply

    async def _create(self, request: _Request) -> Any:
        headers = {**self.extra_headers, **(request.headers or {})}
        return await sdk.create(self.client, request.pieces, headers=headers, extra=request.extra)

    def _error_inside(self, chunk: Mapping[str, Any]) -> ProviderError:
        if self._connection is None:
            return failures.error_inside(chunk, where=f"The client of {self.model_id}")
        return failures.error_inside(chunk, where=self._connection.where, secret=self._connection.secret)

    async def aclose(self) -> None:
        """Release the connections held on the running loop; those in use by other models stay."""
        if self._connection is not None:
            await self._connection.aclose()

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON; keys, headers and clients stay out."""
        described = {
            "custom_role_conversions": _as_text(self.custom_role_conversions),
            "flatten_messages_as_text": self.flatten_messages_as_text or None,
            "extra_body": self.extra_body or None,
        }
        return {
            **super().to_dict(),
            **{name: value for name, value in described.items() if value is not None},
        }


def _as_text(conversions: Mapping[Any, Any] | None) -> dict[str, str] | None:
    return {str(role): str(other) for role, other in conversions.items()} if conversions else None


def _reply(body: bytes, where: str, secret: str | None) -> ChatMessage:
    """Return the message in the body of an answer."""
    try:
        answer = codec.loads(body)
    except ValueError:
        if not body.lstrip().startswith((b"data:", b":", b"event:")):
            what = "a web page" if body.lstrip().startswith(b"<") else "broken JSON"
            raise ServerError(f"{where} answered with {what} instead of a reply.", status=200) from None
        return _folded(body, where, secret)
    return _message(answer, where, secret)


def _message(answer: Any, where: str, secret: str | None) -> ChatMessage:
    if isinstance(answer, dict):
        choices = answer.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            return wire.reply_message(answer)
        if failures.is_error(answer):
            raise failures.error_inside(answer, where=where, secret=secret)
    raise ServerError(f"{where} answered without a reply: there are no choices in it.", status=200)


def _folded(body: bytes, where: str, secret: str | None) -> ChatMessage:
    """Return the message of a server that streams although nobody asked it to."""
    reader, reply, fold = EventReader(), wire.StreamedReply(), DeltaFold()
    for event in [*reader.feed(body), *reader.end()]:
        if event.strip() == b"[DONE]":
            reply.finished = True
            continue
        chunk = codec.loads(event)
        if failures.is_error(chunk):
            raise failures.error_inside(chunk, where=where, secret=secret)
        delta = reply.take(chunk)
        if delta is not None:
            fold.add(delta)
    if not reply.finished:
        raise ConnectionFailedError(f"{where}: the stream ended before the reply was complete.")
    message = fold.message()
    message.token_usage = reply.usage
    return message
