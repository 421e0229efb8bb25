"""Models of vLLM in this process; many calls share its batches.

vLLM advances all its requests by one token with each step. Every call stands in line for the model's thread
as with other local models; but whoever has it takes the requests of all the others along, step by step,
until its own is done. So each call begins at the next step, and no thread drives an engine nobody asks.
"""

from __future__ import annotations

import itertools
import queue
from importlib import import_module
from typing import TYPE_CHECKING, Any

from manyhands.models import wire
from manyhands.models.libraries import require, without_secrets
from manyhands.models.local import Call, LocalModel, OneThread, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MOST_TOKENS = 2048


class VLLMModel(LocalModel):
    """A model that vLLM runs in this process, loaded at its first call.

    For one that ``vllm serve`` runs elsewhere, see :class:`manyhands.OpenAIModel`.

    Args:
        model_id: Name on the Hub, or a folder.
        model_kwargs: More arguments of ``vllm.LLM``, such as ``max_model_len``.
        apply_chat_template_kwargs: More arguments of the tokenizer's ``apply_chat_template``.
        **kwargs: Arguments of ``vllm.SamplingParams``; they win over the arguments of a call.

    Raises:
        MissingExtraError: vLLM is not installed.
    """

    _label = "vllm"

    def __init__(
        self,
        model_id: str,
        model_kwargs: Mapping[str, Any] | None = None,
        apply_chat_template_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        require("VLLMModel", "vllm", "vllm")
        super().__init__(model_id, apply_chat_template_kwargs, thread=OneThread(forever=True), **kwargs)
        self.model_kwargs = dict(model_kwargs or {})
        self.model: Any = None
        self.tokenizer: Any = None
        self._batch: _Batch | None = None
        self._arrived: queue.SimpleQueue[tuple[Call, Request]] = queue.SimpleQueue()

    def _load(self) -> None:
        self.model = import_module("vllm").LLM(model=self.model_id, **self.model_kwargs)
        self.tokenizer = self.model.get_tokenizer()
        self._batch = _Batch(self.model.llm_engine)

    def _work(self, call: Call, request: Request) -> Callable[[], None]:
        self._arrived.put((call, request))

        def work() -> None:
            try:
                self._loaded()
                self._drive(call)
            except BaseException as error:
                call.fail(error)

        return work

    def _reply(self, call: Call, request: Request) -> None:
        """Let a call into the batch; it is fed by whoever drives."""
        assert self._batch is not None
        prompt = self._prompt_ids(self.tokenizer, call, request)
        self._batch.add(call, prompt, _sampling(request))

    def _drive(self, until: Call) -> None:
        assert self._batch is not None
        while not until.over:
            self._let_in()
            if not until.over:
                self._batch.step()
        self._batch.drop_stopped()

    def _let_in(self) -> None:
        while not self._arrived.empty():
            call, request = self._arrived.get()
            if call.stopped:
                call.finish()
                continue
            try:
                self._reply(call, request)
            except Exception as error:
                call.fail(error)

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON."""
        settings = without_secrets(self.model_kwargs)
        return {**super().to_dict(), **({"model_kwargs": settings} if settings else {})}


def _sampling(request: Request) -> Any:
    params = import_module("vllm.sampling_params")
    limit = request.take("max_tokens", "max_new_tokens", "max_completion_tokens", default=_MOST_TOKENS)
    options = {"temperature": 0.0, "max_tokens": limit, **request.options}
    wanted = wire.response_format(request.response_format) or {}
    if wanted.get("json_schema"):
        schema = wanted["json_schema"]["schema"]
        options["structured_outputs"] = params.StructuredOutputsParams(json=schema)
    elif wanted.get("type") == "json_object":
        options["structured_outputs"] = params.StructuredOutputsParams(json_object=True)
    return params.SamplingParams(
        **options,
        output_kind=params.RequestOutputKind.DELTA,  # stop sequences are looked for in what comes
    )


class _Batch:
    """The requests that an engine works on.

    Args:
        engine: vLLM's engine.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._calls: dict[str, Call] = {}
        self._numbers = itertools.count()

    def add(self, call: Call, prompt: list[int], params: Any) -> None:
        """Let a call in."""
        name = f"manyhands-{next(self._numbers)}"
        self._engine.add_request(name, {"prompt_token_ids": prompt}, params)
        self._calls[name] = call

    def step(self) -> None:
        """Advance all calls by one token, and let those go that want no more.

        Raises:
            Exception: The engine broke; all calls in it have been told.
        """
        self.drop_stopped()
        if not self._calls:
            return  # an engine without work would wait for some
        try:
            outputs = self._engine.step()
        except BaseException as error:
            for call in self._calls.values():
                call.fail(error)
            self._calls.clear()
            raise
        for output in outputs:
            asked = self._calls.get(output.request_id)
            if asked is not None:
                self._hand_on(asked, output)

    def _hand_on(self, call: Call, output: Any) -> None:
        for part in output.outputs[:1]:
            call.output_tokens += len(part.token_ids)
            call.feed(part.text)
        if output.finished:
            del self._calls[output.request_id]
            call.finish()

    def drop_stopped(self) -> None:
        """Let those go that want no more."""
        names = [name for name, call in self._calls.items() if call.stopped]
        if names:
            self._engine.abort_request(names)
        for name in names:
            self._calls.pop(name).finish()
