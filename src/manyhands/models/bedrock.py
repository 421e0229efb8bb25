"""Amazon Bedrock's models, through Converse.

boto3 knows no async: each call has a worker thread while it lasts, from a pool of its own, so that slow
replies never take the threads that tools run on. A client of aiobotocore may be given instead.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from manyhands._bridge import Workers, is_async_callable
from manyhands.errors import (
    AgentError,
    AuthenticationError,
    BadRequestError,
    CallerError,
    ConnectionFailedError,
    ProviderError,
    RateLimitError,
    ServerError,
)
from manyhands.models import failures, libraries, wire
from manyhands.models.cleaning import (
    REMOVE_PARAMETER,
    remove_content_after_stop_sequences,
    supports_stop_parameter,
)
from manyhands.models.converse import (
    ConverseEncoder,
    StreamedReply,
    output_config,
    reply_message,
    tool_config,
)
from manyhands.models.remote import RemoteModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from manyhands.messages import ChatMessage, ChatMessageStreamDelta
    from manyhands.models.endpoint import Endpoint

_MOST_CALLS = 256
_threads = Workers(cap=_MOST_CALLS)

# OpenAI's names of settings, which callers use for all providers alike.
_INFERENCE = {
    "max_tokens": "maxTokens",
    "max_completion_tokens": "maxTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "stop": "stopSequences",
}
_END = object()


class _Fields(NamedTuple):
    """What is sent, and where the reply is to be cut if Bedrock does not do it."""

    fields: dict[str, Any]
    cut: list[str] | None


class AmazonBedrockModel(RemoteModel):
    """A model on Amazon Bedrock.

    Args:
        model_id: Id or ARN of a model or an inference profile.
        client: A ``bedrock-runtime`` client of boto3, or of aiobotocore, to ask instead of our own.
        client_kwargs: Arguments of ``boto3.client``, such as ``region_name``; keys given here are kept out
            of sight.
        custom_role_conversions: Roles by the roles that replace them.
        flatten_messages_as_text: Send text only: no images, no tool messages.
        extra_body: Fields that the model knows and Converse does not: ``additionalModelRequestFields``.
        requests_per_minute: Most requests in any minute, shared by all models with the same key.
        tokens_per_minute: Most tokens in any minute, prompts and replies together, shared likewise.
        max_concurrency: Most requests of this model under way at once.
        retry: Whether to ask again after refusals, failures of the provider and broken connections; or by
            which :class:`~manyhands.limits.retry.RetryPolicy`.
        **kwargs: Fields of Converse's request, such as ``guardrailConfig`` and ``inferenceConfig``, or
            ``max_tokens``, ``temperature``, ``top_p`` and ``stop``; they win over the arguments of a call.

    Raises:
        MissingExtraError: boto3 is not installed, and no client is given.
    """

    native_tool_messages = True

    def __init__(
        self,
        model_id: str,
        client: Any = None,
        client_kwargs: Mapping[str, Any] | None = None,
        custom_role_conversions: Mapping[Any, Any] | None = None,
        flatten_messages_as_text: bool = False,
        *,
        extra_body: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if client is None:
            libraries.require("AmazonBedrockModel", "bedrock", "boto3")
        super().__init__(
            model_id,
            custom_role_conversions,
            flatten_messages_as_text,
            client=client,
            extra_body=extra_body,
            **kwargs,
        )
        self._roles = {str(role): str(other) for role, other in (custom_role_conversions or {}).items()}
        renamed = {"tool-call", "tool-response", "assistant"} & self._roles.keys()
        self.native_tool_messages = not flatten_messages_as_text and not renamed
        self._settings = _Settings(client_kwargs or {})
        self._own_client: libraries.Once[Any] = libraries.Once(self._settings.connect, "connect")

    @property
    def supports_stop_parameter(self) -> bool:
        """Whether the model takes stop sequences; if not, its replies are cut here."""
        return supports_stop_parameter(self.model_id)

    def endpoint(self) -> Endpoint:
        """Return where this model is asked, and with which key: that is what AWS counts by."""
        return libraries.endpoint_of(f"bedrock:{self._settings.region}", self._settings.secrets)

    async def request(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: Any = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """Make one request, without limits and retries; see :meth:`agenerate`."""
        request = await self._asked(messages, stop_sequences, response_format, tools_to_call_from, kwargs)
        client = await self._reached()
        answer = await self._call(client.converse, **request.fields)
        if not (answer.get("output") or {}).get("message"):
            raise ServerError(
                f"{self.model_id} (Bedrock) answered without a reply: no message in it.", status=200
            )
        reply = reply_message(answer)
        if request.cut and reply.content:
            reply.content = remove_content_after_stop_sequences(reply.text, request.cut)
        return reply

    async def request_stream(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: Any = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Make one request, without limits and retries; see :meth:`agenerate_stream`."""
        request = await self._asked(messages, stop_sequences, response_format, tools_to_call_from, kwargs)
        client = await self._reached()
        reply = StreamedReply(request.cut)
        answer = await self._call(client.converse_stream, **request.fields)
        events = _Events(answer["stream"])
        try:
            while (event := await self._call(events.next)) is not _END:
                delta = reply.take(event)
                if delta is not None:
                    yield delta
        finally:
            await events.aclose()
        if not reply.finished:
            raise ConnectionFailedError(f"{self.model_id}: the stream ended before the reply was complete.")
        yield reply.end()

    # --- The request ---

    async def _asked(self, *asked: Any) -> _Fields:
        # Images are encoded on the way: never on the loop.
        request: _Fields = await self._guarded(_threads.run(lambda: self._built(*asked), label="bedrock"))
        return request

    def _built(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None,
        response_format: Any,
        tools: list[Any] | None,
        more: dict[str, Any],
    ) -> _Fields:
        extra = {**self.extra_body, **more.pop("extra_body", {})}
        options: dict[str, Any] = {"tool_choice": "required", **more, **self.kwargs}
        options = {name: value for name, value in options.items() if value is not REMOVE_PARAMETER}
        config = _tool_config(tools, options)
        native = self.native_tool_messages and config is not None
        encoder = ConverseEncoder(self._roles, self.flatten_messages_as_text, native)
        system, turns = encoder.encode(messages)
        stops = [stop for stop in stop_sequences or () if stop.strip()]
        if stops and self.supports_stop_parameter:
            options.setdefault("stop", stops)
        inference = _inference(options)
        fields = {
            "modelId": self.model_id,
            "messages": turns,
            "system": system,
            "toolConfig": config,
            "outputConfig": output_config(wire.response_format(response_format)) if response_format else None,
            "additionalModelRequestFields": extra,
            "inferenceConfig": inference,
        }
        whole = {**{name: value for name, value in fields.items() if value}, **options}
        return _Fields(whole, None if "stopSequences" in inference else stop_sequences)

    async def _reached(self) -> Any:
        return self.client if self.client is not None else await self._guarded(self._own_client.get())

    # --- The call ---

    async def _call(self, method: Callable[..., Any], **request: Any) -> Any:
        if is_async_callable(method):
            return await self._guarded(method(**request))
        return await self._guarded(_threads.run(lambda: method(**request), label="bedrock"))

    async def _guarded(self, awaitable: Awaitable[Any]) -> Any:
        try:
            return await awaitable
        except Exception as error:
            ours = _failure(error, f"{self.model_id} (Bedrock)", self._settings.secrets)
        # Raised out here, it has no context: some of botocore's errors hold headers.
        raise ours

    async def aclose(self) -> None:
        """Leave connections to boto3: its client serves all loops, and a client given is its owner's."""

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON; client and keys stay out."""
        settings = self._settings.shown
        described = {**super().to_dict(), **({"client_kwargs": settings} if settings else {})}
        return libraries.without_secrets(described)


AmazonBedrockServerModel = AmazonBedrockModel


def _tool_config(tools: list[Any] | None, options: dict[str, Any]) -> dict[str, Any] | None:
    choice = options.pop("tool_choice", None)
    given: dict[str, Any] | None = options.pop("toolConfig", None)
    if given is not None:
        return given
    return tool_config(tools, choice) if tools and choice != "none" else None


def _inference(options: dict[str, Any]) -> dict[str, Any]:
    """Take the settings of inference out of ``options``, whatever they are called there."""
    named = {_INFERENCE[name]: options.pop(name) for name in list(options) if name in _INFERENCE}
    if isinstance(named.get("stopSequences"), str):
        named["stopSequences"] = [named["stopSequences"]]
    return {**named, **options.pop("inferenceConfig", {})}


class _Settings:
    """How to connect; shows nothing of itself, for there are keys in it.

    Args:
        client_kwargs: Arguments of ``boto3.client``.
    """

    def __init__(self, client_kwargs: Mapping[str, Any]) -> None:
        self._given = dict(client_kwargs)
        self.secrets = libraries.secrets_in(self._given)

    def __repr__(self) -> str:
        return "_Settings(***)"

    @property
    def shown(self) -> dict[str, Any]:
        """What of them may be written down."""
        plain = {name: value for name, value in self._given.items() if isinstance(value, (str, int, bool))}
        return libraries.without_secrets(plain)

    @property
    def region(self) -> str:
        """The region, or what else says where AWS is asked."""
        named = ("region_name", "endpoint_url", "profile_name")
        return "/".join(str(self._given[name]) for name in named if name in self._given)

    def connect(self) -> Any:
        """Return a client; reads descriptions of the service from disk."""
        # Retries are the limits' affair: here they would wait in a thread and hold a place meanwhile.
        ours = import_module("botocore.config").Config(
            max_pool_connections=_MOST_CALLS,
            retries={"total_max_attempts": 1},
            read_timeout=600,
            connect_timeout=10,
        )
        given = self._given.get("config")
        settings = {**self._given, "config": ours.merge(given) if given is not None else ours}
        # A session of its own: the default one may not be used by two threads at once.
        return import_module("boto3.session").Session().client("bedrock-runtime", **settings)


class _Events:
    """The events of a stream, from boto3 or aiobotocore.

    Args:
        stream: The stream that a client gave.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._async = hasattr(type(stream), "__aiter__")
        self._items = stream.__aiter__() if self._async else iter(stream)
        self._ended = False
        self.next = self._anext if self._async else self._next

    async def _anext(self) -> Any:
        return await anext(self._items, _END)

    def _next(self) -> Any:
        event = next(self._items, _END)
        self._ended = event is _END
        return event

    async def aclose(self) -> None:
        """Close the connection, also under a thread that waits for more."""
        if self._async:
            closing = self._stream.close()
            if inspect.isawaitable(closing):
                await closing
            return
        if self._ended or not self._wake():
            return
        await _threads.run(self._stream.close, label="bedrock")

    def _wake(self) -> bool:
        """End the wait of a thread that reads; return whether it is sure not to wait any longer."""
        shutdown = getattr(getattr(self._stream, "_raw_stream", None), "shutdown", None)
        if shutdown is None:
            return not hasattr(self._stream, "_raw_stream")
        try:
            shutdown()
        except (RuntimeError, ValueError, OSError):
            return True  # the connection is gone already
        return True


# --- Errors ------------------------------------------------------------------------------------

# By the code that Bedrock or a part of AWS before it gives; the rest follow from their HTTP status.
_CODES: dict[str, type[ProviderError]] = {
    "ThrottlingException": RateLimitError,
    "TooManyRequestsException": RateLimitError,
    "ServiceQuotaExceededException": RateLimitError,
    "LimitExceededException": RateLimitError,
    "ModelNotReadyException": ServerError,
    "ModelErrorException": ServerError,
    "ModelTimeoutException": ServerError,
    "ModelStreamErrorException": ServerError,
    "InternalServerException": ServerError,
    "ServiceUnavailableException": ServerError,
    "AccessDeniedException": AuthenticationError,
    "UnrecognizedClientException": AuthenticationError,
    "InvalidSignatureException": AuthenticationError,
    "ExpiredTokenException": AuthenticationError,
    "IncompleteSignature": AuthenticationError,
    "MissingAuthenticationToken": AuthenticationError,
    "ValidationException": BadRequestError,
    "ResourceNotFoundException": BadRequestError,
}
# Errors of botocore that have no answer behind them, by the classes that they are made from.
_BEFORE: dict[str, type[AgentError]] = {
    "NoCredentialsError": AuthenticationError,
    "PartialCredentialsError": AuthenticationError,
    "CredentialRetrievalError": AuthenticationError,
    "TokenRetrievalError": AuthenticationError,
    "SSOError": AuthenticationError,
    "ProfileNotFound": CallerError,
    "NoRegionError": CallerError,
    "ParamValidationError": BadRequestError,
    "UnknownParameterError": BadRequestError,
    "HTTPClientError": ConnectionFailedError,
    "ConnectionError": ConnectionFailedError,
    "EventStreamError": ServerError,
    "HTTPError": ConnectionFailedError,  # urllib3, in the middle of a stream
    "ParserError": ConnectionFailedError,
    "AttributeError": ServerError,  # the answer is JSON, and no object
}
_HINTS = {
    "NoRegionError": "Set the environment variable AWS_REGION, or pass client_kwargs={'region_name': ...}.",
    "NoCredentialsError": "Set AWS credentials up as for boto3, or set AWS_BEARER_TOKEN_BEDROCK.",
}


def _failure(error: Exception, where: str, secrets: list[Any]) -> AgentError:
    """Return what an error of botocore means."""
    names = [kind.__name__ for kind in type(error).__mro__]
    answer = getattr(error, "response", None)
    if isinstance(answer, dict) and "Error" in answer:
        return _refusal(error, answer, where, secrets)
    kind = next((_BEFORE[name] for name in names if name in _BEFORE), None)
    ours = libraries.failure(error, where, secrets)
    if kind is None or isinstance(ours, kind):
        return ours
    hint = next((_HINTS[name] for name in names if name in _HINTS), "")
    told = kind(f"{ours.message} {hint}".strip())
    told.__cause__ = ours.__cause__
    return told


def _refusal(error: Exception, answer: Mapping[str, Any], where: str, secrets: list[Any]) -> ProviderError:
    code = str(answer["Error"].get("Code") or "")
    code = code[:1].upper() + code[1:]  # in a stream they begin with a small letter
    about = answer.get("ResponseMetadata") or {}
    status = about.get("HTTPStatusCode")
    status = status if isinstance(status, int) and status >= 400 else None
    kind = _CODES.get(code) or failures.error_class(status)
    text = libraries.failure(error, where, secrets)
    headers = {
        "Retry-After" if name.lower() == "retry-after" else name: value
        for name, value in (about.get("HTTPHeaders") or {}).items()
    }
    ours = kind(
        text.message,
        status=status or (429 if kind is RateLimitError else None),
        retry_after=failures.retry_after(headers),
        body={"code": code, "message": text.message},
    )
    ours.__cause__ = text.__cause__
    return ours
