"""A teacher that solves the tasks of `make_workdir` by rules, from nothing but the text of the prompts; and that world.

By a hash of the task it also writes prose instead of JSON (once or always), searches twice, gives wrong answers, or
never comes to an end: every way in which a model fails.
"""

import json
import random
import re
import zlib

from masksearch_jax.data import records
from masksearch_jax.retrieval.index import build
from masksearch_jax.text import prompt, tags
from masksearch_jax.text import tokenizer as tokenizer_lib

_NAME = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+")
_FORMS = (
    re.compile(r"(?P<person>.+) was born in (?P<city>.+) in (?P<year>.+)\."),
    re.compile(r"(?P<city>.+) is the birthplace of (?P<person>.+) since (?P<year>.+)\."),
)
_PASSAGE = re.compile(r"^\[(\d+)\] (.*?): (.*)$", re.M)
STUMBLES, RETRIES, WRONG, ENDLESS, PROSE = range(5)
KINDS = 25


def kind_of(text):
    """How the teacher behaves on a task."""
    return zlib.crc32(text.encode()) % KINDS


def write(messages):
    """The reply to a conversation of one of the agents."""
    user, again = messages[1]["content"], len(messages) > 2
    text = re.search(r"Task[^\n]*:\n(.*)", user)[1].strip()
    kind, name = kind_of(text), _NAME.search(text)[0]
    if '"analysis"' in user:
        if kind == STUMBLES and not again:
            return "Let me think about it."
        return json.dumps({"analysis": "one fact", "step": "find the other", "query": name})
    if '"queries"' in user:
        query = re.search(r"^Query: (.*)$", user, re.M)[1]
        return json.dumps({"queries": [query, f"{query} birthplace", f"{query} born"]})
    if '"correct"' in user:
        right = all(f"given: {gold}\n" in user for gold in re.findall(r"accepted: (.*)", user))
        return json.dumps({"reason": "as said", "correct": right})
    reply = {"thought": "not there", "verdict": "retry", "useful": [], "step": "find it", "query": f"{name} year",
             "answers": []}  # fmt: skip
    if kind == PROSE:
        return "The answer is in the passages."
    if kind == ENDLESS or (kind == RETRIES and "Search 2." not in user):
        return json.dumps(reply)
    for number, _, found in _PASSAGE.findall(user.split("Passages of this search:")[1]):
        for form in _FORMS:
            if (fact := form.fullmatch(found.strip())) and name in fact.groups():
                (own,) = filter(None, (form.fullmatch(text) for form in _FORMS))
                wanted = sorted((own.start(key), key) for key, value in own.groupdict().items() if value == tags.MASK)
                answers = ["Nobody" if kind == WRONG else fact[key] for _, key in wanted]
                reply |= {"thought": "found", "verdict": "answer", "useful": [int(number)], "answers": answers}
                return json.dumps(reply | {"step": "", "query": ""})
    return json.dumps(reply)


def make_workdir(workdir, tasks, masks=1, seed=0):
    """W/data with so many tasks over as many articles in pairs: what one says of the other, the other says back."""
    rng, data = random.Random(seed), workdir / "data"
    syllables = "ka vel to mir bra quo nes pel gra hun jas lor mer sut wex yar".split()
    words = sorted({(a + b).capitalize() for a in syllables for b in syllables})
    names = [" ".join(pair) for pair in rng.sample([(a, b) for a in words for b in words], tasks)]
    passages, spans = [], []
    for person, city in zip(names[0::2], names[1::2], strict=True):
        year = str(rng.randint(1000, 1999))
        for title, text, own in (
            (person, f"{person} was born in {city} in {year}.", [city, year]),
            (city, f"{city} is the birthplace of {person} since {year}.", [person, year]),
        ):
            passages.append(records.Passage(len(passages), len(passages), title, text, "train"))
            spans.append(own)
    records.write(data / "passages.array_record", passages)
    tokenizer = tokenizer_lib.train([f" {p.text}" for p in passages], data / "tokenizer.model", vocab_size=600)
    made = [_task(p, own[:masks], tokenizer) for p, own in zip(passages, spans, strict=True)]
    records.write(data / "tasks" / "train" / f"ramp_{masks}" / "epoch_0.array_record", made)
    build.build_index(data / "index" / "train", passages, {"encoder": "lexical", "index": "exact", "dims": 512})
    return made


def _task(passage, spans, tokenizer):
    text = passage.text
    for span in spans:
        text = text.replace(span, tags.MASK)
    return records.Task(
        id=f"{passage.id}.0.{len(spans)}", kind="ramp", split="train",
        prompt=tokenizer.encode(prompt.ramp_prompt(text)), targets=tokenizer.encode(" " + "; ".join(spans)),
        answer_form="spans", answers=[[span] for span in spans], span_kinds=["link"] * len(spans), text=text,
        paragraph=passage.text, title=passage.title, passage_id=passage.id, article_id=passage.article_id,
    )  # fmt: skip
