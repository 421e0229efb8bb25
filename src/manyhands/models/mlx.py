"""Models of MLX, Apple's library for its own processors, in this process."""

from __future__ import annotations

from contextlib import closing
from importlib import import_module
from typing import TYPE_CHECKING, Any

from manyhands.models.libraries import require, without_secrets
from manyhands.models.local import Call, LocalModel, OneThread, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

# MLX's streams belong to the thread that made them, the one that imports it: all of its models live in one.
_thread = OneThread(forever=True)

# Settings of the sampler by the names that callers use for all providers alike.
_SAMPLER = {"temperature": "temp", "temp": "temp", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}


class MLXModel(LocalModel):
    """A model of the mlx-lm library, loaded at its first call.

    One call runs at a time, of all MLX models together; others wait in line.

    Args:
        model_id: Name on the Hub, or a folder.
        trust_remote_code: Whether to run code that comes with the tokenizer.
        load_kwargs: More arguments of ``mlx_lm.load``.
        apply_chat_template_kwargs: More arguments of the tokenizer's ``apply_chat_template``.
        max_tokens: Most tokens of a reply.
        **kwargs: Arguments of ``mlx_lm.stream_generate``, and ``temperature``, ``top_p``, ``top_k``,
            ``min_p``; they win over the arguments of a call.

    Raises:
        MissingExtraError: mlx-lm is not installed.
    """

    _label = "mlx"

    def __init__(
        self,
        model_id: str,
        trust_remote_code: bool = False,
        load_kwargs: Mapping[str, Any] | None = None,
        apply_chat_template_kwargs: Mapping[str, Any] | None = None,
        *,
        max_tokens: int = 4096,
        **kwargs: Any,
    ) -> None:
        require("MLXModel", "mlx", "mlx_lm")
        super().__init__(model_id, apply_chat_template_kwargs, thread=_thread, **kwargs)
        self.trust_remote_code = trust_remote_code
        self.load_kwargs = dict(load_kwargs or {})
        self.max_tokens = max_tokens
        self.model: Any = None
        self.tokenizer: Any = None

    def _load(self) -> None:
        settings = dict(self.load_kwargs)
        tokenizer = {"trust_remote_code": self.trust_remote_code, **settings.pop("tokenizer_config", {})}
        self.model, self.tokenizer = import_module("mlx_lm").load(
            self.model_id, tokenizer_config=tokenizer, **settings
        )

    def _reply(self, call: Call, request: Request) -> None:
        self._refuse_format(request)
        prompt = self._prompt_ids(self.tokenizer, call, request)
        limit = request.take("max_tokens", "max_new_tokens", "max_completion_tokens", default=self.max_tokens)
        sampler = {
            _SAMPLER[name]: request.options.pop(name) for name in list(request.options) if name in _SAMPLER
        }
        if sampler:
            request.options["sampler"] = import_module("mlx_lm.sample_utils").make_sampler(**sampler)
        pieces = import_module("mlx_lm").stream_generate(
            self.model, self.tokenizer, prompt=prompt, max_tokens=limit, **request.options
        )
        with closing(pieces):
            for piece in pieces:
                call.output_tokens = piece.generation_tokens
                call.feed(piece.text)
                if call.stopped:
                    return

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON."""
        described = {"trust_remote_code": self.trust_remote_code, "max_tokens": self.max_tokens}
        settings = without_secrets(self.load_kwargs)
        return {**super().to_dict(), **described, **({"load_kwargs": settings} if settings else {})}
