"""Guessing ahead: several tokens for one reading of the weights, and still the model's own.

At a batch of one a step takes as long as reading the weights. So a copy of them in 8 bits, four
times quicker to read, guesses some tokens ahead, and one pass of the model itself over the guesses
tells which of them it would have drawn: it draws at each place, with the row's own uniform number
for that place, and the first place where guess and draw differ ends the leap, the draw standing
(Leviathan et al. 2023, made exact by common random numbers). Every token is the model's; bad
guesses cost time only.
"""

from __future__ import annotations

GUESS_COST, CHECK_COST = 0.35, 1.0  # of a plain step
MOST = 12
MEMORY = 0.95  # what past guesses still count, a guess later
GUESS_FROM = 128  # tokens after which the copies have paid for themselves
PROBE = 32  # plain steps after which guessing is tried again


class Guesses:
    """How many tokens to guess next, from how often guesses were right."""

    def __init__(self) -> None:
        self._right, self._tried = 3.6, 4.0
        self._plain = 0  # steps since the last guess

    def count(self) -> int:
        """Tokens to guess; 0 where a plain step is quicker."""
        rate = self._right / self._tried

        def speed(count: int) -> float:  # expected tokens over cost
            if not count:
                return 1.0
            tokens = sum(rate**i for i in range(count + 1))
            return tokens / (count * GUESS_COST + CHECK_COST)

        best = max(range(MOST + 1), key=speed)
        if best == 0:
            self._plain += 1
            if self._plain >= PROBE:
                best = 1
        return best

    def learn(self, guessed: int, right: int) -> None:
        """Of `guessed` tokens in a row the first `right` were right; the rest says nothing."""
        self._plain = 0
        for outcome in [1] * right + [0] * (right < guessed):
            self._right = MEMORY * self._right + outcome
            self._tried = MEMORY * self._tried + 1
