"""A dream by one M while C reads the memory of another, which only observes."""

from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float

from models.rnn import MDNRNN, Prediction, RNNState


class ObservedState(NamedTuple):
    """The memories of the two models of an `ObservedDream`."""

    dreaming: RNNState
    observer: RNNState

    @property
    def hidden(self) -> Float[Array, "*batch hidden"]:
        """What C reads."""
        return self.observer.hidden


class ObservedDream(eqx.Module):
    """A dream by one M in which C reads the memory of another, the observer; used like an MDNRNN.

    In the dream of a single M, h also decides what happens next. So a search finds controllers that
    read the future from h, or lead it where rewards are wrong (Ha & Schmidhuber 2018, section 5).
    On the real track h only observes, and so it does here.
    """

    dreaming: MDNRNN
    observer: MDNRNN

    @property
    def latent(self) -> int:
        """Size of z."""
        return self.observer.latent

    @property
    def hidden(self) -> int:
        """Size of the hidden state that C reads."""
        return self.observer.hidden

    def initial_state(self, *batch: int) -> ObservedState:
        """As `MDNRNN.initial_state`."""
        models = self.dreaming, self.observer
        return ObservedState(*(model.initial_state(*batch) for model in models))

    def step(
        self, state: Any, z: Float[Array, "*batch latent"], action: Array
    ) -> tuple[ObservedState, Prediction]:
        """As `MDNRNN.step`. The prediction is that of `dreaming`."""
        dreaming, prediction = self.dreaming.step(state.dreaming, z, action)
        observer, _ = self.observer.step(state.observer, z, action)
        return ObservedState(dreaming, observer), prediction

    def unroll(
        self, state: Any, z: Float[Array, "time *batch latent"], actions: Array
    ) -> ObservedState:
        """As `MDNRNN.unroll`."""
        return ObservedState(
            self.dreaming.unroll(state.dreaming, z, actions),
            self.observer.unroll(state.observer, z, actions),
        )


DreamModel = MDNRNN | ObservedDream  # what dreams
