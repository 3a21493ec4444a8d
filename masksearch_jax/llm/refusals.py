"""What a server's refusal concerns: one request, every request, or it is not clear yet.

Enters: the status and the error object of a reply. Leaves: the error to raise. The rule, in this order:

- a content filter's code: this request alone (`RequestError`);
- no money, a wrong key, no such model or address: every request (`AccessError`);
- overload and failures of the server: another try may succeed (`TransientError`);
- anything else, such as a parameter that the server does not take or a context that is too long: `DoubtfulError`. The
  client then sends a minimal request with the same parameters. If that is refused as well, every request would be.
"""

from masksearch_jax.llm.chat_types import AccessError, DoubtfulError, RequestError, TransientError
from masksearch_jax.runtime.types import Json

# Codes and types in lower case, of OpenAI, Azure, Aliyun, Zhipu, Moonshot, Volcengine and OpenRouter.
_FILTER = {
    "content_filter", "content_policy_violation", "responsibleaipolicyviolation", "data_inspection_failed",
    "datainspectionfailed", "contentfilter", "moderation_blocked", "1301",
}  # fmt: skip
_FLAGGED = "flagged_input"  # a field of OpenRouter's refusals by moderation
_NO_MONEY = {
    "insufficient_quota", "arrearage", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance",
    "insufficientbalance", "exceeded_current_quota_error", "accountoverdueerror", "1113",
}  # fmt: skip
_ACCESS = (401, 402, 404, 405, 407, 410)
_TRANSIENT = (408, 409, 425, 429)
_NESTED = ("error", "innererror", "metadata", "detail")
_SHOWN = 300  # characters of what the server says, in an error
_KEPT = "What was done is kept: start the same line again to go on"


def refusal_error(status: int, error: Json, server: str, wait_s: float = 0.0) -> Exception:
    """Return the error to raise for a refusal.

    status: the HTTP status. error: the error object of the reply's body, or whatever is in its place. server: its name
    in the message. wait_s: seconds that the server asks to wait.
    """
    words, message = _words(error), _message(error)
    said = f"{server}: status {status}: {message}"
    if words & _FILTER or _FLAGGED in words:
        return RequestError(said)
    if words & _NO_MONEY or status in _ACCESS or status < 400:
        return AccessError(f"{said}; {_advice(status, words, message)}. {_KEPT}")
    if status in _TRANSIENT or status >= 500:
        return TransientError(said, wait_s)
    return DoubtfulError(said, f"{_advice(status, words, message)}. {_KEPT}")


def body_error(error: Json, server: str) -> Exception:
    """Return the error to raise for a 200 reply that holds an error object.

    The object's code counts as the status if it is one (400 to 599), else the status is 500."""
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return refusal_error(status, error, server)


def _words(error: Json, depth: int = 3) -> set[str]:
    """Return the codes and types of an error object and of the objects inside it, in lower case."""
    if not isinstance(error, dict) or not depth:
        return set()
    found = {str(error[name]).lower() for name in ("code", "type") if isinstance(error.get(name), str | int)}
    if _FLAGGED in error:
        found.add(_FLAGGED)
    return found.union(*(_words(error.get(name), depth - 1) for name in _NESTED))


def _message(error: Json) -> str:
    """Return what the server says, on one line."""
    for _ in range(3):
        if not isinstance(error, dict):
            break
        error = next((error[name] for name in ("message", "detail", "error", "code") if error.get(name)), "no reason")
    return " ".join(str(error)[:_SHOWN].split()) or "no reason"


def _advice(status: int, words: set[str], message: str) -> str:
    if words & _NO_MONEY or status == 402:
        return "top up the account, or name another server by llm.url"
    if status in (401, 403, 407):
        return "check the key in the environment variable that llm.key_variable names, and what it gives access to"
    if status in (404, 410):
        return "check llm.url, which ends in /v1 for most servers, and llm.model"
    if status == 405 or status < 400:
        return "llm.url is no OpenAI-compatible server: it has to be http(s)://host[:port]/v1"
    if "max_tokens" in message and "max_completion_tokens" in message:
        return "set llm.limit_field=max_completion_tokens"
    if "response_format" in message or "json_object" in message:
        return "set llm.json_mode=False"
    if named := [name for name in ("temperature", "seed", "max_tokens") if name in message]:
        names = "".join(f"'{name}'," for name in named)
        return f'leave out what it refuses by --config.llm.omit="({names})", or change its value'
    return (
        "change what the server names: llm.omit leaves out temperature, seed or max_tokens, llm.max_tokens says how "
        "long a reply may be, llm.limit_field what that is called, llm.json_mode asks for JSON"
    )
