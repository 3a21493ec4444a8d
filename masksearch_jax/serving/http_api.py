"""The HTTP API of a policy: /v1/models, /v1/completions and /v1/chat/completions, as OpenAI's clients speak them.

Enters: requests. Leaves: JSON replies, or streams of events. With agent settings a chat completion is the answer of the
search loop to the last message, and has the field `masksearch`; completions are those of the model alone in any case.
A client that goes away ends its sessions, and so frees their slots. What a client may take up is limited by the server
beneath (retrieval/service/http_server.py), by the engine's `pending`, and by request_bodies.py.
A web page of a stranger cannot ask: a browser sends JSON to another origin only after asking, which is refused, and a
server on loopback answers to its own names alone.
"""

import asyncio
import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from masksearch_jax.retrieval.service.http_server import json_response
from masksearch_jax.rollout.trajectory import StopReason
from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.serving import reply_forms, request_bodies, search_loop
from masksearch_jax.serving.answering import EventStream, refusal, until_gone
from masksearch_jax.serving.choices import Part, Plan, write_choices
from masksearch_jax.serving.engine import ServingEngine
from masksearch_jax.serving.reply_forms import EXTENSION, Form
from masksearch_jax.serving.reply_text import Vocabulary
from masksearch_jax.serving.request_bodies import ChatRequest, RequestError, Wishes
from masksearch_jax.serving.search_loop import AgentReply, AgentSettings, AgentTurn
from masksearch_jax.serving.session import Sampling, Token
from masksearch_jax.text.tokenizer_protocol import Tokenizer

Answer: TypeAlias = Callable[[Request], Coroutine[None, None, Response]]

_OWN_NAMES = {"localhost", "127.0.0.1", "::1"}


@dataclasses.dataclass(frozen=True)
class Served:
    """A policy as it is served.

    name: of the model; also_called: another name that requests may give it. chat_prompt: messages, (role, text) each,
    to prompt ids; raises ValueError. agent: None serves the model alone.
    """

    name: str
    also_called: str
    tokenizer: Tokenizer
    engine: ServingEngine
    chat_prompt: Callable[[Sequence[tuple[str, str]]], list[int]]
    agent: AgentSettings | None


@dataclasses.dataclass
class _Choice:
    """A choice as far as it has arrived. characters: of the tokens whose log-probs were sent."""

    text: str = ""
    prompt: list[Token] = dataclasses.field(default_factory=list)
    tokens: list[Token] = dataclasses.field(default_factory=list)
    finish: str = ""
    characters: int = 0

    def add(self, part: Part) -> None:
        self.text += part.text
        self.prompt += part.prompt
        self.tokens += part.tokens
        self.finish = part.finish


def application(served: Served, loopback: bool) -> Starlette:
    """Return the ASGI application. loopback: answer only requests to the names of this machine."""
    api = _Api(served, loopback)
    answers: dict[str, tuple[str, Answer]] = {
        "/v1/models": ("GET", api.models),
        "/v1/models/{name:path}": ("GET", api.model),
        "/v1/completions": ("POST", api.completions),
        "/v1/chat/completions": ("POST", api.chat),
        "/health": ("GET", api.health),
    }
    known = ", ".join(f"{method} {path}" for path, (method, _) in answers.items())

    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        said = f"{request.method} {request.url.path[:100]} is not served; there are {known}"
        return json_response(status, reply_forms.error(said))

    routes = [Route(path, api.guarded(answer), methods=[method]) for path, (method, answer) in answers.items()]
    return Starlette(routes=routes, exception_handlers={404: unknown, 405: unknown})


class _Api:
    """The answers to requests."""

    def __init__(self, served: Served, loopback: bool):
        self._served, self._loopback = served, loopback
        self._vocabulary = Vocabulary(served.tokenizer)
        self._started = int(time.time())

    def guarded(self, answer: Answer) -> Answer:
        """Return `answer` with checks before it, and with each error as a reply in OpenAI's form."""

        async def guarded(request: Request) -> Response:
            try:
                self._judge(request)
                return await answer(request)
            except Exception as error:
                return refusal(error)

        return guarded

    async def models(self, request: Request) -> Response:
        return json_response(200, {"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        self._check_name(request.path_params["name"])
        return json_response(200, self._model())

    async def health(self, request: Request) -> Response:
        engine = self._served.engine
        said = {"status": "ready", "slots": engine.settings.slots, "busy": engine.busy, "waiting": engine.waiting}
        return json_response(200, said | {"stats": dict(engine.stats)})

    async def completions(self, request: Request) -> Response:
        asked = request_bodies.read_completion(await _json(request))
        self._check_name(asked.wishes.model)
        # Text is tokenised in a thread, as a long one would keep the loop from everybody else.
        prompts = await asyncio.to_thread(lambda: [self._ids(one) for one in asked.prompts])
        return await self._complete(request, asked.wishes, prompts, "prompt", asked.echo)

    async def chat(self, request: Request) -> Response:
        asked = request_bodies.read_chat(await _json(request))
        self._check_name(asked.wishes.model)
        if self._served.agent is not None:
            return await self._search(request, asked, self._served.agent)
        with _naming("messages"):
            prompt = await asyncio.to_thread(self._served.chat_prompt, asked.messages)
        return await self._complete(request, asked.wishes, [prompt], "messages", False)

    # --- completions ---

    async def _complete(
        self, request: Request, wishes: Wishes, prompts: list[list[int]], param: str, echo: bool
    ) -> Response:
        """Complete prompts. param: the field that holds them, 'messages' for a chat.

        Raises RequestError for a prompt that is too long, and for more replies than may wait.
        """
        chat, seed, count = param == "messages", _seed(wishes), len(prompts) * wishes.choices
        if count > (pending := self._served.engine.settings.pending):
            raise RequestError(f"n: {count} replies in one request; this server takes up to {pending}", "n")
        temperature = 1.0 if wishes.temperature is None else wishes.temperature
        plans = [
            Plan(
                prompt, self._budget(prompt, wishes, param),
                Sampling(temperature, wishes.top_p, seed, place * wishes.choices + number),
                wishes.stop, wishes.alternatives or 0, echo, echo and wishes.alternatives is not None,
            )
            for place, prompt in enumerate(prompts)
            for number in range(wishes.choices)
        ]  # fmt: skip
        form, choices = Form.new(chat, self._served.name), [_Choice() for _ in plans]
        parts = write_choices(self._served.engine, self._vocabulary, plans)

        def counts() -> JsonObject:
            return reply_forms.usage(sum(map(len, prompts)), sum(len(choice.tokens) for choice in choices))

        def logprobs(tokens: list[Token], offset: int) -> Json:
            if wishes.alternatives is None:
                return None
            if chat:
                return reply_forms.chat_logprobs(tokens, self._vocabulary)
            return reply_forms.completion_logprobs(tokens, self._vocabulary, offset)

        async def collected() -> Response:
            async with contextlib.aclosing(parts):
                async for part in parts:
                    choices[part.index].add(part)
            made = [
                form.choice(index, one.text, logprobs([*one.prompt, *one.tokens], 0), one.finish)
                for index, one in enumerate(choices)
            ]
            return json_response(200, form.whole(made, counts()))

        async def events() -> AsyncGenerator[JsonObject, None]:
            async with contextlib.aclosing(parts):
                async for part in parts:
                    choice = choices[part.index]
                    first, new = not choice.text and not choice.tokens, [*part.prompt, *part.tokens]
                    choice.add(part)
                    found = logprobs(new, choice.characters)
                    choice.characters += sum(len(self._vocabulary.text_of(token.id)) for token in new)
                    yield form.chunk([form.piece(part.index, part.text, found, part.finish or None, first)])
            if wishes.usage:
                yield form.chunk([], counts())

        return EventStream(events()) if wishes.stream else await until_gone(request.receive, collected())

    def _ids(self, prompt: str | list[int]) -> list[int]:
        """Return the ids of a prompt. Raises RequestError for ids outside the vocabulary."""
        tokenizer = self._served.tokenizer
        if isinstance(prompt, str):
            return [*tokenizer.prefix_ids, *tokenizer.encode(prompt)]
        if wrong := [id for id in prompt if not 0 <= id < tokenizer.vocab_size]:
            raise RequestError(f"prompt: {wrong[0]} is the id of none of the {tokenizer.vocab_size} tokens", "prompt")
        return prompt

    def _budget(self, prompt: list[int], wishes: Wishes, param: str) -> int:
        """Return how many tokens may follow a prompt. Raises RequestError if there is no room."""
        total = self._served.engine.settings.total_tokens
        if not prompt:
            raise RequestError(f"{param}: the prompt is empty", param)
        room = total - len(prompt)
        if room < (0 if wishes.max_tokens == 0 else 1):
            said = f"{param}: a prompt of {len(prompt)} tokens; prompt and reply have {total} tokens here"
            raise RequestError(said, param, code="context_length_exceeded")
        return room if wishes.max_tokens is None else min(wishes.max_tokens, room)

    # --- the search loop ---

    async def _search(self, request: Request, asked: ChatRequest, settings: AgentSettings) -> Response:
        wishes, form = asked.wishes, Form.new(True, self._served.name)
        for name, given in (
            ("n", wishes.choices > 1), ("logprobs", wishes.alternatives is not None), ("stop", bool(wishes.stop)),
            ("max_tokens", wishes.max_tokens is not None),
        ):  # fmt: skip
            if given:
                raise RequestError(f"{name} has no meaning in a search loop; leave it out", name)
        with _naming("messages"):
            prompt = await asyncio.to_thread(settings.prompt_of, asked.messages[-1][1])
        if len(prompt) >= settings.limits.total_tokens:
            said = f"messages: a prompt of {len(prompt)} tokens; an episode has {settings.limits.total_tokens}"
            raise RequestError(said, "messages", code="context_length_exceeded")
        # Greedy unless the request says otherwise, as policies are evaluated.
        sampling = Sampling(wishes.temperature or 0.0, wishes.top_p, _seed(wishes))
        turns: asyncio.Queue[AgentTurn | None] = asyncio.Queue()

        async def loop() -> AgentReply:
            try:
                return await search_loop.answer(
                    self._served.engine, self._served.tokenizer, settings, prompt, sampling, turns.put_nowait
                )
            finally:
                turns.put_nowait(None)

        def finish(reply: AgentReply) -> str:
            return "stop" if reply.stop == StopReason.ANSWER else "length"

        async def collected() -> Response:
            reply = await loop()
            choice = form.choice(0, reply.answer, None, finish(reply))
            counts = reply_forms.usage(reply.prompt_tokens, reply.written)
            return json_response(200, form.whole([choice], counts, **{EXTENSION: reply_forms.extension(reply)}))

        async def events() -> AsyncGenerator[JsonObject, None]:
            task = asyncio.create_task(loop())
            try:
                turn = await turns.get()
                if turn is not None:  # else it failed, and the error is a reply of its own
                    yield form.chunk([form.piece(0, "", None, None, True)])
                while turn is not None:
                    told = {EXTENSION: {"turn": reply_forms.turn_json(turn)}}
                    yield form.chunk([form.piece(0, None, None, None, False)], **told)
                    turn = await turns.get()
                reply = await task
                yield form.chunk([form.piece(0, reply.answer, None, None, False)])
                told = {EXTENSION: reply_forms.extension(reply)}
                yield form.chunk([form.piece(0, None, None, finish(reply), False)], **told)
                if wishes.usage:
                    yield form.chunk([], reply_forms.usage(reply.prompt_tokens, reply.written))
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        return EventStream(events()) if wishes.stream else await until_gone(request.receive, collected())

    # --- checks ---

    def _judge(self, request: Request) -> None:
        """Raise RequestError for a request that a browser may have sent for the page of a stranger."""
        if self._loopback and (request.url.hostname or "") not in _OWN_NAMES:
            raise RequestError("this server answers to localhost and 127.0.0.1 only", status=403)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            raise RequestError(f"Content-Type is {kind!r:.100}; send application/json", status=415)

    def _check_name(self, name: str | None) -> None:
        if name not in (None, self._served.name, self._served.also_called):
            said = f"model={name!r:.200} is not served here; {self._served.name!r} is"
            raise RequestError(said, "model", 404, "model_not_found")

    def _model(self) -> JsonObject:
        return {
            "id": self._served.name, "object": "model", "created": self._started, "owned_by": "masksearch_jax",
            "max_model_len": self._served.engine.settings.total_tokens,
        }  # fmt: skip


async def _json(request: Request) -> Json:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {error}") from None


@contextlib.contextmanager
def _naming(param: str):
    """Turn a ValueError of the block into a RequestError about a field."""
    try:
        yield
    except ValueError as error:
        raise RequestError(str(error), param) from error


def _seed(wishes: Wishes) -> int:
    return secrets.randbits(62) if wishes.seed is None else wishes.seed
