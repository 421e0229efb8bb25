"""Chat completions as OpenAI's clients send them and expect them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from manyhands.serve.schemas import WHOLE, Asked, Name, Told


class TextPart(Asked):
    """Text of a message."""

    type: Literal["text"]
    text: str = Field(max_length=200_000)


class ImageAddress(Asked):
    """Where a picture is."""

    url: str = Field(
        pattern="^data:image/png;base64,", description="A PNG as a data URL; nothing is fetched."
    )
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Asked):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageAddress


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


def _kind(content: Any) -> str:
    return "parts" if isinstance(content, list) else "text"


Content = Annotated[
    Annotated[str, Field(max_length=200_000), Tag("text")] | Annotated[list[Part], Tag("parts")],
    Discriminator(_kind),
]


class ChatTurn(Asked):
    """One message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Name | None = None


class StreamOptions(Asked):
    """What a stream brings along."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(Asked):
    """The only form of answers."""

    type: Literal["text"]


class ChatRequest(Asked):
    """A conversation, for an agent to go on with.

    What only makes sense for a bare model (temperature and the like) is accepted and not used.
    """

    model: Name = Field(description="Name of the agent.")
    messages: Annotated[list[ChatTurn], Field(min_length=1, max_length=10_000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    n: Annotated[int, Field(ge=1, le=1), WHOLE] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="An agent has its own.")
    response_format: TextFormat | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: Annotated[int, WHOLE] | None = None
    max_completion_tokens: Annotated[int, WHOLE] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Annotated[int, WHOLE] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    logprobs: Literal[False] | None = None
    reasoning_effort: str | None = None


# --- Answers -----------------------------------------------------------------------------------------


class ChatUsage(Told):
    """Tokens of all questions that the agent asked its model."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatReply(Told):
    """What the agent says."""

    role: Literal["assistant"]
    content: str


class ChatChoice(Told):
    """The only choice."""

    index: Literal[0]
    message: ChatReply
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Told):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


class ModelCard(Told):
    """An agent, as a model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Told):
    """The agents, as models."""

    object: Literal["list"]
    data: list[ModelCard]


class ChatError(BaseModel):
    """What is wrong, in OpenAI's form."""

    model_config = ConfigDict(extra="forbid")

    message: str
    type: str
    param: str | None
    code: str | None


class ChatProblem(BaseModel):
    """OpenAI's form of errors."""

    model_config = ConfigDict(extra="forbid")

    error: ChatError
