"""The host's view of all slots: every token with its log-prob, and the registers of the decode program.

Enters: what the device programs returned and what the environment appends. Leaves: register arrays and, at the end
of an episode, its arrays. Everything is numpy and vectorised over slots; nothing here knows of turns or searches.
"""

import numpy as np

from masksearch_jax.rollout import decode


class Slots:
    """Arrays over B slots and T tokens. `length` counts all tokens of a slot's episode, the newest included."""

    def __init__(self, slots: int, time: int, window: int):
        self.ids = np.zeros((slots, time), np.int32)
        self.logprobs = np.zeros((slots, time), np.float32)
        self.trainable = np.zeros((slots, time), bool)
        self.length = np.zeros(slots, np.int32)
        self.turn_start = np.zeros(slots, np.int32)  # first token that the policy wrote in the current turn
        self.registers = np.zeros((slots, decode.REGISTERS + window), np.int32)

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
        self.registers[row, decode.REGISTERS :] = decode.NO_TOKEN

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
        for back in range(1, self.registers.shape[1] - decode.REGISTERS + 1):
            at = self.length[busy] - back
            newest = np.where(at >= self.turn_start[busy], self.ids[busy, at], decode.NO_TOKEN)
            self.registers[busy, -back] = newest

    def stop(self, row: int) -> None:
        """Takes a slot out of decoding."""
        self.registers[row, decode.BUDGET] = 0

    @property
    def decoding(self) -> bool:
        return bool((self.registers[:, decode.BUDGET] > 0).any())

    def turn(self, row: int) -> np.ndarray:
        """Returns what the policy wrote in the current turn, int32 [n], as the model saw it."""
        return self.ids[row, self.turn_start[row] : self.length[row]]
