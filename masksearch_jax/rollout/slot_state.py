"""The host's copy of its slots: every token with its log-prob, and the state of the decode program.

Enters: what the device programs return, and the tokens that the environment appends. Leaves: decode states and, at the
end of an episode, its arrays. Rows of slots that other hosts own stay empty. Everything is numpy and vectorised over
slots. Left out: what a turn says, and searches (rollout/episode.py).
"""

import numpy as np

from masksearch_jax.rollout import device_programs
from masksearch_jax.text.stop_automaton import START, StopTable


class Slots:
    """Arrays over B slots and T tokens. `length` counts all tokens of a slot's episode, including the newest one."""

    def __init__(self, slots: int, time: int, stop_table: StopTable):
        self.ids = np.zeros((slots, time), np.int32)
        self.logprobs = np.zeros((slots, time), np.float32)
        self.trainable = np.zeros((slots, time), bool)
        self.length = np.zeros(slots, np.int32)
        self.turn_start = np.zeros(slots, np.int32)  # first token that the policy wrote in the current turn
        self.decode_state = np.zeros((slots, device_programs.STATE_COLUMNS), np.int32)
        self._stop_table = stop_table

    def insert(self, row: int, prompt: np.ndarray, key: np.ndarray) -> None:
        """Put the prompt int32 [n] and the sampling key uint32 [2] of a new episode into a slot."""
        self.length[row] = 0
        self.decode_state[row, device_programs.KEY0 : device_programs.KEY1 + 1] = key.view(np.int32)
        self.extend(row, prompt)

    def extend(self, row: int, ids: np.ndarray) -> None:
        """Record tokens that the policy did not write."""
        start, end = self.length[row], self.length[row] + len(ids)
        self.ids[row, start:end] = ids
        self.logprobs[row, start:end] = 0.0
        self.trainable[row, start:end] = False
        self.length[row] = end

    def begin_turn(self, row: int, budget: int) -> None:
        """Let the policy write up to `budget` tokens after the newest one."""
        self.turn_start[row] = self.length[row]
        self.decode_state[row, device_programs.TOKEN] = self.ids[row, self.length[row] - 1]
        self.decode_state[row, device_programs.BUDGET] = budget
        self.decode_state[row, device_programs.STATE] = START

    def record(self, ids: np.ndarray, logprobs: np.ndarray, counts: np.ndarray, endings: np.ndarray) -> None:
        """Store what one decode call returned ([B, S], [B, S], [B], [B]) and update the decode state for the next."""
        steps = np.arange(ids.shape[1])
        written = steps < counts[:, None]
        rows, columns = np.nonzero(written)
        positions = self.length[rows] + columns
        self.ids[rows, positions] = ids[rows, columns]
        self.logprobs[rows, positions] = logprobs[rows, columns]
        self.trainable[rows, positions] = True
        self.length += counts
        busy = np.flatnonzero(counts)
        self.decode_state[busy, device_programs.TOKEN] = self.ids[busy, self.length[busy] - 1]
        self.decode_state[:, device_programs.BUDGET] = np.where(
            endings == 0, self.decode_state[:, device_programs.BUDGET] - counts, 0
        )
        states = self.decode_state[:, device_programs.STATE]
        for step in range(ids.shape[1]):
            states = np.where(step < counts, self._stop_table.follow(states, ids[:, step]), states)
        self.decode_state[:, device_programs.STATE] = states

    def stop(self, row: int) -> None:
        """Stop decoding in a slot, by setting its budget to 0."""
        self.decode_state[row, device_programs.BUDGET] = 0

    def turn(self, row: int) -> np.ndarray:
        """Return the ids int32 [n] that the policy wrote in the current turn, as the model saw them."""
        return self.ids[row, self.turn_start[row] : self.length[row]]
