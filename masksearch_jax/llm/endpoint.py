"""A model behind an OpenAI-compatible endpoint (`/v1/chat/completions`): hosted, vLLM, SGLang, llama.cpp,
transformers serve.

Enters: a conversation. Leaves: one completion (completion_body.py), or an error that says whether to try again
(refusals.py). The key is read from the environment, so that no config, log or manifest holds one. Left out: retries
(client.py; those of the openai package are off), streaming, tools.
"""

import os
from collections.abc import Sequence

from masksearch_jax.llm import refusals
from masksearch_jax.llm.chat_types import Completion, Message, RequestError, Sampling, TransientError
from masksearch_jax.llm.completion_body import ErrorBody, read_completion
from masksearch_jax.runtime.types import Json

_LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")
_OMITTED = ("temperature", "seed", "max_tokens")
_NO_KEY = "none"  # for local servers, which need no key; the openai package insists on one


class Endpoint:
    """A model behind an endpoint. Implements `chat_types.Backend`."""

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str = "",
        json_mode: bool = False,
        limit_field: str = "max_tokens",
        omit: Sequence[str] = (),
    ):
        """Check the settings and open a client of the openai package.

        url: up to and including /v1. key_variable: the environment variable that holds the key, '' for servers without
        one. json_mode: asks the server to restrict replies to JSON objects, which not all servers can do. limit_field:
        what the server calls the most tokens of a reply; newer models of OpenAI say 'max_completion_tokens'. omit:
        parameters to leave out for servers that refuse them, some of temperature, seed and max_tokens (whatever
        limit_field calls it); the server's own value then holds.

        Raises ValueError for settings that cannot work, and if the openai package is not installed.
        """
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"llm.url={url!r} has to be http(s)://host[:port]/v1, of an OpenAI-compatible server")
        if limit_field not in _LIMIT_FIELDS:
            raise ValueError(f"llm.limit_field={limit_field!r} is none of {_LIMIT_FIELDS}")
        if unknown := [name for name in omit if name not in _OMITTED]:
            raise ValueError(f"llm.omit={tuple(omit)} names {unknown[0]!r}; what can be left out is {_OMITTED}")
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

            from masksearch_jax.llm import bounded_http
        except ImportError:
            raise ValueError(
                "an endpoint needs the openai package: pip install -c launch/constraints.txt -e '.[agents]'"
            ) from None
        self.name = model
        self._url, self._openai, self._server = url, openai, f"{url} ({model})"
        self._limit_field, self._omit = limit_field, frozenset(omit)
        self._format: dict[str, Json] = {"response_format": {"type": "json_object"}} if json_mode else {}
        spoken = openai.DefaultHttpxClient(event_hooks={"response": [bounded_http.bound]})
        self._client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, http_client=spoken)

    def complete(self, messages: Sequence[Message], sampling: Sampling, timeout_s: float) -> Completion:
        openai = self._openai
        parameters: dict[str, Json] = {
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "max_tokens": sampling.max_tokens,
        }
        sent = {name: value for name, value in parameters.items() if name not in self._omit}
        if "max_tokens" in sent:
            sent[self._limit_field] = sent.pop("max_tokens")
        try:
            # We read the body ourselves: the package does not check that fields have the types that it declares.
            spoken: Json = [{"role": m.role, "content": m.content} for m in messages]
            data = self._client.chat.completions.with_raw_response.create(
                model=self.name, messages=spoken, timeout=timeout_s, **sent, **self._format
            ).content
        except openai.APIStatusError as error:
            wait_s = _retry_after(error.response.headers.get("retry-after", ""))
            said = error.body or error.message
            raise refusals.refusal_error(error.status_code, said, self._server, wait_s) from error
        except openai.APIConnectionError as error:  # a timeout is one of these
            raise TransientError(f"{self._url}: {type(error).__name__}: {error.__cause__ or error}") from error
        try:
            return read_completion(data, messages)
        except ErrorBody as error:
            raise refusals.body_error(error.error, self._server) from None
        except (TransientError, RequestError) as error:
            raise type(error)(f"{self._server}: {error}") from None

    def close(self) -> None:
        self._client.close()


def _retry_after(header: str) -> float:
    """Return the seconds that a server asks to wait, 0 if it names none or a date."""
    try:
        return max(0.0, float(header))
    except ValueError:
        return 0.0
