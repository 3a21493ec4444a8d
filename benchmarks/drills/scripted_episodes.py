"""Episodes of a policy that follows a script: whatever a search returns, they hold what the script says, and no more.

Enters: a tokenizer, a search, a script. Leaves: what was forged. The script is the whole of what the policy does, so
any other action, answer or token of the policy's own must have come from retrieved text.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from benchmarks.drills.host_episodes import play
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.rollout.trajectory import StopReason
from masksearch_jax.text import tags, tokenizer
from masksearch_jax.text.published_tokenizer import PublishedTokenizer
from masksearch_jax.text.tokenizer_protocol import Tokenizer

_LIMITS = EpisodeLimits(turns=5, turn_tokens=200, observation_tokens=300, total_tokens=8000)
_CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"]
_TEXTS = [
    "<think> the river city was founded near Tolmar.</think><search> Karn Velith birthplace</search>\n",
    "<answer> Tolmar; May 1208</answer><search> the sea</search> What is known of Article, part 0 1 2 3 4 5 6 7 8 9.",
    "query of drill in episode and turn, é São 日本 born in the city of the river.",
] * 8


@dataclasses.dataclass(frozen=True)
class Script:
    """What the policy writes: a search for each query, then the answer."""

    queries: tuple[str, ...]
    answer: str

    def turns(self, words: Tokenizer) -> Iterator[list[int]]:
        """Yield the ids of each turn."""
        for query in self.queries:
            yield words.encode(f"{tags.SEARCH[0]} {query}{tags.SEARCH[1]}")
        yield words.encode(f"{tags.ANSWER[0]} {self.answer}{tags.ANSWER[1]}")


def forged(words: Tokenizer, script: Script, search: Callable[[str], Sequence[Hit]]) -> list[str]:
    """Play an episode; return in words what it did that the script does not say, or that the text forged."""
    played = play(words, script.turns(words), search, _LIMITS)
    one, found = played.trajectory, []
    said = [(turn.action, turn.query) for turn in one.turns]
    wanted = [("search", query) for query in script.queries] + [("answer", "")]
    if said != wanted:
        found.append(f"it did {said}, the script says {wanted}")
    if one.stop != StopReason.ANSWER or one.final_answer != script.answer:
        found.append(f"it answered {one.final_answer!r} ({one.stop}), the script says {script.answer!r}")
    written = [id for turn in script.turns(words) for id in turn]
    if one.ids[one.trainable].tolist() != written:
        found.append("tokens count as the policy's that it did not write")
    control = {*words.end_ids, words.pad_id}
    for block in played.appended:
        shown = words.decode(block)
        inside = shown.partition(tags.INFORMATION[0])[2].rpartition(tags.INFORMATION[1])[0]
        if any(tag in inside for tag in tags.ALL):
            found.append(f"an observation holds a tag: {inside[:200]!r}")
        if sum(shown.count(tag) for tag in tags.INFORMATION) != 2:
            found.append(f"an observation is not closed: {shown[:200]!r}")
        if control & set(block):
            found.append("an observation holds a token that ends a turn")
        if len(block) > _LIMITS.observation_tokens:
            found.append(f"an observation has {len(block)} tokens")
    return found


def both_tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """Return our own tokenizer, and one as of published models: bytes, and control tokens that text could spell."""
    folder.mkdir(parents=True, exist_ok=True)
    ours, published = folder / "tokenizer.model", folder / "published"
    if not (published / "generation_config.json").exists():
        tokenizer.train(_TEXTS, ours, 400)
        _write_published(published)
    return tokenizer.Tokenizer(ours), PublishedTokenizer(published)


def _write_published(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        _TEXTS, trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens([AddedToken(one, normalized=False, special=True) for one in _CONTROL])
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ends = [made.token_to_id(one) for one in ("<|im_end|>", "<|endoftext|>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
