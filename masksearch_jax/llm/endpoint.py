"""A model behind an OpenAI-compatible endpoint (`/v1/chat/completions`): hosted, vLLM, SGLang, llama.cpp,
transformers serve.

Enters: a conversation. Leaves: one completion, or an error that says whether to try again. The key is read from the
environment, so that no page, log or manifest holds one. Left out: retries (client.py switches those of the openai
package off), streaming, tools.
"""

import os
from collections.abc import Sequence

from masksearch_jax.llm.interface import (
    AccessError,
    Completion,
    Message,
    RequestError,
    Sampling,
    TransientError,
    Usage,
)

_ACCESS = (401, 403, 404)
_TRANSIENT = (408, 409, 425, 429)
_LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")
_NO_MONEY = "insufficient_quota"
_NO_KEY = "none"  # for local servers, which ask for none; the package insists on one


class Endpoint:
    """Implements `interface.Backend`."""

    def __init__(self, url: str, model: str, key_variable: str = "", json_mode: bool = False, limit_field="max_tokens"):
        """url: up to and with /v1. key_variable: environment variable that holds the key, '' for servers without one.
        json_mode: asks the server to restrict replies to JSON objects, which not all servers can. limit_field: what the
        server calls the most tokens of a reply; newer models of OpenAI say 'max_completion_tokens'.

        Raises ValueError for settings that cannot work, and if the openai package is not installed.
        """
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"llm.url={url!r} has to be http(s)://host[:port]/v1, of an OpenAI-compatible server")
        if limit_field not in _LIMIT_FIELDS:
            raise ValueError(f"llm.limit_field={limit_field!r} is none of {_LIMIT_FIELDS}")
        if not model:
            raise ValueError(f"llm.model is empty: name the model that {url} serves")
        key = os.environ.get(key_variable, "") if key_variable else _NO_KEY
        if not key:
            raise ValueError(
                "llm.key_variable names no environment variable that is set: it takes the name of one that holds the "
                "key, never the key itself (which is why its value is not shown here); export it, or set ''"
            )
        try:
            import openai
        except ImportError:
            raise ValueError(
                "an endpoint needs the openai package: pip install -c launch/constraints.txt -e '.[agents]'"
            ) from None
        self.name = model
        self._url, self._openai = url, openai
        self._limit_field = limit_field
        self._format = {"response_format": {"type": "json_object"}} if json_mode else {}
        self._client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)

    def complete(self, messages: Sequence[Message], sampling: Sampling, timeout_s: float) -> Completion:
        openai = self._openai
        try:
            reply = self._client.chat.completions.create(
                model=self.name,
                messages=[{"role": m.role, "content": m.content} for m in messages],
                temperature=sampling.temperature,
                seed=sampling.seed,
                timeout=timeout_s,
                **{self._limit_field: sampling.max_tokens},
                **self._format,
            )
        except openai.APIStatusError as error:
            raise self._refusal(error) from error
        except (openai.APIConnectionError, openai.APIResponseValidationError) as error:  # a timeout is one of these
            raise TransientError(f"{self._url}: {type(error).__name__}: {error.__cause__ or error}") from error
        except ValueError as error:  # a reply that is no JSON
            raise TransientError(f"{self._url}: the reply cannot be read: {error}") from error
        try:
            (choice,) = reply.choices
            text, usage = (choice.message.content or "").encode(errors="replace").decode(), reply.usage
            # Servers that do not count are counted by bytes: too many rather than too few.
            counted = Usage(usage.prompt_tokens, usage.completion_tokens) if usage else _by_bytes(messages, text)
        except (AttributeError, TypeError, ValueError) as error:
            raise TransientError(f"{self._url}: the reply is no chat completion: {error}") from error
        return Completion(text, counted, choice.finish_reason or "stop")

    def close(self) -> None:
        self._client.close()

    def _refusal(self, error) -> Exception:
        said = f"{self._url} ({self.name}): status {error.status_code}: {error.message[:300]}"
        if error.status_code in _ACCESS or getattr(error, "code", None) == _NO_MONEY:
            return AccessError(f"{said}; check llm.url, llm.model and llm.key_variable")
        if error.status_code in _TRANSIENT or error.status_code >= 500:
            return TransientError(said, _retry_after(error.response.headers.get("retry-after", "")))
        return RequestError(said)


def _retry_after(header: str) -> float:
    """The seconds that a server asks to wait, 0 if it says none or a date."""
    try:
        return max(0.0, float(header))
    except ValueError:
        return 0.0


def _by_bytes(messages: Sequence[Message], text: str) -> Usage:
    return Usage(sum(len(m.content.encode()) for m in messages), len(text.encode()))
