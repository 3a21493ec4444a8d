"""The database of episodes: what goes in comes out, the bound holds, a resumed run cuts it, damage is named."""

import sqlite3

import pytest

from masksearch_jax.trajectories import store as store_lib
from masksearch_jax.trajectories.episode import read_body, unpack_arrays
from masksearch_jax.trajectories.store import EpisodeStore
from tests.stored_episodes import HOSTILE, episode, tokens, trained


def rows(path, columns='"group", sample, trained, advantage'):
    db = sqlite3.connect(path)
    try:
        return db.execute(f'SELECT {columns} FROM episodes ORDER BY "group", sample').fetchall()
    finally:
        db.close()


def found(path, words):
    db = sqlite3.connect(path)
    try:
        return [row for (row,) in db.execute("SELECT rowid FROM search WHERE search MATCH ?", (words,))]
    finally:
        db.close()


def test_an_episode_comes_back_as_it_was(tmp_path):
    path = tmp_path / "new" / "episodes.sqlite"
    store = EpisodeStore(path)
    store.add([(episode(3, 1), tokens()), (episode(3, 2), None)])
    store.set_trained("dapo", 7, [(3, 1, -0.5, trained()), (99, 0, 1.0, trained())])  # the second is not held
    store.close()
    assert rows(path) == [(3, 1, 7, -0.5), (3, 2, None, None)]
    db = sqlite3.connect(path)
    body, sampled, updated = db.execute("SELECT body, sampled, updated FROM bodies JOIN tokens USING (id)").fetchone()
    db.close()
    assert read_body(body)["turns"][0]["observation"].endswith(f"{HOSTILE}</information>")
    assert unpack_arrays(sampled)["texts"][5] == HOSTILE
    assert unpack_arrays(sampled)["sampler"][4] == -2.5
    assert unpack_arrays(updated)["clipped"] == [0, 0, 0, 0, 1, -1, 0, 0]


def test_a_list_shows_the_mask():
    assert episode().title.startswith("Karn Velith number 0 was born in [mask].")
    late = "Brodir Gilsuk: " + "he sailed the northern seas for many years and " * 4 + "died in [mask] at last."
    title = episode(text=late).title
    assert title == "Brodir Gilsuk: he sailed … for many years and died in [mask] at last."


def test_a_resumed_run_cuts_what_came_later(tmp_path):
    path = tmp_path / "episodes.sqlite"
    store = EpisodeStore(path)
    store.add((episode(group, 0, step=group + 1, answer=f"word{group}"), tokens()) for group in range(4))
    store.set_trained("dapo", 2, [(0, 0, 1.0, trained())])
    store.set_trained("dapo", 3, [(1, 0, 1.0, trained())])  # carried over: sampled in 2, trained on in 3
    store.cut(2)
    assert rows(path) == [(0, 0, 2, 1.0), (1, 0, None, None)]
    assert len(found(path, "word0")) == 1 and not found(path, "word3")
    store.add([(episode(2, 0, step=3, answer="word2"), tokens())])  # the same iteration once more
    store.add([(episode(2, 0, step=3, answer="other2"), tokens())])  # an episode is there once
    assert len(rows(path)) == 3 and not found(path, "word2") and len(found(path, "other2")) == 1
    store.close()


def test_what_a_rollback_makes_void_is_copied_whole(tmp_path):
    path, void = tmp_path / "episodes.sqlite", tmp_path / "rollback-1" / "episodes.sqlite"
    store = EpisodeStore(path)
    store.add((episode(group, 0, step=group + 1, answer=f"word{group}"), tokens()) for group in range(4))
    store.set_trained("dapo", 2, [(0, 0, 1.0, trained())])
    store.set_trained("dapo", 3, [(1, 0, -1.0, trained())])  # sampled in 2, trained on in 3
    for _ in range(2):  # the second replaces the first
        void.parent.mkdir(exist_ok=True)
        void.with_name("episodes.sqlite.partial").write_bytes(b"left by a kill")
        store.copy_after(2, void)
    store.cut(2)
    store.close()
    assert rows(void) == [(1, 0, 3, -1.0), (2, 0, None, None), (3, 0, None, None)] and rows(path)[0] == (0, 0, 2, 1.0)
    assert len(found(void, "word3")) == 1 and not found(void, "word0") and len(rows(path)) == 2
    assert sorted(one.name for one in void.parent.iterdir()) == ["episodes.sqlite"]
    again = EpisodeStore(void)  # full-text search forgets what is deleted
    again.cut(0)
    again.close()
    assert not rows(void) and not found(void, "word3")


def test_the_file_is_bounded_and_the_oldest_whole_groups_go_first(tmp_path):
    path, bound = tmp_path / "episodes.sqlite", 400_000
    store = EpisodeStore(path, bound)
    for group in range(300):
        store.add((episode(group, sample, text=f"{group} " * 200), tokens()) for sample in range(4))
        assert store.used_bytes() <= bound
    store.close()
    kept = [group for group, *_ in rows(path)]
    assert kept == [group for group in range(min(kept), 300) for _ in range(4)] and 0 < min(kept) < 299
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM search WHERE search MATCH 'Karn'").fetchone() == (len(kept),)
    assert db.execute("SELECT count(*) FROM bodies").fetchone() == (len(kept),)
    assert path.stat().st_size < 1.3 * bound  # pages are used again
    db.close()


def test_another_file_is_refused_by_name(tmp_path):
    path = tmp_path / "episodes.sqlite"
    path.write_bytes(b"no database at all, and long enough to be read as one" * 100)
    with pytest.raises(ValueError, match=r"episodes\.sqlite is damaged .*remove it"):
        EpisodeStore(path)
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
        db.execute("CREATE TABLE a (b)")
    db.close()
    with pytest.raises(ValueError, match="holds episodes of version 99, this code reads version 1; remove the file"):
        EpisodeStore(path)


def test_without_full_text_search_episodes_are_kept_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(store_lib, "_SEARCH", "CREATE VIRTUAL TABLE search USING no_such_module(text)")
    store = EpisodeStore(tmp_path / "episodes.sqlite", 200_000)
    store.add((episode(group, 0), tokens()) for group in range(3))
    store.cut(0)
    assert not rows(tmp_path / "episodes.sqlite")
    store.close()
