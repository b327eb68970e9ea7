"""The surprise of a model beside that of the truth, by kind of word: for text of the small storyworld."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.data.text.shards import TokenShards
from toolkit.inference.logprobs import score_tokens
from toolkit.runs.evaluation import KindSurprise
from toolkit.storyworld.small.stories import next_token_truth
from toolkit.storyworld.small.word_kinds import KINDS, kinds_of

DOCUMENTS = 8
"""About 800 tokens: 0.1 s for the truth, and 0.03 s for each evaluation of 0.3 million parameters."""


@dataclass(frozen=True)
class KnownDocuments:
    """Held-out documents of which the true probability of every token is known.

    Attributes:
        ids: the tokens of each, without end-of-text.
        truth: the surprise of the truth about each token and the end, in nats.
        kinds: of each token and the end, see `word_kinds`.
    """

    ids: Sequence[Sequence[int]]
    truth: Sequence[np.ndarray]
    kinds: Sequence[Sequence[str]]
    start_id: int
    end_id: int

    @classmethod
    def of(
        cls, shards: TokenShards, tokenizer: PreTrainedTokenizerBase, *, window: int
    ) -> KnownDocuments | None:
        """Return the first documents of a held-out part; None if they are not of the small storyworld.

        Args:
            window: context length of the model; a longer document is not of that world.
        """
        ids, surprises, kinds = [], [], []
        try:
            truth = next_token_truth(tokenizer)
            for index in range(min(DOCUMENTS, shards.documents)):
                document = shards.document(index).tolist()
                text = tokenizer.decode(document)
                encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
                if len(document) >= window or encoded["input_ids"] != document:
                    return None
                truths = truth(text)
                ids.append(document)
                surprises.append(np.array([token.surprise for token in truths]))
                kinds.append(kinds_of(text, encoded["offset_mapping"], truths))
        except ValueError:  # the grammar does not derive the text, or the tokenizer merges words
            return None
        return cls(ids, surprises, kinds, shards.start_id, shards.end_id)

    def surprise(self, model: PreTrainedModel, *, window: int) -> dict[str, KindSurprise]:
        """Return the mean surprise of a model and of the truth about each kind of word, in nats per token."""
        nats = score_tokens(model, self.ids, prefix_id=self.start_id, end_id=self.end_id, window=window)
        of_model, of_truth = np.concatenate(nats), np.concatenate(self.truth)
        kinds = np.array([kind for document in self.kinds for kind in document])
        return {
            kind: KindSurprise(
                model=float(of_model[kinds == kind].mean()),
                truth=float(of_truth[kinds == kind].mean()),
                n=int((kinds == kind).sum()),
            )
            for kind in KINDS
            if (kinds == kind).any()
        }
