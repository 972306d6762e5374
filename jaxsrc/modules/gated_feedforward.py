"""A transformer's feed-forward network that is a gated unit; also for the other transformers of the project."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from flax import nnx
from jaxtyping import Array, Float

from jaxsrc.errors import UserError
from jaxsrc.modules.dropout import dropout, split
from jaxsrc.modules.feedforward import Activation, FeedForward
from jaxsrc.modules.gated_recurrence import PointwiseGRU
from jaxsrc.modules.gated_units import AlphaConfig, GatedUnit, Gating, GatingKinds, Unit, gating
from jaxsrc.modules.linear import Linear
from jaxsrc.modules.taps import NONE, Taps

AnyUnit = Literal["paGLU", "paGTU", "paSwishU", "paReGLU", "paGELU", "paMishU", "paSiLU", "paGRU"]
ANY_UNITS: tuple[AnyUnit, ...] = get_args(AnyUnit)


def matched_hidden(width: int, unit: AnyUnit, multiple: int = 8) -> int:
    """Hidden features for which the unit's maps and the one down cost what a plain network of 4 * width hidden ones does."""
    maps = 4 if unit == "paGRU" else 2
    return max(multiple, round(8 * width / (maps + 1) / multiple) * multiple)


def activation_of(unit: AnyUnit) -> Unit:
    """The unit whose activation data name; the recurrent one has its own and takes any."""
    return "paGLU" if unit == "paGRU" else unit


def kinds_of(unit: AnyUnit, alpha: AlphaConfig, gate_norm: bool = False) -> GatingKinds:
    """What a unit with one activation and one kind of alpha chooses from."""
    return GatingKinds((activation_of(unit),), (alpha.kind,), alpha.per, alpha.temperature, gate_norm)


class GatedFeedForward(nnx.Module):
    """down(unit(x)); taps NAME.gate, NAME.alpha, NAME.hidden [*b, hidden] and NAME.out [*b, width].

    kinds: what a `Gating` given in the call may choose from (a sweep's units and alphas); without one in the call the unit
    and alpha named here hold, a scheduled alpha at its end.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        rngs: nnx.Rngs,
        *,
        unit: AnyUnit = "paGLU",
        alpha: AlphaConfig | None = None,
        gate_norm: bool = False,
        kinds: GatingKinds | None = None,
        bias: bool = True,
        std: float | None = None,
        out_std: float | None = None,
        dropout: float = 0.0,
    ):
        self.alpha, self.rate = alpha or AlphaConfig(), dropout
        self.activation: Unit = activation_of(unit)
        self.kinds = kinds or kinds_of(unit, self.alpha, gate_norm)
        made = PointwiseGRU if unit == "paGRU" else GatedUnit
        self.unit = made(width, hidden, rngs, kinds=self.kinds, bias=bias, std=std)
        std = std if out_std is None else out_std
        init = nnx.initializers.lecun_normal() if std is None else nnx.initializers.normal(std)
        self.down = Linear(hidden, width, use_bias=bias, rngs=rngs, kernel_init=init)

    def gating(self, progress: Array | float = 1.0) -> Gating:
        """The data of the unit and alpha named at construction."""
        return gating(self.kinds, self.activation, self.alpha, progress)

    def __call__(
        self,
        x: Float[Array, "*b d"],
        *,
        key: Array | None = None,
        gating: Gating | None = None,
        taps: Taps = NONE,
        name: str = "feedforward",
    ) -> Float[Array, "*b d"]:
        inner, outer = split(key, 2)
        hidden = taps(f"{name}.hidden", self.unit(x, gating or self.gating(), taps=taps, name=name))
        return taps(f"{name}.out", dropout(self.down(dropout(hidden, self.rate, inner)), self.rate, outer))


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Gated units in place of the plain feed-forward networks of a transformer. A schedule follows the training's progress,
    which only the gated language model hands to its units."""

    unit: AnyUnit = "paGLU"
    alpha: AlphaConfig = field(default_factory=AlphaConfig)
    gate_norm: bool = False

    @property
    def kinds(self) -> GatingKinds:
        return kinds_of(self.unit, self.alpha, self.gate_norm)

    def gating(self, progress: Array | float = 1.0) -> Gating:
        """The data of unit and alpha. Errors: UserError for an alpha that cannot be."""
        return gating(self.kinds, activation_of(self.unit), self.alpha, progress)

    def check(self) -> None:
        """UserError for an alpha that is scheduled, or cannot be."""
        if self.alpha.kind not in ("fixed", "learnable", "entropy"):
            raise UserError(f"model.gate.alpha.kind: expected fixed, learnable or entropy in this model, got {self.alpha.kind}")
        self.gating()


def feedforward(
    gate: GateConfig | None,
    width: int,
    hidden: int,
    rngs: nnx.Rngs,
    *,
    activation: Activation = "gelu",
    kinds: GatingKinds | None = None,
    std: float | None = None,
    out_std: float | None = None,
    dropout: float = 0.0,
) -> FeedForward | GatedFeedForward:
    """The plain network, or the gated one where a gate is asked for; hidden: features of either; kinds: what the `Gating` given
    in each call may choose from, where the model gives one; where it does not, alpha may not be scheduled."""
    if gate is None:
        return FeedForward(width, hidden, rngs, activation=activation, std=std, out_std=out_std, dropout=dropout)
    if kinds is None:
        gate.check()
    more = {"unit": gate.unit, "alpha": gate.alpha, "gate_norm": gate.gate_norm, "kinds": kinds}
    return GatedFeedForward(width, hidden, rngs, **more, std=std, out_std=out_std, dropout=dropout)
