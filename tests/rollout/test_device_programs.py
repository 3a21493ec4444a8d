import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax.model import transformer
from masksearch_jax.rollout import device_programs
from masksearch_jax.rollout.episode import Ending
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.text import stop_automaton

YES, NO = np.bool_(True), np.bool_(False)
LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32))


def frequencies(sampling, draws=20000):
    keys = np.random.default_rng(0).integers(0, 2**32, (draws, 2), dtype=np.uint32)
    uniform = device_programs.uniforms(jnp.asarray(keys), jnp.arange(draws))
    token, logprob = device_programs.draw(jnp.tile(LOGITS, (draws, 1)), uniform, sampling, NO)
    return np.bincount(token, minlength=len(LOGITS)) / draws, np.asarray(token), np.asarray(logprob)


def test_an_extension_divides_over_the_shards():
    with pytest.raises(ValueError, match="an extension of 3 rows does not divide over the 4 shards"):
        device_programs._extend(None, mesh_lib.make_mesh(2, 2, 2), None, None, np.zeros(3, np.int32), None, None)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    share, token, logprob = frequencies(device_programs.Sampling(temperature=temperature))
    expected = np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum()
    assert np.abs(share - expected).max() < 4 * np.sqrt(0.25 / 20000)
    np.testing.assert_allclose(logprob, np.log(expected)[token], atol=1e-5)


@pytest.mark.parametrize(
    "truncation, kept",
    [({"top_k": 1}, 1), ({"top_k": 3}, 3), ({"top_p": 0.35}, 1), ({"top_p": 0.71}, 3), ({"top_p": 0.9, "top_k": 2}, 2)],
)
def test_truncation_draws_the_head_and_reports_the_whole(truncation, kept):
    share, token, logprob = frequencies(device_programs.Sampling(**truncation))
    expected = np.exp(LOGITS[:kept]) / np.exp(LOGITS[:kept]).sum()
    assert (share[kept:] == 0).all()
    assert np.abs(share[:kept] - expected).max() < 4 * np.sqrt(0.25 / 20000)
    np.testing.assert_allclose(logprob, LOGITS[token], atol=1e-5)


@pytest.mark.parametrize("size", [5, 128, 300])
def test_a_draw_inverts_the_cumulative_distribution(size):
    """Against numpy in float64; and at the ends, where rounding counts, only tokens with weight are drawn."""
    rng = np.random.default_rng(size)
    weights = np.where(rng.random((200, size)) < 0.5, rng.exponential(size=(200, size)), 0).astype(np.float32)
    weights[:, rng.integers(size)] += 1e-3
    uniform = rng.random(200, dtype=np.float32)
    got = np.asarray(jax.jit(device_programs._invert)(weights, uniform))
    cumulative = np.cumsum(weights, axis=1, dtype=np.float64)
    target = uniform * cumulative[:, -1]
    rows, slack = np.arange(200), 1e-5 * cumulative[:, -1]
    assert (weights[rows, got] > 0).all()
    assert (cumulative[rows, got] > target - slack).all()
    assert (cumulative[rows, got] - weights[rows, got] < target + slack).all()
    for end in (0.0, np.nextafter(np.float32(1), np.float32(0))):
        drawn = np.asarray(device_programs._invert(jnp.asarray(weights), jnp.full(200, end)))
        assert (weights[rows, drawn] > 0).all()


def test_greedy_takes_the_argmax_with_its_logprob():
    token, logprob = device_programs.draw(
        jnp.tile(LOGITS, (3, 1)), jnp.array([0.0, 0.5, 0.99]), device_programs.Sampling(), YES
    )
    assert token.tolist() == [0, 0, 0]
    np.testing.assert_allclose(logprob, LOGITS[[0, 0, 0]], atol=1e-6)


def test_extreme_uniforms_draw_tokens_that_have_weight():
    logits = jnp.array([[-jnp.inf, 0.0, -jnp.inf, 1.0, -jnp.inf]] * 2)
    token, _ = device_programs.draw(
        logits, jnp.array([0.0, np.nextafter(1, 0, dtype=np.float32)]), device_programs.Sampling(), NO
    )
    assert token.tolist() == [1, 3]


def test_uniforms_depend_on_key_and_position_only():
    keys = np.random.default_rng(0).integers(0, 2**32, (64, 2), dtype=np.uint32)
    positions = np.arange(64) % 8
    together = np.asarray(device_programs.uniforms(jnp.asarray(keys), jnp.asarray(positions)))
    for i in (5, 40):
        assert device_programs.uniforms(jnp.asarray(keys[[i]]), jnp.asarray(positions[[i]])).tolist() == [together[i]]
    assert len(set(together.tolist())) == 64
    assert (together >= 0).all() and (together < 1).all()


@pytest.mark.parametrize("field, value", [("temperature", 0.0), ("top_p", 0.0), ("top_p", 1.5), ("top_k", -1)])
def test_sampling_is_checked(field, value):
    with pytest.raises(ValueError, match=f"Sampling.{field} is"):
        device_programs.Sampling(**{field: value})


@dataclasses.dataclass
class Spelled:
    """A tokenizer of which only the bytes of some tokens matter."""

    token_bytes: list[bytes]
    end_ids: tuple[int, ...]
    path = "spelled"

    @property
    def vocab_size(self):
        return len(self.token_bytes)


def table_of(world, spelled, eos=1):
    """The stop table of the world's vocabulary where ids of `spelled` stand for these bytes, others for ' x'."""
    return stop_automaton.build_table(
        Spelled([spelled.get(i, b" x") for i in range(world.tokenizer.vocab_size)], (eos,))
    )


def run_chain(world, table, decode_state, steps=8):
    """Decodes by the chain 20 -> 21 -> 22 -> ... and returns (ids, counts, endings) of each slot."""
    width = world.model_cfg.embed
    params = world.params({"*": {"q": 1.0}})
    chain = np.full((width, width), -20.0, np.float32)
    chain[np.arange(width), (np.arange(width) + 1) % width] = 0.0
    params["unembedding"] = jnp.asarray(chain / np.sqrt(width))
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    programs = device_programs.programs(
        world.model_cfg, mesh, len(decode_state), (120,), steps, device_programs.Sampling(), table
    )
    _, outputs = programs.decode(params, programs.new_cache(), np.asarray(decode_state, np.int32), YES)
    ids, _, counts, endings = jax.device_get(outputs)
    return [row[:count].tolist() for row, count in zip(ids, counts, strict=True)], endings.tolist()


def test_stops_match_tags_of_several_tokens_within_the_turn(world):
    table = table_of(world, {24: b" q</search>", 26: b"</answ", 27: b"er>\n", 28: b"</", 29: b"search"}, eos=33)
    begun = [int(table.follow(stop_automaton.START, 26))]
    window = [stop_automaton.START]
    decode_state = [
        [20, 8, 0, 0, *window],  # meets 24
        [24, 8, 0, 0, *window],  # meets 26, 27
        [26, 3, 0, 0, *window],  # 27 alone does not stop: 26 is not of this turn
        [26, 3, 0, 0, *begun],  # here 26 was written by an earlier engine step of the turn
        [20, 0, 0, 0, *window],  # idle
        [30, 5, 0, 0, *window],  # meets eos
        [40, 20, 0, 0, *window],  # still writing after the engine step
        [20, 4, 0, 0, *window],  # the tag is the last token of the budget: a stop, no limit
    ]
    ids, endings = run_chain(world, table, decode_state)
    assert ids == [
        [21, 22, 23, 24],
        [25, 26, 27],
        [27, 28, 29],
        [27],
        [],
        [31, 32, 33],
        list(range(41, 49)),
        [21, 22, 23, 24],
    ]
    assert endings == [
        Ending.STOP,
        Ending.STOP,
        Ending.LIMIT,
        Ending.STOP,
        Ending.NONE,
        Ending.EOS,
        Ending.NONE,
        Ending.STOP,
    ]


@pytest.mark.parametrize("prepared", [False, True])
def test_prefill_insert_extend_equal_one_extend(world, mixed_rows, prepared):
    whole = world.params(mixed_rows)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    programs = device_programs.programs(
        world.model_cfg, mesh, 4, (4, 120), 4, device_programs.Sampling(), table_of(world, {})
    )
    params = programs.prepare(whole) if prepared else whole
    assert ("layers" in params) == prepared
    ids = np.random.default_rng(0).integers(20, 300, (3, 9)).astype(np.int32)
    prefix = programs.prefill(params, ids[:2, :5], np.array([5, 3], np.int32))
    # Prompt 1 goes to slots 3 and 0, prompt 0 to slot 2; the fourth row falls off the end.
    cache = programs.insert(programs.new_cache(), prefix, np.array([3, 2, 0, 4], np.int32), np.array([1, 0, 1, 0]))
    assert np.asarray(cache.lengths).tolist() == [3, 0, 5, 3]
    cache = programs.extend(params, cache, np.array([2, 3, 4], np.int32), ids[:, 5:], np.array([4, 2, 4], np.int32))
    assert np.asarray(cache.lengths).tolist() == [3, 0, 9, 5]
    expected = jax.jit(transformer.extend, static_argnums=0)(
        world.model_cfg,
        whole,
        programs.new_cache(),
        np.stack([ids[1], ids[0], ids[0], np.concatenate([ids[1, :3], ids[1, 5:7], ids[1, :4]])]),
        np.array([3, 0, 9, 5], np.int32),
    )[1]
    for slot, length in enumerate([3, 0, 9, 5]):
        for got, wanted in zip((*cache.k[0], *cache.v[0]), (*expected.k[0], *expected.v[0]), strict=True):
            np.testing.assert_allclose(got[slot, :, :length], wanted[slot, :, :length], atol=1e-5)
        if length:
            np.testing.assert_allclose(cache.last_key[0][slot], expected.last_key[0][slot], atol=1e-5)


@pytest.mark.slow
def test_shards_append_to_their_own_slots_and_move_no_cache(world, mixed_rows):
    """The same cache as on one device; and no program of the mesh sends more between devices than a few numbers."""
    params, rng = world.params(mixed_rows), np.random.default_rng(0)
    ids, counts = rng.integers(20, 300, (8, 9)).astype(np.int32), np.array([9, 2, 5, 0, 7, 1, 9, 4], np.int32)
    rows = np.array([1, 8, 2, 8, 5, 4, 7, 6], np.int32)  # two of each of four shards of two slots; 8 is none
    found = []
    for sizes in ((1, 1, 1), (2, 2, 1)):
        mesh = mesh_lib.make_mesh(*sizes)
        programs = device_programs.programs(
            world.model_cfg, mesh, 8, (9, 120), 4, device_programs.Sampling(), table_of(world, {})
        )
        whole = jax.device_put(params, mesh_lib.replicated(mesh))
        cache = programs.extend(whole, programs.new_cache(), rows, ids, counts)
        cache = programs.extend(whole, cache, rows, ids[:, :4], counts // 3)
        # Slot 1 to slot 0, nothing in the second shard, and each of the last two shards swaps its two slots.
        targets, sources = (np.array(slots, np.int32) for slots in ([0, 8, 8, 8, 4, 5, 7, 6], [1, 0, 0, 0, 5, 4, 6, 7]))
        found.append(jax.device_get(programs.copy_slots(cache, targets, sources)))
    assert found[1].lengths.tolist() == [12, 12, 6, 0, 9, 1, 12, 5]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)
    with jax.set_mesh(mesh):
        compiled = {
            "extend": programs.extend.lower(whole, cache, rows, ids, counts).compile(),
            "copy_slots": programs.copy_slots.lower(cache, rows, rows).compile(),
            "decode": programs.decode.lower(
                whole, cache, np.zeros((8, device_programs.STATE_COLUMNS), np.int32), NO
            ).compile(),
        }
    outputs = 8 * 4  # ids of every slot and step
    for name, program in compiled.items():
        for shape in re.findall(r"= \(?\w+\[([\d,]*)\][^=]* (?:all-|collective-|reduce-scatter)", program.as_text()):
            assert np.prod([int(n) for n in shape.split(",") if n]) <= outputs, (name, shape)
