"""What becomes of a refusal: one request, every request, or another try. Over a socket, with the bodies of real
servers."""

import chat_server
import pytest

from configs import prepare
from masksearch_jax.llm.chat_types import AccessError, Message, RequestError, Sampling, UnavailableError
from masksearch_jax.workflows import llm_connection

pytest.importorskip("openai")
MESSAGES = [Message("system", "be brief"), Message("user", "hello there " * 20)]


@pytest.fixture(scope="module")
def served():
    with chat_server.ChatServer(None) as made:
        yield made


@pytest.fixture
def server(served):
    served.asked, served.write, served.refuse = [], lambda messages: "yes", lambda asked: None
    return served


@pytest.fixture
def connect(server, tmp_path):
    """connect(**settings of llm): a client of the server."""
    made = []

    def open_client(**changes):
        settings = prepare.llm()
        settings.update({"url": server.url, "model": "tiny", "retries": 0, "max_tokens": 64} | changes)
        made.append(llm_connection.connect(settings, tmp_path / "llm.sqlite"))
        return made[-1]

    yield open_client
    for client in made:
        client.close()


def said(message, code=None, kind="invalid_request_error", **other):
    return {"message": message, "code": code, "type": kind} | other


# A refusal that any request would meet, and what its message names.
EVERY = {
    "402": (402, said("Insufficient Balance"), "status 402: Insufficient Balance; top up the account"),
    "quota": (429, said("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), "top up"),
    "arrearage": (400, said("Access denied, account not in good standing", "Arrearage", "Arrearage"), "top up"),
    "401": (401, said("Incorrect API key", "invalid_api_key"), "check the key .* llm.key_variable"),
    "403": (403, said("No access to this model"), "check the key"),
    "404": (404, said("The model `tiny` does not exist", "model_not_found"), "check llm.url.*llm.model"),
    "405": (405, "Method Not Allowed", r"http\(s\)://host\[:port\]/v1"),
    "422": (422, {"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted"}]}, r"omit=.*'seed',"),
    "temperature": (
        400, said("Unsupported value: 'temperature' does not support 0", "unsupported_value", param="temperature"),
        r"""llm.omit="\('temperature',\)\"""",
    ),
    "limit": (
        400, said("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
        "llm.limit_field=max_completion_tokens",
    ),
    "json": (400, said("response_format is not supported by this model"), "llm.json_mode=False"),
    "no words": (400, None, "llm.omit"),
    "nesting": (400, {"error": {"error": {"error": {"message": "x"}}}}, "llm.omit"),
}  # fmt: skip
# A refusal of what one request says.
ONE = {
    "openai": (400, said("flagged", "content_filter")),
    "openai policy": (400, said("Your request was rejected", "content_policy_violation")),
    "azure": (400, said("filtered", None, innererror={"code": "ResponsibleAIPolicyViolation"})),
    "aliyun": (400, said("Input data may contain inappropriate content.", "data_inspection_failed")),
    "aliyun, native": (400, said("Output data may contain inappropriate content.", "DataInspectionFailed")),
    "openrouter": (403, {"code": 403, "message": "flagged", "metadata": {"flagged_input": "hello", "reasons": []}}),
}


@pytest.mark.parametrize("status, error, names", EVERY.values(), ids=EVERY)
def test_a_refusal_of_every_request_names_the_server_and_what_to_change(server, connect, status, error, names):
    server.refuse = lambda asked: (status, error)
    with pytest.raises(AccessError, match=names) as found:
        connect().complete(MESSAGES, Sampling())
    message = str(found.value)
    assert f"{server.url} (tiny): status {status}: " in message and "start the same line again" in message
    assert "\n" not in message and len(message) < 1000
    assert len(server.asked) <= 2  # itself, and the minimal request


@pytest.mark.parametrize("status, error", ONE.values(), ids=ONE)
def test_a_content_filter_refuses_one_request(server, connect, status, error):
    server.refuse = lambda asked: (status, error) if "hello" in str(asked["messages"]) else None
    client = connect()
    with pytest.raises(RequestError, match=f"status {status}"):
        client.complete(MESSAGES, Sampling())
    assert len(server.asked) == 1 and client.complete([Message("user", "hi")], Sampling()).text == "yes"


@pytest.mark.parametrize(
    "status, error",
    [
        (400, said("This model's maximum context length is 64 tokens", "context_length_exceeded")),
        (400, said("the request exceeds the available context size", None, "exceed_context_size_error")),
        (413, "Request Entity Too Large"),
        (422, said("inputs must have less than 64 tokens", None, "validation")),
        (403, "<html>blocked by the firewall</html>"),
    ],
)
def test_a_doubtful_refusal_is_decided_by_a_minimal_request_with_the_same_parameters(server, connect, status, error):
    server.refuse = lambda asked: (status, error) if len(str(asked["messages"])) > 250 else None
    client = connect(json_mode=True)
    with pytest.raises(RequestError, match=f"status {status}.*a minimal request is not refused"):
        client.complete(MESSAGES, Sampling(0.5, 33, 7))
    first, probe = server.asked
    assert [m["role"] for m in probe["messages"]] == ["system", "user"] and "JSON" in probe["messages"][1]["content"]
    assert {**first, "messages": 0} == {**probe, "messages": 0}
    assert client.stats["requests"] == 2 and client.stats["completion_tokens"] == 1  # and it is on the account
    # A reply limit that no prompt leaves room for concerns every request, though the server speaks of the context.
    server.refuse = lambda asked: (status, error) if asked["max_tokens"] > 64 else None
    with pytest.raises(AccessError, match="a minimal request is refused as well"):
        client.complete(MESSAGES, Sampling(max_tokens=100))


def test_no_verdict_is_taken_from_a_server_that_does_not_answer(server, connect):
    server.refuse = lambda asked: (503, "down") if "Reply with" in str(asked["messages"]) else (400, said("no"))
    with pytest.raises(UnavailableError, match="status 503"):
        connect().complete(MESSAGES, Sampling())


def test_an_error_in_a_200_reply_is_read_as_an_error(tmp_path, server, connect):
    bodies = {402: AccessError, 429: UnavailableError, "x": UnavailableError}
    for code, error in bodies.items():
        server.write = lambda messages, code=code: {"error": {"code": code, "message": "it went wrong"}}
        with pytest.raises(error, match="it went wrong"):
            connect().complete(MESSAGES, Sampling())


@pytest.mark.parametrize("limit_field", ["max_tokens", "max_completion_tokens"])
def test_what_a_server_refuses_can_be_left_out(server, connect, limit_field):
    refused = {"temperature", "seed", limit_field}
    server.refuse = lambda asked: (400, said(f"unknown parameter {refused & asked.keys()}")) if (
        refused & asked.keys()
    ) else None  # fmt: skip
    with pytest.raises(AccessError):
        connect(limit_field=limit_field).complete(MESSAGES, Sampling())
    client = connect(limit_field=limit_field, omit=("temperature", "seed", "max_tokens"))
    assert client.complete(MESSAGES, Sampling()).text == "yes"
    assert server.asked[-1].keys() - {"path", "key"} == {"model", "messages"}
