"""The host's view of its slots: every token with its log-prob, and the registers of the decode program.

Enters: what the device programs returned and what the environment appends. Leaves: register arrays and, at the end
of an episode, its arrays. Rows of slots that other hosts own stay empty. Everything is numpy and vectorised over
slots; nothing here knows of turns or searches.
"""

import numpy as np

from masksearch_jax.rollout import decode
from masksearch_jax.text.stops import START, StopTable


class Slots:
    """Arrays over B slots and T tokens. `length` counts all tokens of a slot's episode, the newest included."""

    def __init__(self, slots: int, time: int, stops: StopTable):
        self.ids = np.zeros((slots, time), np.int32)
        self.logprobs = np.zeros((slots, time), np.float32)
        self.trainable = np.zeros((slots, time), bool)
        self.length = np.zeros(slots, np.int32)
        self.turn_start = np.zeros(slots, np.int32)  # first token that the policy wrote in the current turn
        self.registers = np.zeros((slots, decode.REGISTERS), np.int32)
        self._stops = stops

    def admit(self, row: int, prompt: np.ndarray, key: np.ndarray) -> None:
        """Puts a new episode's prompt int32 [n] and sampling key uint32 [2] in a slot."""
        self.length[row] = 0
        self.registers[row, decode.KEY0 : decode.KEY1 + 1] = key.view(np.int32)
        self.append(row, prompt)

    def append(self, row: int, ids: np.ndarray) -> None:
        """Records tokens that the policy did not write."""
        start, end = self.length[row], self.length[row] + len(ids)
        self.ids[row, start:end] = ids
        self.logprobs[row, start:end] = 0.0
        self.trainable[row, start:end] = False
        self.length[row] = end

    def begin_turn(self, row: int, budget: int) -> None:
        """Lets the policy write up to `budget` tokens after the newest one."""
        self.turn_start[row] = self.length[row]
        self.registers[row, decode.TOKEN] = self.ids[row, self.length[row] - 1]
        self.registers[row, decode.BUDGET] = budget
        self.registers[row, decode.STATE] = START

    def record(self, ids: np.ndarray, logprobs: np.ndarray, counts: np.ndarray, endings: np.ndarray) -> None:
        """Takes what one decode call returned ([B, S], [B, S], [B], [B]) and readies the registers for the next."""
        steps = np.arange(ids.shape[1])
        written = steps < counts[:, None]
        rows, columns = np.nonzero(written)
        positions = self.length[rows] + columns
        self.ids[rows, positions] = ids[rows, columns]
        self.logprobs[rows, positions] = logprobs[rows, columns]
        self.trainable[rows, positions] = True
        self.length += counts
        busy = np.flatnonzero(counts)
        self.registers[busy, decode.TOKEN] = self.ids[busy, self.length[busy] - 1]
        self.registers[:, decode.BUDGET] = np.where(endings == 0, self.registers[:, decode.BUDGET] - counts, 0)
        states = self.registers[:, decode.STATE]
        for step in range(ids.shape[1]):
            states = np.where(step < counts, self._stops.follow(states, ids[:, step]), states)
        self.registers[:, decode.STATE] = states

    def stop(self, row: int) -> None:
        """Takes a slot out of decoding."""
        self.registers[row, decode.BUDGET] = 0

    def turn(self, row: int) -> np.ndarray:
        """Returns what the policy wrote in the current turn, int32 [n], as the model saw it."""
        return self.ids[row, self.turn_start[row] : self.length[row]]
