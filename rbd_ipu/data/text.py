"""Texts in memory, character by character: a split, and a data set of three splits.

A token is a character, as its place in the vocabulary: the sorted characters of the training text. A window of
``context`` tokens is an example: x are tokens i ... i + context - 1 of the text, and y the next token of each,
i + 1 ... i + context. The loss of a model is the mean over windows and places of -ln p(y), in nats a character.
"""

import dataclasses
import math
import numbers
from typing import Any, Dict, Mapping, Tuple

import numpy as np

from rbd_ipu import checks

CONTEXT = 48  # tokens of a window, unless said otherwise


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """The tokens of a text, to be read in windows.

    Args:
      tokens: whole numbers [length] in 0 .. vocabulary - 1; kept as uint8 where they fit, else int32.
      context: tokens of a window.
      vocabulary: how many tokens there are.
      name: what the messages call it.

    Raises:
      TypeError, ValueError: the tokens are no vector of whole numbers or not in the vocabulary, or the text is not
        longer than the context.

    Example:
      >>> text = Text(np.arange(10) % 4, context=3, vocabulary=4)
      >>> len(text), text.windows()[0].tolist(), text.windows()[1].tolist()
      (3, [[0, 1, 2], [3, 0, 1], [2, 3, 0]], [[1, 2, 3], [0, 1, 2], [3, 0, 1]])
    """

    tokens: np.ndarray
    context: int = CONTEXT
    vocabulary: int = 256
    name: str = "text"

    def __post_init__(self) -> None:
        tokens = np.asarray(self.tokens)
        if tokens.dtype.kind not in "iu" or tokens.ndim != 1 or tokens.size == 0:
            raise TypeError(
                f"tokens must be whole numbers [length] and not empty, got {tokens.dtype} {list(tokens.shape)}"
            )
        checks.positive_int("context", self.context)
        checks.positive_int("vocabulary", self.vocabulary)
        if tokens.min() < 0 or tokens.max() >= self.vocabulary:
            raise ValueError(
                f"tokens must lie in 0 .. {self.vocabulary - 1}, the vocabulary; got {tokens.min()} .. {tokens.max()}"
            )
        if len(tokens) <= self.context:
            raise ValueError(
                f"a context of {self.context} needs more tokens than that, and the {self.name} has {len(tokens):,}: "
                f"accepted are 1 to {len(tokens) - 1:,}"
            )
        kind = np.uint8 if self.vocabulary <= 256 else np.int32
        object.__setattr__(self, "tokens", np.ascontiguousarray(tokens.astype(kind)))

    def __len__(self) -> int:
        """The windows that do not overlap: those that a text is judged by."""
        return (len(self.tokens) - 1) // self.context

    @property
    def arrays(self) -> Tuple[np.ndarray, ...]:
        """All that there is."""
        return (self.tokens,)

    def windows(self) -> Tuple[np.ndarray, np.ndarray]:
        """All windows that do not overlap, from the first token on: x and y, int32 [len(self), context].

        For ``model.fit``, and to judge by; what does not fill a window at the end is left out.
        """
        whole = len(self) * self.context
        x, y = self.tokens[:whole], self.tokens[1 : whole + 1]
        return x.reshape(-1, self.context).astype(np.int32), y.reshape(-1, self.context).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class TextData:
    """A data set of characters: three splits and what to know about them.

    Attributes:
      name: as in :func:`rbd_ipu.data.load`.
      train, validation, test: :class:`Text`.
      characters: the vocabulary, in order: token k is ``characters[k]``.
      source: where the text comes from.
      licence: the terms it comes under.
      files: the files it was read from, name: SHA-256.

    Example:
      >>> from rbd_ipu.data import load
      >>> text = load("shakespeare_excerpt")
      >>> text.shape, text.classes, text.decode(text.encode("First Citizen"))
      ((48,), 59, 'First Citizen')
    """

    name: str
    train: Text
    validation: Text
    test: Text
    characters: str
    source: str
    licence: str
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    augment = None  # nothing is, and nothing standardised
    standardise = False
    examples = "windows"  # what the messages call them
    of_text = True

    @classmethod
    def of(
        cls, name: str, train: str, validation: str, test: str, context: int = CONTEXT, **facts: Any
    ) -> "TextData":
        """The data set of three texts; the vocabulary is the sorted characters of the first.

        Raises:
          ValueError: a text has a character that the training text does not have, or is not longer than the context.

        Example:
          >>> TextData.of("ab", "abab" * 9, "ab" * 9, "ba" * 9, context=4, source="", licence="").characters
          'ab'
        """
        characters = "".join(sorted(set(train)))
        texts = {"train": train, "validation": validation, "test": test}
        for which, text in texts.items():
            unknown = "".join(sorted(set(text) - set(characters)))
            if unknown:
                raise ValueError(
                    f"the {which} text of {name!r} has the characters {unknown!r}, which its training text does not "
                    f"have: the vocabulary is {characters!r}"
                )
        splits: Dict[str, Any] = {
            which: Text(_tokens(text, characters), context, len(characters), f"{which} text of {name}")
            for which, text in texts.items()
        }
        return cls(name=name, characters=characters, **splits, **facts)

    @property
    def context(self) -> int:
        """Tokens of a window."""
        return self.train.context

    @property
    def shape(self) -> Tuple[int]:
        """(context,)."""
        return (self.context,)

    @property
    def classes(self) -> int:
        """How many tokens there are."""
        return len(self.characters)

    def with_context(self, context: int) -> "TextData":
        """The same texts in windows of another length.

        Raises:
          TypeError, ValueError: the context is no whole number from 1, or one of the texts is not longer.
        """
        cut = {which: dataclasses.replace(getattr(self, which), context=context) for which in _SPLITS}
        return dataclasses.replace(self, **cut)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, int32 [length].

        Raises:
          ValueError: it has a character that is not in the vocabulary.
        """
        unknown = "".join(sorted(set(text) - set(self.characters)))
        if unknown:
            raise ValueError(f"{unknown!r} is not in the vocabulary of {self.name!r}, {self.characters!r}")
        return _tokens(text, self.characters)

    def decode(self, tokens: Any) -> str:
        """The text of tokens."""
        return "".join(self.characters[int(token)] for token in tokens)

    def joined(self) -> "TextData":
        """The same data with nothing held out: training also on the validation text, validated on the test's."""
        tokens = np.concatenate([self.train.tokens, self.validation.tokens])
        return dataclasses.replace(
            self, train=dataclasses.replace(self.train, tokens=tokens), validation=self.test
        )  # fmt: skip

    def for_tuning(self, share: float = 0.25, seed: int = 0) -> "TextData":
        """The same data with the end of the training text held out, as the validation text.

        Args:
          share: of the training text, above 0 and below 1.
          seed: of no use here; images are held out at random.

        Raises:
          ValueError: the share is not above 0 and below 1, or one of the parts is not longer than the context.
        """
        if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 < share < 1:
            raise ValueError(f"share must be a number above 0 and below 1, got {share!r}")
        place = len(self.train.tokens) - math.ceil(float(share) * len(self.train.tokens))
        first, second = self.train.tokens[:place], self.train.tokens[place:]
        return dataclasses.replace(
            self,
            train=dataclasses.replace(self.train, tokens=first),
            validation=dataclasses.replace(self.validation, tokens=second),
        )

    def batches(self, batch_size: int, seed: Any = 0, augment: Any = True) -> Any:
        """:class:`rbd_ipu.data.batches.Windows` over the training text; ``augment`` has nothing to do."""
        from rbd_ipu.data.batches import Windows

        return Windows(self.train, batch_size, seed=seed)

    def evaluation(self, which: str, batch_size: int) -> Any:
        """:func:`rbd_ipu.data.evaluation` over the windows of "train", "validation" or "test", in order."""
        from rbd_ipu.data.batches import evaluation

        if which not in _SPLITS:
            raise ValueError(f"unknown split {which!r}; accepted: {', '.join(map(repr, _SPLITS))}")
        return evaluation(getattr(self, which), batch_size)


_SPLITS = ("train", "validation", "test")


def _tokens(text: str, characters: str) -> np.ndarray:
    places = {character: place for place, character in enumerate(characters)}
    return np.fromiter((places[character] for character in text), np.int32, len(text))
