"""Speculative decoding: several tokens for one reading of the weights, all of them the model's own.

At a batch of one a step takes as long as reading the weights. So an 8-bit copy of them, four times
quicker to read, drafts some tokens, and one pass of the model itself over the draft verifies it:
the model draws at each place, with the request's own random numbers for that place. Drafted tokens
are accepted up to the first that the model draws otherwise, where the model's draw stands
(Leviathan et al. 2023, made exact by common random numbers). A bad draft costs time only.
"""

from __future__ import annotations

DRAFT_COST, VERIFY_COST = 0.35, 1.0  # of a draft token and a verifying pass, in plain steps
MAX_DRAFT = 12  # tokens
DECAY = 0.95  # weight that past outcomes keep when another comes
DRAFT_FROM = 128  # tokens after which making the 8-bit copy has paid for itself
PROBE_AFTER = 32  # plain steps after which drafting is tried again


class DraftLength:
    """Chooses how many tokens to draft, from the acceptance rate of earlier drafts."""

    def __init__(self) -> None:
        self._accepted, self._tried = 3.6, 4.0
        self._plain_steps = 0  # since the last draft

    def choose(self) -> int:
        """Tokens to draft; 0 where a plain step is quicker."""
        rate = self._accepted / self._tried

        def speed(length: int) -> float:  # expected tokens over cost
            if not length:
                return 1.0
            tokens = sum(rate**i for i in range(length + 1))
            return tokens / (length * DRAFT_COST + VERIFY_COST)

        best = max(range(MAX_DRAFT + 1), key=speed)
        if best == 0:
            self._plain_steps += 1
            if self._plain_steps >= PROBE_AFTER:
                best = 1
        return best

    def update(self, drafted: int, accepted: int) -> None:
        """Count a draft's outcome; nothing is known of tokens after the first rejected one."""
        self._plain_steps = 0
        for outcome in [1] * accepted + [0] * (accepted < drafted):
            self._accepted = DECAY * self._accepted + outcome
            self._tried = DECAY * self._tried + 1
