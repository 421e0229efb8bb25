"""Models behind a chat-completions endpoint, whoever runs it: what to send, what to make of the answer.

Where to send it is the subclass's affair: see :meth:`ChatCompletionsModel.endpoint`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_in_thread
from manyhands.errors import ConnectionFailedError, ProviderError, ServerError
from manyhands.messages import ChatMessage, ChatMessageStreamDelta, DeltaFold
from manyhands.models import codec, failures, sdk, wire
from manyhands.models.base import Model, whole_delta
from manyhands.models.cleaning import (
    REMOVE_PARAMETER,
    StopCutter,
    remove_content_after_stop_sequences,
    supports_stop_parameter,
)
from manyhands.models.sse import EventReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from manyhands.models.endpoint import Endpoint
    from manyhands.models.http import Answer, Client

# Fields that a provider refuses in a request without tools.
_ONLY_WITH_TOOLS = ("tool_choice", "parallel_tool_calls")
_tools = wire.ToolEncoder()


class ChatCompletionsModel(Model):
    """Base of the models that speak OpenAI's chat-completions format.

    Args:
        model_id: Name of the model at its provider.
        custom_role_conversions: Roles by the names that the provider wants for them.
        flatten_messages_as_text: Send text only: no images, no tool messages.
        client: An object like ``openai.AsyncOpenAI`` to ask instead of our own connections; it may
            be set later too.
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
        extra_body: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(flatten_messages_as_text=flatten_messages_as_text, model_id=model_id, **kwargs)
        self.client = client
        self.custom_role_conversions = custom_role_conversions
        self.extra_body = dict(extra_body or {})
        self._encoder = wire.message_encoder(flatten_messages_as_text, custom_role_conversions)
        self.native_tool_messages = self._encoder.native_tools
        self._connection: Client | None = None

    def endpoint(self) -> Endpoint:
        """Return where this model is asked; called once, at the first call.

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
            **kwargs: More fields of the request.

        Returns:
            The reply.

        Raises:
            ProviderError: The provider gave none; its class says whose fault that is.
        """
        options, tools = self._options(stop_sequences, response_format, tools_to_call_from, kwargs)
        pieces = await self._pieces(options, tools, messages)
        if self.client is None:
            reply = self._reply(await self._connected().post(pieces))
        else:
            answer = await sdk.create(self.client, pieces, stream=False)
            reply = self._checked(answer)
        if stop_sequences and "stop" not in options:
            reply.content = remove_content_after_stop_sequences(reply.text or None, stop_sequences)
        return reply

    async def agenerate_stream(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: Any = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatMessageStreamDelta]:
        """Ask for a reply in pieces; arguments and errors are those of :meth:`agenerate`.

        Yields:
            Pieces of the reply; the last one holds the token counts.
        """
        options, tools = self._options(stop_sequences, response_format, tools_to_call_from, kwargs, stream=True)
        pieces = await self._pieces(options, tools, messages)
        cutter = StopCutter(stop_sequences if stop_sequences and "stop" not in options else ())
        reply = wire.StreamedReply()
        deltas = self._deltas(pieces, reply)
        try:
            async for delta in deltas:
                if delta.content and cutter.active:
                    delta.content = cutter.feed(delta.content) or None
                    if not (delta.content or delta.tool_calls or delta.reasoning_content):
                        continue
                yield delta
        finally:
            await deltas.aclose()
        rest = cutter.end()
        if rest or reply.usage is not None:
            yield ChatMessageStreamDelta(rest or None, None, reply.usage)
