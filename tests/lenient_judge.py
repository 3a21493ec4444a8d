"""A judge that takes an answer as right where an accepted one stands in it, where no language model can be asked:
python tests/chat_server.py PORT lenient_judge:write LOG
"""

import json
import re

from masksearch_jax.scoring import answer_metrics

_PAIR = re.compile(r"^\d+\. accepted: (.*)\n   given: (.*)$", re.M)


def write(messages):
    """The reply to the judge's prompt (agents/trajectory_judge.py)."""
    pairs = _PAIR.findall(messages[1]["content"])
    right = all(answer_metrics.contains(given, accepted.split(" | ")) for accepted, given in pairs)
    return json.dumps({"reason": "an accepted answer stands in it", "correct": bool(pairs) and right})
