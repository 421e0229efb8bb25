"""What comes in over the OpenAI chat-completions wire: read, checked, and refused as OpenAI would.

A request is checked in one pass over its messages and kept as the plain dictionaries it arrived in:
a simulated provider is asked thousands of times a second, so nothing here builds objects it may not need.

Tokens are estimated, not counted: four characters of text are one token, a picture is 85. Text is the
content of the messages, the arguments of their tool calls, and the tool definitions as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
CHARACTERS_PER_TOKEN = 4
TOKENS_PER_IMAGE = 85
_TOOL_CHOICES = ("none", "auto", "required")
_RESPONSE_FORMATS = ("text", "json_object", "json_schema")


class WireError(Exception):
    """An answer other than a completion; a policy may raise it too.

    Args:
        status: HTTP status.
        message: What the client reads.
        param: The request field at fault.
        code: OpenAI's code for the error.
        type: OpenAI's error type; follows from the status if left out.
        headers: Further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.type = type or ("invalid_request_error" if status < 500 else "server_error")
        self.headers = headers

    def body(self) -> bytes:
        """Return OpenAI's error object as JSON."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


@dataclass(slots=True)
class Call:
    """A tool call that a policy wants in the reply.

    Attributes:
        name: The tool.
        arguments: Its arguments; a string is sent as it is, so broken JSON can be tried too.
        id: The call's id; the server gives one if this is ``None``.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = None

    def arguments_json(self) -> str:
        """Return the arguments as the string that goes over the wire."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(slots=True)
class Reply:
    """What a policy answers.

    Attributes:
        text: The content, before stop sequences and ``max_tokens`` cut it.
        calls: Tool calls.
        finish_reason: Overrules the one that follows from the rest.
    """

    text: str | None = None
    calls: Sequence[Call] = ()
    finish_reason: str | None = None


@dataclass(slots=True)
class ChatRequest:
    """A checked request, with its fields as they arrived.

    Attributes:
        body: The whole request object.
        model: Model id.
        messages: Messages as dictionaries.
        tools: Tool definitions.
        tool_choice: ``"auto"``, ``"none"``, ``"required"`` or the name of a function.
        stop: Stop sequences.
        stream: Whether an event stream is wanted.
        include_usage: Whether the stream ends with a usage chunk.
        max_tokens: Limit for the reply, or ``None``.
        response_format: The format object, or ``None``.
        prompt_tokens: Estimated size of the prompt.
        headers: Headers of the HTTP request; empty when parsed outside a server.
    """

    body: dict[str, Any]
    model: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    tool_choice: str
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    response_format: dict[str, Any] | None
    prompt_tokens: int
    # Not shown: the key is in them.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def text_of(self, index: int = -1) -> str:
        """Return the text of one message, of the last by default."""
        return text_of(self.messages[index])

    def tool_names(self) -> list[str]:
        """Return the names of the tools on offer."""
        return [tool["function"]["name"] for tool in self.tools]


def text_of(message: Mapping[str, Any]) -> str:
    """Return a message's text, whether its content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not content:
        return ""
    return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))


def parse_request(raw: bytes) -> ChatRequest:
    """Read and check the body of a chat-completions request.

    Args:
        raw: The HTTP body.

    Returns:
        The request.

    Raises:
        WireError: Naming the offending field, as OpenAI does.
    """
    body = _load(raw)
    model = _model(body)
    if "messages" not in body:
        _missing("messages")
    _one_choice(body.get("n"))
    tools, tool_tokens = _tools(body.get("tools"))
    stream = _flag(body, "stream")
    return ChatRequest(
        body=body,
        model=model,
        messages=body["messages"],
        tools=tools,
        tool_choice=_tool_choice(body.get("tool_choice"), tools),
        stop=_stop(body.get("stop")),
        stream=stream,
        include_usage=_include_usage(body.get("stream_options"), stream),
        max_tokens=_max_tokens(body),
        response_format=_response_format(body.get("response_format")),
        prompt_tokens=_messages_tokens(body["messages"]) + tool_tokens,
    )


def estimate_tokens(characters: int) -> int:
    """Return the tokens that so many characters are taken for."""
    return -(-characters // CHARACTERS_PER_TOKEN)


def _bad(message: str, param: str | None = None, code: str | None = None) -> NoReturn:
    raise WireError(400, message, param=param, code=code)


def _missing(param: str) -> NoReturn:
    _bad(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def _wrong_type(param: str, expected: str, value: object) -> NoReturn:
    got = {"dict": "an object", "list": "an array", "str": "a string", "bool": "a boolean"}.get(
        type(value).__name__, "null" if value is None else "a number"
    )
    _bad(f"Invalid type for '{param}': expected {expected}, but got {got} instead.", param, "invalid_type")


def _load(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    # A deeply nested body ends the parser's recursion: that is malformed too, not a crash.
    except (ValueError, RecursionError):
        _bad(
            "We could not parse the JSON body of your request. The simulated provider expects a JSON object."
        )
    if not isinstance(body, dict):
        _wrong_type("body", "an object", body)
    return body


def _model(body: dict[str, Any]) -> str:
    model = body.get("model")
    if model is None or model == "":
        _bad("you must provide a model parameter")
    if not isinstance(model, str):
        _wrong_type("model", "a string", model)
    return model


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        _wrong_type(name, "a boolean", value)
    return bool(value)


def _include_usage(options: object, stream: bool) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        _wrong_type("stream_options", "an object", options)
    if not stream:
        _bad("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    return bool(options.get("include_usage"))


def _max_tokens(body: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            _wrong_type(name, "an integer", value)
        if value < 1:
            _bad(f"Invalid '{name}': expected a value >= 1, but got {value} instead.", name, "invalid_value")
        return value
    return None


def _one_choice(n: object) -> None:
    if n is None or n == 1:
        return
    if not isinstance(n, int) or isinstance(n, bool):
        _wrong_type("n", "an integer", n)
    _bad(f"Invalid 'n': the simulated provider gives exactly one choice, not {n}.", "n", "invalid_value")


def _stop(stop: object) -> tuple[str, ...]:
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,) if stop else ()
    if not isinstance(stop, list) or not all(isinstance(item, str) for item in stop):
        _wrong_type("stop", "a string or an array of strings", stop)
    return tuple(item for item in stop if item)


def _response_format(value: object) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        _wrong_type("response_format", "an object", value)
    if value.get("type") not in _RESPONSE_FORMATS:
        _unsupported("response_format.type", value.get("type"), _RESPONSE_FORMATS)
    if value["type"] == "json_schema":
        schema = value.get("json_schema")
        if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
            _missing("response_format.json_schema.schema")
    return value


def _unsupported(param: str, value: object, supported: Sequence[str]) -> NoReturn:
    names = ", ".join(f"'{name}'" for name in supported)
    _bad(f"Invalid value: {value!r}. Supported values are: {names}.", param, "invalid_value")


def _tools(tools: object) -> tuple[list[dict[str, Any]], int]:
    if tools is None:
        return [], 0
    if not isinstance(tools, list):
        _wrong_type("tools", "an array", tools)
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            _wrong_type(f"tools[{index}]", "an object", tool)
        if tool.get("type") != "function":
            _unsupported(f"tools[{index}].type", tool.get("type"), ("function",))
        _function(tool.get("function"), f"tools[{index}].function")
    return tools, estimate_tokens(len(json.dumps(tools))) if tools else 0


def _function(function: object, where: str) -> None:
    if not isinstance(function, dict):
        _missing(where)
    if not isinstance(function.get("name"), str) or not function["name"]:
        _missing(f"{where}.name")
    if not isinstance(function.get("parameters", {}), dict):
        _wrong_type(f"{where}.parameters", "an object", function["parameters"])


def _tool_choice(choice: object, tools: list[dict[str, Any]]) -> str:
    if choice is None:
        return "auto" if tools else "none"
    if isinstance(choice, str):
        if choice not in _TOOL_CHOICES:
            _unsupported("tool_choice", choice, _TOOL_CHOICES)
        name = choice
    else:
        name = _chosen_function(choice, tools)
    if not tools and name != "none":
        _bad("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
    return name


def _chosen_function(choice: object, tools: list[dict[str, Any]]) -> str:
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        _wrong_type("tool_choice", "a string or an object naming a function", choice)
    if all(tool["function"]["name"] != name for tool in tools):
        _bad(f"Invalid value for 'tool_choice': no function named '{name}' was specified.", "tool_choice")
    return name


def _messages_tokens(messages: object) -> int:
    """Check every message and return the prompt's estimated tokens."""
    if not isinstance(messages, list):
        _wrong_type("messages", "an array of objects", messages)
    if not messages:
        _bad("Invalid 'messages': empty array. Expected at least one message.", "messages", "empty_array")
    characters = images = 0
    open_calls: set[str] | None = None
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            _wrong_type(f"messages[{index}]", "an object", message)
        role = message.get("role")
        if role is None:
            _missing(f"messages[{index}].role")
        if role not in ROLES:
            _unsupported(f"messages[{index}].role", role, ROLES)
        open_calls = _follow_calls(message, role, open_calls, index)
        content = message.get("content")
        if type(content) is str:
            characters += len(content)
        else:
            more, pictures = _parts(content, message, f"messages[{index}].content")
            characters += more
            images += pictures
        if role == "assistant" and message.get("tool_calls"):
            characters += sum(len(call["function"]["arguments"]) for call in message["tool_calls"])
    _all_answered(open_calls, len(messages))
    return estimate_tokens(characters) + images * TOKENS_PER_IMAGE


def _follow_calls(
    message: dict[str, Any], role: str, open_calls: set[str] | None, index: int
) -> set[str] | None:
    """Hold tool messages to the calls they answer; return the calls still unanswered, if any are known."""
    if role == "tool":
        call_id = message.get("tool_call_id")
        if not isinstance(call_id, str):
            _missing(f"messages[{index}].tool_call_id")
        if open_calls is None:
            _bad(
                "Invalid parameter: messages with role 'tool' must be a response to a preceding message "
                "with 'tool_calls'.",
                f"messages[{index}].role",
            )
        open_calls.discard(call_id)
        return open_calls
    _all_answered(open_calls, index)
    if role == "assistant" and message.get("tool_calls"):
        return _call_ids(message["tool_calls"], f"messages[{index}].tool_calls")
    return None


def _all_answered(open_calls: set[str] | None, index: int) -> None:
    if open_calls:
        _bad(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            "'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(sorted(open_calls)),
            f"messages[{index}].role",
        )


def _call_ids(calls: object, where: str) -> set[str]:
    if not isinstance(calls, list):
        _wrong_type(where, "an array", calls)
    ids = set()
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(call.get("id"), str):
            _missing(f"{where}[{index}].id" if isinstance(function, dict) else f"{where}[{index}].function")
        if not isinstance(function.get("name"), str):
            _missing(f"{where}[{index}].function.name")
        if not isinstance(function.get("arguments"), str):
            _wrong_type(f"{where}[{index}].function.arguments", "a string", function.get("arguments"))
        ids.add(call["id"])
    return ids


def _parts(content: object, message: dict[str, Any], where: str) -> tuple[int, int]:
    """Return characters and pictures of content that is not a plain string."""
    if content is None:
        if message["role"] == "assistant" and (message.get("tool_calls") or message.get("function_call")):
            return 0, 0
        _bad("Invalid value for 'content': expected a string, got null.", where)
    if not isinstance(content, list):
        _wrong_type(where, "a string or an array of content parts", content)
    characters = images = 0
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            _missing(f"{where}[{index}].type")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            _missing(f"{where}[{index}].text")
        characters += len(part.get("text") or "")
        images += part["type"] == "image_url"
    return characters, images
