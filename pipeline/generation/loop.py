"""The decoding loop: draw a token for each request, until it is done; fork, drop and slide."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.generation.cuda_graph import CapturedStep, StaticKVCache, captures
from pipeline.generation.draws import ROUNDING, Draws, check_finite, pack_draws, read_draws
from pipeline.generation.forward import Network
from pipeline.generation.kv_cache import KVCache
from pipeline.generation.sampling import Sampler
from pipeline.generation.sequences import Request
from pipeline.generation.speculative import DRAFT_FROM, DraftLength
from pipeline.generation.step_weights import StepWeights

OnToken = Callable[[int, int], object]  # the index of a prompt, and its next token

log = logging.getLogger(__name__)


class DecodingLoop:
    """Decodes requests until all are done.

    A *sequence* of the batch stands for all requests whose tokens are equal so far, and forks where
    they draw differently: settings that choose alike are computed once. Requests that outgrow the
    context leave the cache and slide.
    """

    def __init__(
        self,
        network: Network,
        weights: StepWeights,
        requests: list[Request],
        on_token: OnToken | None,
        end_of_text: int,
    ) -> None:
        self.network, self.weights = network, weights
        self.on_token, self.end_of_text = on_token, end_of_text
        self.context_length = self.network.config.context_length
        # A CUDA graph has a fixed batch size, so there every request is a sequence from the start.
        self.forks = not captures(network)
        cached = [request for request in requests if self._fits(request)]
        self.sequences = self._sequences(cached)
        self.sliding = [request for request in requests if not self._fits(request)]
        self.steps = steps = requests[0].max_new_tokens
        self.cache = (KVCache if self.forks else StaticKVCache)(
            self.network.config,
            [sequence[0].length for sequence in self.sequences],
            steps,
            like=self.network.wte,
            max_sequences=len(cached),
        )
        self.rounding = ROUNDING[network.wte.dtype] if weights.exact else None
        self.captured = CapturedStep(network, self.rounding)
        self.draft_length = DraftLength()
        self.sampler = self._sampler()
        if any(request.length + steps - 1 > self.context_length for request in requests):
            log.warning(
                "prompt and new tokens outgrow the model's context of %d tokens: past it only the "
                "last %d are seen, and each token costs a full pass over them",
                self.context_length,
                self.context_length,
            )

    @property
    def _requests(self) -> list[Request]:
        return [request for sequence in self.sequences for request in sequence] + self.sliding

    def run(self) -> None:
        prompts = [sequence[0].prompt for sequence in self.sequences]
        self._draw(self.network.prefill(prompts, self.cache))
        while self._regroup():
            if draft_length := self._draft_length():
                self._speculate(draft_length)
            elif isinstance(self.cache, StaticKVCache) and self.sequences:
                self._replay(self.cache)
            else:
                self._draw(self._step())

    def _step(self) -> Tensor:
        """Logits (sequences, V) that follow the newest tokens."""
        if not self.sequences:
            return self.network.wte.new_empty(0, self.network.config.vocab_size)
        tokens = self._tensor([[sequence[0].new[-1]] for sequence in self.sequences])
        weights = self.weights.for_steps(len(self.sequences), self.steps)
        return self.network.advance(tokens, self.cache, weights)[:, 0]

    def _replay(self, cache: StaticKVCache) -> None:
        """A step of the captured graph, which draws greedily itself."""
        tokens = [sequence[0].new[-1] if sequence else 0 for sequence in self.sequences]
        logits, greedy = self.captured(tokens, cache)
        if self.sampler.greedy and not self.sliding:
            self._accept_all(read_draws(greedy, self._sources()))
        else:
            self._draw(logits)

    def _draw(self, logits: Tensor) -> None:
        """Give each request its next token, from the logits of the sequences (sequences, V)."""
        keys = [request.key() for request in self._requests]
        self._accept_all(self._draws(self.sampler, self._expanded(logits), keys))

    def _accept_all(self, draws: Draws) -> None:
        for place, request in enumerate(self._requests):
            self._accept(request, draws, place)

    def _sources(self) -> list[int]:
        """For each request, those that slide left out, the place of its sequence."""
        return [i for i, sequence in enumerate(self.sequences) for _ in sequence]

    def _expanded(self, logits: Tensor) -> Tensor:
        """Logits of the sequences as logits of the requests, those that slide included."""
        sources = self._sources()
        if sources != list(range(len(self.sequences))):
            logits = logits[sources]
        if not self.sliding:
            return logits
        windows = [request.window(self.context_length) for request in self.sliding]
        return torch.cat([logits.float(), self.network.last_logits(windows)])

    # Speculative decoding, of a request alone

    def _draft_length(self) -> int:
        """How many tokens to draft; 0 where that does not pay or cannot be."""
        requests = self._requests
        if len(requests) != 1 or self.sliding:
            return 0
        (request,) = requests
        if not self.weights.can_draft(request.remaining):
            return 0
        # The last token of a verified draft is drawn, not drafted; all must fit into the context.
        room = min(request.remaining - 1, self.context_length - request.length)
        return min(self.draft_length.choose(), room)

    def _speculate(self, count: int) -> None:
        """Draft `count` tokens, verify them in one pass, and keep what the model draws."""
        (request,) = self._requests
        end = self.cache.end
        draft = self._draft(request, count)
        self.cache.rewind(end)
        tokens = self._tensor([[request.new[-1], *draft]])
        weights = self.weights.for_steps(count + 1, DRAFT_FROM)
        logits = self.network.advance(tokens, self.cache, weights)[0]  # (count + 1, V)
        keys = [request.key(place) for place in range(count + 1)]
        draws = self._draws(Sampler([request.sampling] * (count + 1)), logits, keys)
        accepted = 0
        for place in range(count + 1):
            self._accept(request, draws, place)
            if request.done or place == count or request.new[-1] != draft[place]:
                break
            accepted += 1
        self.cache.rewind(end + accepted + 1)
        self.draft_length.update(count, accepted)

    def _draft(self, request: Request, count: int) -> list[int]:
        """What the model would draw next if its weights had 8 bits."""
        draft: list[int] = []
        weights = self.weights.packed("int8")
        for place in range(count):
            token = draft[-1] if draft else request.new[-1]
            logits = self.network.advance(self._tensor([[token]]), self.cache, weights)[:, 0]
            if request.sampling.greedy:  # a draft needs no margin
                draft.append(int(logits.argmax()))
            else:
                draft += self.sampler.draw(logits, [request.key(place)])[0].tolist()
        return draft

    def _draws(self, sampler: Sampler, logits: Tensor, keys: list[int]) -> Draws:
        """What the sampler draws from logits (n, V)."""
        if logits.is_mps:
            logits = logits.cpu()  # MPS has no float64, in which sampling computes
        log_total = torch.logsumexp(logits, dim=-1)
        if not sampler.greedy:  # filters need finite logits
            check_finite(log_total.tolist())
        tokens, margins = sampler.draw(logits, keys)
        packed = pack_draws(logits, log_total, tokens, margins, self.rounding)
        return read_draws(packed, range(len(keys)))

    def _accept(self, request: Request, draws: Draws, place: int) -> None:
        """Append the token that was drawn at a place to the request.

        Batches and caches round differently from a pass over the whole context. Where that could
        decide between two tokens, that pass is made, so that the choice is its choice.
        """
        if draws.close[place]:
            logits = self.network.reference_logits(request.window(self.context_length))
            draws = self._draws(Sampler([request.sampling]), logits[None], [request.key()])
            place = 0
        request.add_draw(draws.tokens[place], draws.log_probs[place], self.end_of_text)
        if self.on_token is not None and request.finish_reason == "length":
            for index in request.indices:
                self.on_token(index, draws.tokens[place])

    def _regroup(self) -> bool:
        """Drop what is done, fork sequences, and let requests slide whose context is full.

        Returns:
            Whether any request is left.
        """
        before = self._requests
        self.sliding = [r for r in before if not self._fits(r) and not r.done]
        kept, forked = [], []  # places in the cache, and the sequences that go on from there
        for place, sequence in enumerate(self.sequences):
            parts = self._sequences([r for r in sequence if self._fits(r) and not r.done])
            parts = parts or ([] if self.forks else [[]])
            kept += [(place, part) for part in parts[:1]]
            forked += [(place, part) for part in parts[1:]]
        if not self.forks and 2 * sum(map(bool, (part for _, part in kept))) <= len(kept):
            kept = [(place, part) for place, part in kept if part]
        places = [place for place, _ in kept + forked]
        if places != list(range(len(self.sequences))):
            self.cache.select(places)
        self.sequences = [sequence for _, sequence in kept + forked]
        if self._requests != before:
            self.sampler = self._sampler()
        return bool(self._requests)

    def _sequences(self, requests: list[Request]) -> list[list[Request]]:
        """The requests, those with equal tokens together."""
        if not self.forks:
            return [[request] for request in requests]
        sequences: dict[tuple[int, ...], list[Request]] = {}
        for request in requests:
            sequences.setdefault(request.tokens, []).append(request)
        return list(sequences.values())

    def _sampler(self) -> Sampler:
        return Sampler([request.sampling for request in self._requests])

    def _fits(self, request: Request) -> bool:
        return request.length <= self.context_length

    def _tensor(self, tokens: list[list[int]]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.int64, device=self.network.wte.device)
