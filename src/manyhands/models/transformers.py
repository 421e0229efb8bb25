"""Models of Hugging Face's transformers library, in this process."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from manyhands.models.libraries import require, without_secrets
from manyhands.models.local import LAST_TOKENS, Call, LocalModel, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNFINISHED = "\ufffd"  # what a tokenizer writes for half a character


class TransformersModel(LocalModel):
    """A model of the transformers library, loaded at its first call.

    One call runs at a time; others wait in line.

    Args:
        model_id: Name on the Hub, or a folder.
        device_map: Where its parts go, as in transformers (needs ``accelerate``). If not given, all of it
            goes to the first GPU, or stays on the CPU where there is none.
        torch_dtype: Type of its numbers, such as ``"auto"`` or ``"bfloat16"``.
        trust_remote_code: Whether to run code that comes with the model.
        model_kwargs: More arguments of ``from_pretrained``.
        max_new_tokens: Most tokens of a reply.
        max_tokens: Another name for it, which wins.
        apply_chat_template_kwargs: More arguments of the tokenizer's ``apply_chat_template``.
        model: A loaded model to use; then ``tokenizer`` is its tokenizer or processor.
        tokenizer: See ``model``.
        **kwargs: Arguments of the model's ``generate``; they win over the arguments of a call.

    Raises:
        CallerError: There is no ``model_id``.
        MissingExtraError: transformers or torch is not installed.
    """

    _label = "transformers"

    def __init__(
        self,
        model_id: str | None = None,
        device_map: Any = None,
        torch_dtype: Any = None,
        trust_remote_code: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        max_new_tokens: int = 4096,
        max_tokens: int | None = None,
        apply_chat_template_kwargs: Mapping[str, Any] | None = None,
        *,
        model: Any = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        for library in ("transformers", "torch"):
            require("TransformersModel", "transformers", library)
        if model is not None:
            model_id = model_id or str(getattr(model, "name_or_path", "") or type(model).__name__)
        super().__init__(model_id, apply_chat_template_kwargs, **kwargs)
        self.device_map = device_map
        self.torch_dtype = torch_dtype
        self.trust_remote_code = trust_remote_code
        self.model_kwargs = dict(model_kwargs or {})
        self.max_new_tokens = max_tokens if max_tokens is not None else max_new_tokens
        self.model = model
        self._processor = tokenizer

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, also that of a model with a processor around it; ``None`` before it is loaded."""
        return getattr(self._processor, "tokenizer", self._processor)

    def _load(self) -> None:
        if self.model is None:
            self._load_weights()
        # A model that sees gets pictures as parts of messages.
        self.flatten_messages_as_text = not hasattr(self._processor, "image_processor")

    def _load_weights(self) -> None:
        library = import_module("transformers")
        settings = dict(self.model_kwargs)
        if self.torch_dtype is not None:
            new = int(library.__version__.partition(".")[0]) >= 5
            settings["dtype" if new else "torch_dtype"] = self.torch_dtype
        if self.device_map is not None:
            settings["device_map"] = self.device_map
        trust = {"trust_remote_code": self.trust_remote_code}
        kinds = (
            (library.AutoModelForImageTextToText, library.AutoProcessor),
            (library.AutoModelForCausalLM, library.AutoTokenizer),
        )
        for model_kind, processor_kind in kinds:
            try:
                model = model_kind.from_pretrained(self.model_id, **trust, **settings)
            except ValueError as error:
                if "Unrecognized configuration class" not in str(error) or model_kind is kinds[-1][0]:
                    raise
                continue  # it does not see
            self._processor = processor_kind.from_pretrained(self.model_id, **trust)
            self.model = model if self.device_map is not None else model.to(_device())
            return

    def _reply(self, call: Call, request: Request) -> None:
        self._refuse_format(request)
        prompt = self._processor.apply_chat_template(
            self._clean(request),
            tools=request.tools,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **self.apply_chat_template_kwargs,
        ).to(self.model.device)
        length = call.input_tokens = int(prompt["input_ids"].shape[-1])
        if self.strip_thinking:
            call.begin(self.tokenizer.decode(prompt["input_ids"][0, -LAST_TOKENS:].tolist()))
        limit = request.take(
            "max_new_tokens", "max_tokens", "max_completion_tokens", default=self.max_new_tokens
        )
        watch = _Watch(call, self.tokenizer, 1 if self.model.config.is_encoder_decoder else length)
        criteria = [*request.take("stopping_criteria", default=()), watch]
        written = self.model.generate(
            **prompt,
            max_new_tokens=limit,
            stopping_criteria=import_module("transformers").StoppingCriteriaList(criteria),
            **_sampling(request.options),
        )
        watch.end(getattr(written, "sequences", written)[0])

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON."""
        described = {
            "device_map": self.device_map if isinstance(self.device_map, (str, dict)) else None,
            "torch_dtype": str(self.torch_dtype).removeprefix("torch.") if self.torch_dtype else None,
            "trust_remote_code": self.trust_remote_code,
            "max_new_tokens": self.max_new_tokens,
            "model_kwargs": without_secrets(self.model_kwargs) or None,
        }
        return {
            **super().to_dict(),
            **{name: value for name, value in described.items() if value is not None},
        }


def _device() -> str:
    return "cuda" if import_module("torch").cuda.is_available() else "cpu"


def _sampling(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``generate``; it ignores a temperature unless it is told to sample, too."""
    temperature = options.get("temperature")
    if temperature == 0:
        del options["temperature"]
        options.setdefault("do_sample", False)
    elif temperature is not None:
        options.setdefault("do_sample", True)
    return options


class _Watch:
    """Looks at each token of one call as it comes: hands on its text, and says when to stop.

    transformers calls it as one of its stopping criteria. Its streamers would not do: whether they see a
    token before or after the criteria are asked depends on the version.

    Args:
        call: The call.
        tokenizer: The tokenizer.
        seen: How many tokens there are before the reply.
    """

    def __init__(self, call: Call, tokenizer: Any, seen: int) -> None:
        self._call = call
        self._text = TokenText(tokenizer)
        self._seen = seen

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        if input_ids.shape[0] == 1:  # beams change their minds: their text comes at the end
            self._take(input_ids[0])
        torch = import_module("torch")
        return torch.full(
            (input_ids.shape[0],), self._call.stopped, dtype=torch.bool, device=input_ids.device
        )

    def _take(self, ids: Any) -> None:
        if self._call.stopped:
            return
        new = ids[self._seen :].tolist()
        self._seen += len(new)
        for token in new:
            self._call.output_tokens += 1
            self._call.feed(self._text.add(token))
            if self._call.stopped:
                return

    def end(self, ids: Any) -> None:
        """Take what has not been seen yet of the whole reply."""
        self._take(ids)
        self._call.feed(self._text.end())


class TokenText:
    """The text of tokens that come one by one: a character may take several of them.

    Tokens are decoded together with a few before them, since how one is written may depend on those.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._decode = tokenizer.decode
        self._ids: list[int] = []
        self._start = 0  # of the tokens that are decoded
        self._told = 0  # tokens whose text is out

    def add(self, token: int) -> str:
        """Take a token; return the text that is complete now."""
        self._ids.append(token)
        text = self._new()
        if not text or text.endswith(_UNFINISHED):
            return ""
        self._start, self._told = self._told, len(self._ids)
        return text

    def end(self) -> str:
        """Return what is left."""
        text = self._new()
        self._start = self._told = len(self._ids)
        return text

    def _new(self) -> str:
        before = self._decode(self._ids[self._start : self._told], skip_special_tokens=True)
        whole: str = self._decode(self._ids[self._start :], skip_special_tokens=True)
        return whole[len(before) :]
