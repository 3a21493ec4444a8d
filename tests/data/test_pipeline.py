"""The data pipeline: complete epochs, exact batches, and a state from which any batch can be continued bit for bit."""

import collections
import dataclasses
import json

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from masksearch_jax.data import pipeline, records
from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.data.stream_fingerprint import check_fingerprint
from masksearch_jax.data.token_permutation import TokenPermutation

COUNTS = {1: 23, 2: 17, 3: 11}  # by number of masks
ONE, TWO, THREE = "ramp_1", "ramp_2", "ramp_3"
CURRICULUM = [(40, {ONE: 1.0}), (50, {ONE: 1.0, TWO: 2.0}), (None, {ONE: 1.0, TWO: 1.0, THREE: 2.0})]


def demonstration(masks, number, seed=0):
    rng = np.random.default_rng([seed, masks, number])
    length = int(rng.integers(4, 31))
    # The first two ids say which demonstration this is.
    ids = [masks, 100 + number, *rng.integers(10, 60, length - 2).tolist()]
    trainable = [0, 0, *rng.integers(0, 2, length - 2).tolist()]
    return records.Demonstration(f"demo-{masks}-{number}", f"task-{number}", masks, ids, trainable, 1, 1.0)


def task(masks, number, epoch=0):
    name, answers, kinds = f"task-{masks}-{number}-{epoch}", [["x"]] * masks, ["name"] * masks
    return records.Task(name, "ramp", "train", [3], [4], "spans", answers, kinds, "", "", "", 1, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demonstrations")
    paths = {}
    for masks, count in COUNTS.items():
        paths[f"ramp_{masks}"] = [folder / f"ramp_{masks}.array_record"]
        records.write(folder / f"ramp_{masks}.array_record", (demonstration(masks, number) for number in range(count)))
    return paths


def test_prompts_that_leave_no_room_are_counted_or_refused():
    found = [dataclasses.replace(task(1, n), prompt=[3] * n) for n in range(1, 7)]
    kept, long = pipeline.fitting(iter(found), 4)
    assert [len(one.prompt) for one in kept] == [1, 2, 3] and long == 3
    assert pipeline.fitting(found[:3], 4, refuse=True) == (found[:3], 0)
    with pytest.raises(ValueError, match=r"3 of 6 tasks .*=4 no room; the longest, task task-1-6-0, has 6 tokens"):
        pipeline.fitting(found, 4, refuse=True)


def batches(files, **changes):
    settings = {"seed": 3, "rows": 4, "row_length": 48, "tokenizer_fingerprint": "t", "augmentation": None}
    return pipeline.demonstrations(files, Curriculum(CURRICULUM), **(settings | changes))


def sequences_of(batch):
    """Yields (ids, loss_mask, targets, positions) of every segment of a batch."""
    for row in range(len(batch["ids"])):
        for segment in range(1, batch["segments"][row].max() + 1):
            here = batch["segments"][row] == segment
            yield tuple(batch[name][row][here] for name in ("ids", "loss_mask", "targets", "positions"))


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name])


def test_batches_hold_the_demonstrations_exactly(files):
    iterator = batches(files)
    before = 0
    for _ in range(30):
        batch = next(iterator)
        assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
            **{name: ("int32", (4, 48)) for name in ("ids", "targets", "positions", "segments")},
            "loss_mask": ("bool", (4, 48)),
            "examples": ("int32", ()),
        }
        found = list(sequences_of(batch))
        assert len(found) == batch["examples"] == iterator.index - before
        before = iterator.index
        for ids, loss_mask, targets, positions in found:
            original = demonstration(ids[0], ids[1] - 100)
            np.testing.assert_array_equal(ids, original.ids)
            np.testing.assert_array_equal(targets, [*original.ids[1:], 0])
            np.testing.assert_array_equal(loss_mask, [*original.trainable[1:], 0])
            np.testing.assert_array_equal(positions, np.arange(len(ids)))
        assert not batch["ids"][batch["segments"] == 0].any()


def test_tasks_follow_the_curriculum_and_epochs_are_complete(files):
    iterator, seen = batches(files), []
    while len(seen) < 300:
        seen += [(int(ids[0]), int(ids[1]) - 100) for ids, *_ in sequences_of(next(iterator))]
    curriculum = Curriculum(CURRICULUM)
    drawn = collections.Counter(curriculum.task(3, i) for i in range(iterator.index))
    assert collections.Counter(f"ramp_{masks}" for masks, _ in seen) == drawn
    for masks, count in COUNTS.items():
        times = drawn[f"ramp_{masks}"]
        uses = collections.Counter(number for seen_masks, number in seen if seen_masks == masks)
        # Each epoch uses every record once, so that uses differ by one at most.
        assert {uses[number] for number in range(count)} <= {times // count, times // count + 1}


def test_a_share_is_the_first_of_each_task_and_all_of_them(files):
    stream, seen = batches(files, share=0.25), collections.defaultdict(set)
    for _ in range(60):
        for ids, *_ in sequences_of(next(stream)):
            seen[int(ids[0])].add(int(ids[1]) - 100)
    assert seen == {1: set(range(6)), 2: set(range(5)), 3: set(range(3))}  # of 23, 17 and 11, rounded up
    assert stream.fingerprint != batches(files).fingerprint == batches(files, share=1.0).fingerprint
    with pytest.raises(ValueError, match="share=0"):
        batches(files, share=0.0)


def test_order_differs_by_epoch_and_seed(files):
    def order(seed):
        draws = pipeline._Draws(files, Curriculum([(None, {ONE: 1.0})]), seed)
        out = []
        for _ in range(3 * COUNTS[1]):
            drawn = draws.peek()
            draws.advance(drawn)
            assert drawn.epoch == drawn.index // COUNTS[1]
            out.append(records.decode(records.Demonstration, drawn.data).id)
        return [tuple(out[e * COUNTS[1] : (e + 1) * COUNTS[1]]) for e in range(3)]

    epochs = order(0) + order(1)
    assert len(set(epochs)) == 6
    assert len({frozenset(epoch) for epoch in epochs}) == 1
    # Drawn with grain 0.2.18; another order means that an old checkpoint resumes on other data.
    assert epochs[0][:4] == ("demo-1-4", "demo-1-12", "demo-1-3", "demo-1-21")


def test_restored_at_any_batch_equals_uninterrupted(files):
    augmentation = TokenPermutation([list(range(10, 40)), list(range(40, 60))], 200)
    iterator = batches(files, augmentation=augmentation)
    states, stream = [], []
    for _ in range(40):
        states.append(json.loads(json.dumps(iterator.get_state())))
        stream.append(next(iterator))
    # Phases end at examples 40 and 90, and ramp_1 starts a new epoch every 23.
    assert iterator.index > 250
    resumed = batches(files, augmentation=augmentation)
    for start in range(39, -1, -1):
        resumed.set_state(states[start])
        for batch in stream[start : start + 2]:
            assert_equal(next(resumed), batch)
    resumed.set_state(states[7])
    for batch in stream[7:]:
        assert_equal(next(resumed), batch)


def test_state_travels_through_grain_and_orbax(files, tmp_path):
    iterator = batches(files)
    for _ in range(5):
        next(iterator)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        fresh = batches(files)
        manager.restore(1, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh)))
    assert_equal(next(fresh), next(iterator))


def test_augmentation_permutes_each_example_on_its_own(files):
    groups = [list(range(10, 60))]
    plain, permuted = batches(files), batches(files, augmentation=TokenPermutation(groups, 200))
    mappings = []
    for (ids, *_), (shown, *_) in zip(sequences_of(next(plain)), sequences_of(next(permuted)), strict=True):
        mapping = dict(zip(ids.tolist(), shown.tolist(), strict=True))
        assert [mapping[i] for i in ids.tolist()] == shown.tolist()
        assert len(set(mapping.values())) == len(mapping)
        assert all(mapping[i] == i for i in mapping if not 10 <= i < 60)
        mappings.append(tuple(sorted(mapping.items())))
    assert len(set(mappings)) == len(mappings)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": 4}, "seed: the checkpoint has 3, this run has 4"),
        ({"rows": 8}, "rows: "),
        ({"row_length": 64}, "row_length: "),
        ({"tokenizer_fingerprint": "u"}, "tokenizer: "),
        ({"augmentation": TokenPermutation([[10, 11]], 200)}, "augmentation: "),
    ],
)
def test_fingerprint_names_the_changed_setting(files, changes, field):
    check_fingerprint(batches(files).fingerprint, batches(files).fingerprint)
    with pytest.raises(ValueError) as error:
        check_fingerprint(batches(files).fingerprint, batches(files, **changes).fingerprint)
    assert f"\n  {field}" in str(error.value)
    assert str(error.value).count("\n  ") == 1


def test_fingerprint_sees_files_and_phases(files, tmp_path):
    # Same names, counts, lengths and, as ArrayRecord pads to 64 KiB, sizes.
    changed = dict(files)
    changed[TWO] = [tmp_path / files[TWO][0].name]
    records.write(changed[TWO][0], [demonstration(2, n) for n in range(COUNTS[2] - 1)] + [demonstration(2, 99)])
    with pytest.raises(ValueError, match="files: "):
        check_fingerprint(batches(files).fingerprint, batches(changed).fingerprint)
    other = pipeline.demonstrations(
        files, Curriculum([(None, {ONE: 1.0})]), seed=3, rows=4, row_length=48, tokenizer_fingerprint="t"
    )
    with pytest.raises(ValueError, match="curriculum: "):
        check_fingerprint(batches(files).fingerprint, other.fingerprint)
    with pytest.raises(ValueError, match="curriculum over tasks"):
        other.set_state(batches(files).get_state())


def test_long_prompts_are_refused_before_the_first_task(task_folder):
    curriculum = Curriculum([(None, {ONE: 1.0})])
    settings = {"seed": 0, "tokenizer_fingerprint": "t", "refuse": True}
    with pytest.raises(ValueError, match="long_prompts='refuse'"):
        pipeline.tasks(task_folder, "train", curriculum, room=1, **settings)
    pipeline.tasks(task_folder, "train", curriculum, room=2, **settings)
    # Tasks that are not drawn are not refused.
    with pytest.raises(ValueError, match="long_prompts='refuse': 1 of 1 tasks"):
        some = next(iter(records.read(pipeline.task_files(task_folder, "train", ONE)[0], records.Task))).id
        pipeline.tasks(task_folder, "train", curriculum, room=1, only={ONE: {some}}, **settings)


def test_a_record_that_is_damaged_on_disk_is_named(tmp_path):
    path = tmp_path / "demonstrations" / "ramp_1.array_record"
    records.write(path, (demonstration(1, number) for number in range(8)))
    curriculum = Curriculum([(None, {ONE: 1.0})])
    settings = {"seed": 3, "rows": 4, "row_length": 48, "tokenizer_fingerprint": "t", "augmentation": None}
    iterator = pipeline.demonstrations({ONE: [path]}, curriculum, **settings)
    data = bytearray(path.read_bytes())
    data[64:400] = b"\xff" * 336
    path.write_bytes(data)
    with pytest.raises(ValueError, match="ramp_1.array_record: position .* of epoch 0 cannot be read.*synthesize"):
        for _ in range(8):
            next(iterator)


def test_bad_input_is_refused_before_the_first_batch(files, tmp_path):
    with pytest.raises(ValueError, match="rows=0 and row_length=48: at least 1 and 2"):
        batches(files, rows=0)
    with pytest.raises(ValueError, match=r"demonstrations are longer than row_length=16; the longest, demo-\d-\d+"):
        batches(files, row_length=16)
    with pytest.raises(FileNotFoundError, match="ramp_9"):
        batches(files | {TWO: [tmp_path / "ramp_9.array_record"]})
    with pytest.raises(ValueError, match=r"task ramp_3; there are files for \['ramp_1', 'ramp_2'\]"):
        batches({name: files[name] for name in (ONE, TWO)})
    records.write(tmp_path / "empty.array_record", [])
    with pytest.raises(ValueError, match="task ramp_2: no records in .*empty.array_record"):
        batches(files | {TWO: [tmp_path / "empty.array_record"]})


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory):
    """One mask: three epochs of 5, 4 and 6 tasks. Two: one epoch of 3. Questions and tool warm-up: one of 4 each."""
    folder = tmp_path_factory.mktemp("tasks")
    for epoch, count in enumerate((5, 4, 6)):
        path = folder / "train" / "ramp_1" / f"epoch_{epoch}.array_record"
        records.write(path, (task(1, number, epoch) for number in range(count)))
    records.write(folder / "train" / "ramp_2" / "epoch_0.array_record", (task(2, number) for number in range(3)))
    for name, first in (("qa", 50), ("tool_warmup", 60)):
        records.write(folder / "train" / name / "epoch_0.array_record", (task(1, first + n) for n in range(4)))
    return folder


def test_tasks_read_epoch_file_e_mod_E(task_folder):
    curriculum = Curriculum([(None, {ONE: 1.0})])
    iterator = pipeline.tasks(task_folder, "train", curriculum, seed=0, tokenizer_fingerprint="t")
    drawn = [next(iterator).id for _ in range(30)]
    for start, count, epoch in [(0, 5, 0), (5, 4, 1), (9, 6, 2), (15, 5, 0), (20, 4, 1), (24, 6, 2)]:
        assert sorted(drawn[start : start + count]) == [f"task-1-{number}-{epoch}" for number in range(count)]
    assert drawn[:5] != drawn[15:20] or drawn[9:15] != drawn[24:30]


def test_with_the_source_allowed_a_task_has_one_mask_and_no_source(task_folder):
    curriculum = Curriculum([(None, {"ramp_1_open": 0.5, ONE: 0.5})])
    iterator = pipeline.tasks(task_folder, "train", curriculum, seed=0, tokenizer_fingerprint="t")
    drawn = [next(iterator) for _ in range(30)]
    opened = [one for one in drawn if one.task_name == "ramp_1_open"]
    assert {(one.kind, one.passage_id, one.article_id) for one in opened} == {("ramp_open", -1, -1)}
    others = [one for one in drawn if one.task_name == ONE]
    assert len(others) + len(opened) == 30 and min(one.passage_id for one in others) >= 0
    # Both read the same tasks, each with a cursor of its own.
    assert {one.id for one in opened[:5]} == {one.id for one in others[:5]}


def test_tasks_resume(task_folder):
    curriculum = Curriculum([(9, {ONE: 1.0}), (None, {"qa": 1.0, ONE: 1.0, TWO: 1.0})])

    def make():
        return pipeline.tasks(task_folder, "train", curriculum, seed=2, tokenizer_fingerprint="t")

    iterator, states, stream = make(), [], []
    for index in range(40):
        assert iterator.index == index
        states.append(json.loads(json.dumps(iterator.get_state())))
        stream.append(next(iterator))
    assert {t.masks for t in stream[:9]} == {1} and {t.id.split("-")[1] for t in stream[9:]} == {"1", "2"}
    resumed = make()
    for start in range(38, -1, -1):
        resumed.set_state(states[start])
        assert [next(resumed), next(resumed)] == stream[start : start + 2]
    assert [next(resumed) for _ in range(38)] == stream[2:]


def test_the_stream_stays_as_it_was_once(task_folder):
    """The order of a mixture of all tasks. Drawn with grain 0.2.18, when tasks had numbers instead of names."""
    mixture = dict.fromkeys(("ramp_1_open", "tool_warmup", "qa", ONE, TWO), 0.2)
    iterator = pipeline.tasks(
        task_folder, "train", Curriculum([(4, {ONE: 1.0}), (None, mixture)]), seed=5, tokenizer_fingerprint="t"
    )
    drawn = "1-0-0 1-4-0 1-3-0 1-1-0 1-53-0 1-3-0 1-2-0 1-1-0 1-52-0 1-51-0 1-62-0 1-50-0 2-1-0 1-3-1 1-61-0 1-53-0 \
1-63-0 1-0-1 1-1-1 1-2-1 1-3-2 2-0-0 1-2-0 1-1-2"
    assert [next(iterator).id.removeprefix("task-") for _ in range(24)] == drawn.split()
    cursors = {"ramp_1_open": 3, "tool_warmup": 3, "qa": 5, ONE: 11, TWO: 2}
    assert iterator.get_state() == {"index": 24, "cursors": cursors}


def test_only_chosen_tasks_are_drawn_in_the_order_of_all(task_folder):
    def make(only=None):
        curriculum = Curriculum([(None, {ONE: 0.5, TWO: 0.5})])
        return pipeline.tasks(task_folder, "train", curriculum, seed=5, tokenizer_fingerprint="t", only=only)

    every = make()
    stream = [next(every).id for _ in range(60)]
    only = {t: {next(id for id in stream if id.startswith(f"task-{masks}-"))} for t, masks in ((ONE, 1), (TWO, 2))}
    both = only[ONE] | only[TWO]
    chosen = make(only)
    expected = [id for id in stream if id in both]
    assert [next(chosen).id for _ in expected] == expected and len(expected) > 3
    state, following = chosen.get_state(), [next(chosen).id for _ in range(5)]
    resumed = make(only)
    resumed.set_state(state)
    assert [next(resumed).id for _ in range(5)] == following
    assert chosen.left_out == 0 and make(only).fingerprint != every.fingerprint != make(only | {ONE: {"x"}}).fingerprint
    with pytest.raises(ValueError, match=r"none of the \d+ tasks of ramp_\d that is one of the 1 chosen ones"):
        next(make({ONE: {"task-unknown"}, TWO: {"task-unknown"}}))


def test_missing_epochs_are_named(task_folder):
    with pytest.raises(FileNotFoundError, match="ramp_4 should hold epoch_0"):
        pipeline.tasks(task_folder, "train", Curriculum([(None, {"ramp_4": 1.0})]), seed=0, tokenizer_fingerprint="t")
    (task_folder / "test" / "ramp_1").mkdir(parents=True)
    records.write(task_folder / "test" / "ramp_1" / "epoch_1.array_record", [task(1, 0)])
    with pytest.raises(FileNotFoundError, match=r"has epochs \[1\]"):
        pipeline.task_files(task_folder, "test", ONE)
