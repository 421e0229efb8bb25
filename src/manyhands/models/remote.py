"""A model asked over HTTP, whatever its provider's format: settings, connections, the way of a call.

A subclass brings the format: what a request is made of, what a reply and the pieces of one mean. Where
to ask is its affair as well: see :meth:`RemoteModel.endpoint`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from manyhands._bridge import workers
from manyhands.errors import ConnectionFailedError, ProviderError, RateLimitError, ServerError
from manyhands.messages import ChatMessage, DeltaFold
from manyhands.models import codec, failures, sdk
from manyhands.models.base import Model, request_options
from manyhands.models.cleaning import REMOVE_PARAMETER, remove_content_after_stop_sequences
from manyhands.models.endpoint import Timeouts
from manyhands.models.events import ObjectStream
from manyhands.models.media import HeavyOnLoop
from manyhands.models.sse import EventReader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from manyhands.limits.polite import PoliteModel
    from manyhands.limits.retry import RetryPolicy
    from manyhands.messages import ChatMessageStreamDelta
    from manyhands.models.endpoint import Endpoint
    from manyhands.models.http import Client


class Request(NamedTuple):
    """What is sent."""

    pieces: list[bytes]
    headers: Mapping[str, str] | None  # of this call only
    extra: Mapping[str, Any]  # fields that a client object may not know by name
    cut: list[str] | None  # stop sequences that are not all sent: the reply is cut at them
    timeout: Any = None  # of this call only


class ReplyReader(Protocol):
    """Reads a streamed reply.

    Attributes:
        finished: Whether the provider said that the reply is complete.
        over: Whether nothing more can come.
    """

    finished: bool
    over: bool

    def take(self, chunk: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        """Take one object of the stream; return what it adds to the reply, if anything."""

    def end(self) -> ChatMessageStreamDelta | None:
        """Return what is still due when the stream has ended."""


class RemoteModel(Model):
    """Base of the models that are asked over HTTP.

    Args:
        model_id: Name of the model at its provider.
        custom_role_conversions: Roles by the names that the provider wants for them.
        flatten_messages_as_text: Send text only: no images, no tool messages.
        client: An object like the provider's own async client to ask instead of our own connections;
            it may be set later too.
        extra_headers: More headers of every request.
        extra_body: More fields of every request; they win over all others.
        requests_per_minute: Most requests in any minute, shared by all models with the same key.
        tokens_per_minute: Most tokens in any minute, prompts and replies together, shared likewise.
        max_concurrency: Most requests of this model under way at once.
        retry: Whether to ask again after refusals, failures of the provider and broken connections; or by
            which :class:`~manyhands.limits.retry.RetryPolicy`.
        **kwargs: Sent along with every request; they win over the arguments of a call.
    """

    native_tool_messages = True
    # The method of a client object that takes requests.
    _door: str
    # What a request has to say to be answered in pieces.
    _streaming: Mapping[str, Any] = {"stream": True}
    # The field for stop sequences, "" where there is none.
    _stop_field: str = ""
    # What is missing in an answer that holds no reply.
    _lacking = "there are no choices"

    def __init__(
        self,
        model_id: str,
        custom_role_conversions: Mapping[Any, Any] | None = None,
        flatten_messages_as_text: bool = False,
        *,
        client: Any = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrency: int | None = None,
        retry: bool | RetryPolicy = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(flatten_messages_as_text=flatten_messages_as_text, model_id=model_id, **kwargs)
        self.client = client
        self.custom_role_conversions = custom_role_conversions
        self.extra_headers = dict(extra_headers or {})
        self.extra_body = dict(extra_body or {})
        self._limits = (requests_per_minute, tokens_per_minute, max_concurrency, retry)
        self._around: Any = None
        self._gate: PoliteModel | None = None
        self._connection: Client | None = None
        self._connecting: dict[asyncio.AbstractEventLoop, asyncio.Task[Client]] = {}

    def endpoint(self) -> Endpoint:
        """Return where this model is asked; called once, at the first call, on a worker thread.

        Raises:
            AuthenticationError: There is no key.
        """
        raise NotImplementedError

    # --- The format: what a subclass brings ---

    def _specific(
        self, stop_sequences: list[str] | None, response_format: Any, tools: list[Any] | None
    ) -> dict[str, Any]:
        """Return the fields that follow from the arguments of a call."""
        raise NotImplementedError

    def _sendable_stops(self, stop_sequences: list[str]) -> list[str]:
        """Return those stop sequences that the provider takes; at the others the reply is cut here."""
        return []

    def _settle(self, options: dict[str, Any], tools: list[Any] | None) -> None:
        """Bring all fields of a request, wherever they come from, into the provider's form."""

    def _body(
        self, options: dict[str, Any], tools: list[Any] | None, messages: list[ChatMessage], on_loop: bool
    ) -> list[bytes]:
        """Return a request as JSON, in pieces that are shared with other requests where possible.

        Raises:
            HeavyOnLoop: There is a picture to encode, and ``on_loop`` was set.
        """
        raise NotImplementedError

    def _read(self, answer: dict[str, Any]) -> ChatMessage | None:
        """Return the reply in an answer, ``None`` if it holds none."""
        raise NotImplementedError

    def _reader(self, cut: list[str] | None) -> ReplyReader:
        """Return what reads a streamed reply."""
        raise NotImplementedError

    def _error_in(self, chunk: dict[str, Any]) -> Mapping[str, Any] | None:
        """Return the error object in an answer or a piece of one, if it is one."""
        return chunk if failures.is_error(chunk) else None

    @property
    def _sent_name(self) -> str | None:
        """The model's name in requests."""
        return self.model_id

    # --- The way of a call ---

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
            **kwargs: More fields of the request; ``extra_headers`` and ``extra_body`` as at construction,
                and ``timeout`` for this call: seconds, or :class:`~manyhands.models.endpoint.Timeouts`.

        Returns:
            The reply.

        Raises:
            ProviderError: The provider gave none; its class says whose fault that is.
        """
        around = self._around or self._polite()
        given: tuple[Any, Any, Any] = (stop_sequences, response_format, tools_to_call_from)
        if around is self:
            bare: ChatMessage = await self.request(messages, *given, **kwargs)
            return bare
        gate = self._gate
        if gate is None or not gate.is_open:
            limited: ChatMessage = await around.agenerate(messages, *given, **kwargs)
            return limited
        gate.count()
        try:
            # While there is nothing to wait for, a request goes straight to the wire: most succeed at once.
            reply = await self.request(messages, *given, **kwargs)
        except ProviderError as error:
            return await self._again(error, messages, request_options(*given, kwargs))
        if not gate.is_open:
            gate.served()
        return reply

    async def _again(
        self, error: ProviderError, messages: list[ChatMessage], options: dict[str, Any]
    ) -> ChatMessage:
        if isinstance(error, RateLimitError) and self._gate is not None:
            self._gate.refused(error)
        reply: ChatMessage = await self._around.resume(error, messages, options)
        return reply

    def agenerate_stream(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: Any = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Ask for a reply in pieces; arguments and errors are those of :meth:`agenerate`.

        Returns:
            Pieces of the reply; the last one holds the token counts.
        """
        around = self._around or self._polite()
        stream = self.request_stream if around is self else around.agenerate_stream
        deltas: AsyncGenerator[ChatMessageStreamDelta, None] = stream(
            messages, stop_sequences, response_format, tools_to_call_from, **kwargs
        )
        return deltas

    @property
    def limited(self) -> Any:
        """The limits that its requests have to pass; ``None`` as long as there are none."""
        return None if self._around is self else getattr(self._around, "limited", None)

    def _polite(self) -> Any:
        """Return who is asked: this model with its limits and retries around it, itself if it has none."""
        from manyhands.limits.polite import polite

        requests, tokens, slots, retry = self._limits
        around = polite(
            self, requests_per_minute=requests, tokens_per_minute=tokens, max_concurrency=slots, retry=retry
        )
        self._gate = getattr(around, "gate", None)
        self._around = self if around is None else around
        return self._around

    async def request(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: Any = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """Make one request, without limits and retries; otherwise as :meth:`agenerate`."""
        request = await self._request(messages, stop_sequences, response_format, tools_to_call_from, kwargs)
        cut = request.cut
        if self.client is not None:
            reply = await self._ask_client(request)
        else:
            connection = await self._connected()
            answer = connection.post(request.pieces, request.headers, _limits(request.timeout))
            del request, messages  # held by thousands of waiting calls, it adds up
            reply = self._parsed(await answer)
        if cut and reply.content:
            reply.content = remove_content_after_stop_sequences(reply.text, cut)
        return reply

    async def request_stream(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: Any = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Make one request, without limits and retries; otherwise as :meth:`agenerate_stream`."""
        kwargs = {**self._streaming, **kwargs}
        request = await self._request(messages, stop_sequences, response_format, tools_to_call_from, kwargs)
        reply = self._reader(request.cut)
        source = await self._open(request)
        try:
            while (chunks := await source.next()) is not None:
                for chunk in chunks:
                    error = self._error_in(chunk)
                    if error is not None:
                        raise self._error_inside(error)
                    delta = reply.take(chunk)
                    if delta is not None:
                        yield delta
                if reply.over:
                    await source.finish()
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
    ) -> Request:
        headers, extra = more.pop("extra_headers", None), more.pop("extra_body", None)
        timeout = more.pop("timeout", None)
        options: dict[str, Any] = {"model": self._sent_name}
        stops = self._sendable_stops(stop_sequences) if stop_sequences else None
        if stops:
            options[self._stop_field] = stops
        options.update(self._specific(stop_sequences, response_format, tools))
        options.update(more)
        options.update(self.kwargs)
        extra = {**self.extra_body, **extra} if extra else self.extra_body
        if self.client is None:
            options.update(extra)
        if "tools" in options:
            tools = None
        self._settle(options, tools)
        if any(value is REMOVE_PARAMETER for value in options.values()):
            options = {name: value for name, value in options.items() if value is not REMOVE_PARAMETER}
        sent = options.get(self._stop_field)
        # Who sets the field himself has said where replies end.
        whole = sent is not None and (sent is not stops or len(stops) == len(stop_sequences or ()))
        cut = None if whole else stop_sequences
        return Request(await self._pieces(options, tools, messages), headers, extra, cut, timeout)

    async def _pieces(
        self, options: dict[str, Any], tools: list[Any] | None, messages: list[ChatMessage]
    ) -> list[bytes]:
        try:
            return self._body(options, tools, messages, on_loop=True)
        except HeavyOnLoop:
            return await workers.run(
                lambda: self._body(options, tools, messages, on_loop=False), label="image"
            )

    # --- The connection ---

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
        return {
            **vars(self),
            "_connection": None,
            "_connecting": {},
            "_around": None,
            "_gate": None,
        }  # copies connect anew

    async def _open(self, request: Request) -> ObjectStream | sdk.SdkStream:
        if self.client is not None:
            return sdk.SdkStream(await self._create(request))
        connection = await self._connected()
        answer = await connection.open(request.pieces, request.headers, _limits(request.timeout))
        return ObjectStream(answer, connection.where)

    async def aclose(self) -> None:
        """Release the connections held on the running loop; those in use by other models stay."""
        if self._connection is not None:
            await self._connection.aclose()

    # --- The reply ---

    async def _ask_client(self, request: Request) -> ChatMessage:
        answer = await self._create(request)
        reply = self._message(sdk.as_dict(answer))
        reply.raw = answer
        return reply

    async def _create(self, request: Request) -> Any:
        headers = {**self.extra_headers, **(request.headers or {})}
        return await sdk.create(
            self.client,
            request.pieces,
            headers=headers,
            extra=request.extra,
            door=self._door,
            seconds=request.timeout,
        )

    def _parsed(self, body: bytes) -> ChatMessage:
        """Return the message in the body of an answer."""
        try:
            answer = codec.loads(body)
        except ValueError:
            if not body.lstrip().startswith((b"data:", b":", b"event:")):
                what = "a web page" if body.lstrip().startswith(b"<") else "broken JSON"
                raise ServerError(
                    f"{self._where} answered with {what} instead of a reply.", status=200
                ) from None
            return self._folded(body)
        return self._message(answer)

    def _message(self, answer: Any) -> ChatMessage:
        if isinstance(answer, dict):
            reply = self._read(answer)
            if reply is not None:
                return reply
            self._check(answer)
        raise ServerError(f"{self._where} answered without a reply: {self._lacking} in it.", status=200)

    def _folded(self, body: bytes) -> ChatMessage:
        """Return the message of a server that streams although nobody asked it to."""
        events, reply, fold = EventReader(), self._reader(None), DeltaFold()
        for event in [*events.feed(body), *events.end()]:
            if event.strip() == b"[DONE]":
                reply.finished = True
                continue
            chunk = codec.loads(event)
            self._check(chunk)
            delta = reply.take(chunk)
            if delta is not None:
                fold.add(delta)
        if not reply.finished:
            raise ConnectionFailedError(f"{self._where}: the stream ended before the reply was complete.")
        last = reply.end()
        if last is not None:
            fold.add(last)
        return fold.message()

    def _check(self, chunk: dict[str, Any]) -> None:
        error = self._error_in(chunk)
        if error is not None:
            raise self._error_inside(error)

    @property
    def _where(self) -> str:
        if self.client is not None or self._connection is None:
            return f"The client of {self.model_id}"
        return self._connection.where

    def _error_inside(self, error: Mapping[str, Any]) -> ProviderError:
        if self.client is None:
            known = [self._connection.secret if self._connection is not None else None]
        else:
            # Libraries are told ours; a client of the user's has its own.
            ours = [secret.reveal() for secret in getattr(self.client, "secrets", ())]
            known = [*ours, getattr(self.client, "api_key", None)]
        secrets = [secret for secret in known if isinstance(secret, str) and secret]
        return failures.error_inside(error, where=self._where, secrets=secrets)

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


def _limits(timeout: Any) -> Timeouts | None:
    return None if timeout is None else Timeouts.of(timeout)


def _as_text(conversions: Mapping[Any, Any] | None) -> dict[str, str] | None:
    return {str(role): str(other) for role, other in conversions.items()} if conversions else None


def json_request(options: Mapping[str, Any], fields: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[bytes]:
    """Return a request as the pieces of its JSON.

    Args:
        options: The small fields.
        fields: The large ones: their names, and the pieces of their JSON.
    """
    pieces = [codec.dumps(options)[:-1]]
    for name, value in fields:
        pieces.append(b',"%b":' % name if options else b'"%b":' % name)
        pieces += value
    pieces.append(b"}")
    return pieces
