"""Models that ask through the SDK of a provider, in the same words as those of our own client.

Each has a real SDK under it, which asks the test's server over HTTP. What it speaks is the provider's
format; what it adds of its own is named here.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Any

from manyhands.messages import TokenUsage
from manyhands.models.bedrock import AmazonBedrockModel
from manyhands.models.hub import InferenceClientModel
from manyhands.models.litellm import LiteLLMModel
from manyhands.models.router import LiteLLMRouterModel
from tests.models.litellm_needs import WARNINGS
from tests.models.servers import CHUNKED
from tests.models.wires import KEY, Asked, Chat, Turn, Wire, pieces

if TYPE_CHECKING:
    from manyhands.models.remote import RemoteModel


class LiteLLM(Chat):
    """The litellm library, told that the server is one of OpenAI's kind."""

    name = "litellm"
    library = "litellm"
    warnings = WARNINGS
    late = "[Tt]ime"
    dropped = "[Cc]onnect"
    blames_in_streams = False
    notices_the_end = False

    def model(self, base: str, model_id: str = "tiny", **settings: Any) -> RemoteModel:
        return LiteLLMModel(f"openai/{model_id}", **{"api_base": f"{base}/v1", "api_key": KEY, **settings})


class Router(Chat):
    """The Router of litellm, with one deployment, which may fail as often as it likes."""

    name = "litellm-router"
    library = "litellm"
    warnings = WARNINGS
    late = "[Tt]ime"
    dropped = "[Cc]onnect"
    blames_in_streams = False
    notices_the_end = False

    def model(self, base: str, model_id: str = "tiny", **settings: Any) -> RemoteModel:
        where = {"model": f"openai/{model_id}", "api_base": f"{base}/v1", "api_key": KEY}
        once = {"num_retries": 0, "disable_cooldowns": True}
        return LiteLLMRouterModel(
            model_id, [{"model_name": model_id, "litellm_params": where}], once, **settings
        )


class Hub(Chat):
    """Hugging Face's own client, at an endpoint of the user's."""

    name = "hub"
    library = "huggingface_hub"
    warnings = WARNINGS  # what litellm left in the tests before may be found in these
    late = "[Tt]ime"
    blames_in_streams = False
    dropped = "disconnected"

    def model(self, base: str, model_id: str = "tiny", **settings: Any) -> RemoteModel:
        return InferenceClientModel(model_id, **{"base_url": f"{base}/v1", "token": KEY, **settings})

    def schema(self, request: dict[str, Any]) -> Any:
        # To an endpoint of one's own the library sends it in the form of Hugging Face's own server.
        assert request["response_format"]["type"] == "json_object"
        return request["response_format"]["value"]


# --- https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html -------------


class Bedrock(Wire):
    """Amazon's boto3."""

    name = "bedrock"
    library = "boto3"
    dropped = "[Cc]losed"
    names_status = False
    path = "/model/tiny/converse"
    credential = "AWS4-HMAC-SHA256 Credential=AKIATEST/"
    most_stops = None
    warnings = ("ignore::DeprecationWarning:botocore",)
    head = CHUNKED.replace(b"text/event-stream", b"application/vnd.amazon.eventstream")

    def model(self, base: str, model_id: str = "tiny", **settings: Any) -> RemoteModel:
        where = {
            "endpoint_url": base,
            "region_name": "eu-west-1",
            "aws_access_key_id": "AKIATEST",
            "aws_secret_access_key": KEY,
        }
        return AmazonBedrockModel(model_id, client_kwargs=where, **settings)

    def counted(self, turn: Turn) -> TokenUsage:
        return TokenUsage(*turn.usage[:3])  # nothing is told of reasoning

    def schema(self, request: dict[str, Any]) -> Any:
        form = request["outputConfig"]["textFormat"]
        assert form["type"] == "json_schema"
        return json.loads(form["structure"]["jsonSchema"]["schema"])

    def _usage(self, turn: Turn) -> dict[str, Any]:
        prompt, reply, cached, _ = turn.usage
        return {
            "inputTokens": prompt - cached - 2,
            "outputTokens": reply,
            "totalTokens": prompt + reply,
            "cacheReadInputTokens": cached,
            "cacheWriteInputTokens": 2,
        }

    def _reason(self, turn: Turn) -> str:
        return "tool_use" if turn.calls else "end_turn"

    def _end(self, turn: Turn) -> dict[str, Any]:
        return {"usage": self._usage(turn), "metrics": {"latencyMs": 5}}

    def _blocks(self, turn: Turn) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if turn.thought:
            thought = {"text": turn.thought, "signature": "EqQB="}
            found.append({"reasoningContent": {"reasoningText": thought}})
        if turn.text is not None:
            found.append({"text": turn.text})
        return found + [{"toolUse": {"toolUseId": i, "name": n, "input": a}} for n, a, i in turn.calls]

    def plain(self, turn: Turn) -> bytes:
        message = {"role": "assistant", "content": self._blocks(turn)}
        answer = {"output": {"message": message}, "stopReason": self._reason(turn), **self._end(turn)}
        return json.dumps(answer).encode()

    def stream(self, turn: Turn) -> list[bytes]:
        found = [frame("messageStart", {"role": "assistant"})]
        for index, block in enumerate(self._blocks(turn)):
            found += self._block(index, block)
        stop = frame("messageStop", {"stopReason": self._reason(turn)})
        return [b"".join(found), stop + frame("metadata", self._end(turn))]

    def _block(self, index: int, block: dict[str, Any]) -> list[bytes]:
        at, found = {"contentBlockIndex": index}, []
        deltas: list[dict[str, Any]]
        if "toolUse" in block:
            call = dict(block["toolUse"])
            given = json.dumps(call.pop("input"))
            found.append(frame("contentBlockStart", {**at, "start": {"toolUse": call}}))
            deltas = [{"toolUse": {"input": piece}} for piece in pieces(given)]
        elif "text" in block:
            deltas = [{"text": piece} for piece in pieces(block["text"])]
        else:
            thought = block["reasoningContent"]["reasoningText"]
            parts = [{"text": piece} for piece in pieces(thought["text"])]
            deltas = [{"reasoningContent": p} for p in [*parts, {"signature": thought["signature"]}]]
        found += [frame("contentBlockDelta", {**at, "delta": delta}) for delta in deltas]
        return [*found, frame("contentBlockStop", at)]

    def error(self, kind: str, message: str) -> Any:
        return {"message": message, "__type": _CODES[kind]}

    def error_event(self, kind: str, message: str) -> bytes:
        code = _CODES[kind]
        return frame(code[0].lower() + code[1:], {"message": message}, "exception")

    def read(self, request: dict[str, Any]) -> Asked:
        said = []
        for entry in request["messages"]:
            for block in entry["content"]:
                result = block.get("toolResult")
                role = "tool" if result else entry["role"]
                texts = result["content"] if result else [block]
                said.append((role, "".join(part.get("text", "") for part in texts)))
        return Asked(
            "tiny",  # it is in the address
            "\n".join(block["text"] for block in request.get("system", ())),
            said,
            [tool["toolSpec"]["name"] for tool in request.get("toolConfig", {}).get("tools", ())],
            request.get("inferenceConfig", {}).get("stopSequences", []),
        )


_CODES = {
    "invalid_request_error": "ValidationException",
    "authentication_error": "AccessDeniedException",
    "not_found_error": "ResourceNotFoundException",
    "rate_limit_error": "ThrottlingException",
    "api_error": "InternalServerException",
    "overloaded_error": "ServiceUnavailableException",
}


def frame(kind: str, payload: dict[str, Any], sort: str = "event") -> bytes:
    """One message of an event stream, as AWS puts it on the wire."""
    named = {f":{sort}-type": kind, ":content-type": "application/json", ":message-type": sort}
    head = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in named.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(head) + len(body), len(head))
    whole = prelude + struct.pack("!I", zlib.crc32(prelude)) + head + body
    return whole + struct.pack("!I", zlib.crc32(whole))


SDK_WIRES: list[Wire] = [LiteLLM(), Router(), Hub(), Bedrock()]
