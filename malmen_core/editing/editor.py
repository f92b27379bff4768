"""An editor: all that an edit needs besides the base and the facts, as one file with a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from malmen_core.editing.covariance import SecondMoment
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.editing.normaliser import Moments
from malmen_core.editing.preserved import Kinds
from malmen_core.editing.refinement import RefinementPlan
from malmen_core.editing.ridge import Regulariser
from malmen_core.errors import DeltaCorrupt, EditorMismatch, UnknownSetting
from malmen_core.models.base import ModelInfo
from malmen_core.models.tokenization import KeyPosition
from malmen_core.serialization import digest, pack, unpack
from malmen_core.settings import checked


@dataclass(frozen=True)
class EditPlan:
    """How edits are made; chosen with the editor and fixed in its file.

    Attributes:
        where: at which tokens modules are edited: ``subject`` or, as in the paper, ``answer``.
        prior_weight: c, the preservation prior's weight in tokens; 0 for the paper's plain form.
        prior_growth: many facts are solved with more (`prior_factor`); 0 for this c whatever their number.
        anchors: neighbouring prompts of each fact whose keys are held (`anchors`); 0 for none.
        anchor_rank: rows that a fact's anchor keys are compressed to.
        group: facts refined together, about; larger sets are refined in groups, whose sum is repaired.
        edited_weight: factor on both sides of each refined row, so that it outweighs anchors of other facts.
        anchor_weight: factor on each anchor row from then on, since in a sum the anchors of all facts pull.
        refinement: rounds, step and margin; 0 rounds for the paper's single shot.
    """

    where: KeyPosition = "subject"
    prior_weight: float = 10000.0
    prior_growth: float = 6.15
    anchors: int = 24
    anchor_rank: int = 16
    group: int = 32
    edited_weight: float = 5.0
    anchor_weight: float = 0.3
    refinement: RefinementPlan = field(default_factory=RefinementPlan)

    def prior_factor(self, facts: int, inputs: int) -> float:
        """How many times c so many facts are solved with, in a module with so many input features.

        Rows outweigh the prior so that a sum gives what its sets asked for; where they come to a third of the
        dimensions, and beyond, other text pays for it.
        """
        return max(1.0, self.prior_growth * facts / inputs - 1)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> EditPlan:
        """The default plan with some members replaced; ``refinement`` is an object of its own.

        Raises:
            UnknownSetting: there is no such member, or it cannot have this value.
        """
        inner = settings.get("refinement", {})
        if not isinstance(inner, Mapping):
            raise UnknownSetting(
                "'refinement' is no object.", "Give its members by name.", "/plan/refinement"
            )
        default = RefinementPlan()
        refinement = replace(default, **checked("A refinement", default, inner, "/plan/refinement"))
        outer = {name: value for name, value in settings.items() if name != "refinement"}
        return replace(cls(refinement=refinement), **checked("An edit plan", cls(), outer, "/plan"))


@dataclass(frozen=True)
class Editor:
    """A hypernetwork with its plan and prior, for one base model and one list of modules.

    Attributes:
        architecture: the base's ``model_type``.
        base_digest: digest of the base's checkpoint files.
        network: the hypernetwork; not to be trained further once it is here.
        plan: how edits are made.
        moments: C0 by module; empty for none.
        scales: root mean square of each module's output at edited tokens; the unit of a refinement step.
        kinds: tells a subject's kind, for its anchors.
        card: anything else worth knowing: data, steps, seed, device, validation figures.
    """

    architecture: str
    base_digest: str
    network: HyperNetwork
    plan: EditPlan
    moments: Mapping[str, SecondMoment]
    scales: Mapping[str, float]
    kinds: Kinds
    card: Mapping[str, Any]

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the edited modules, in order."""
        return tuple(self.network.shapes)

    @cached_property
    def regularisers(self) -> dict[str, Regulariser]:
        """``M = λI + c·C0`` by module, factored when first used."""
        return self._regularisers(dict.fromkeys(self.modules, 1.0))

    def regularisers_of(self, facts: int) -> dict[str, Regulariser]:
        """`M` by module where so many facts are solved together."""
        shapes = self.network.shapes
        factors = {name: self.plan.prior_factor(facts, inputs) for name, (inputs, _) in shapes.items()}
        return self.regularisers if set(factors.values()) == {1.0} else self._regularisers(factors)

    def _regularisers(self, factors: Mapping[str, float]) -> dict[str, Regulariser]:
        return {
            name: Regulariser(
                float(self.network.ridge(name).detach()),
                factors[name] * self.plan.prior_weight,
                self.moments.get(name),
                shape[0],
            )
            for name, shape in self.network.shapes.items()
        }

    def check_fits(self, info: ModelInfo) -> None:
        """Check that this editor was made for a base model.

        Raises:
            EditorMismatch: saying what differs.
        """
        if (self.architecture, self.base_digest) != (info.architecture, info.digest):
            raise EditorMismatch(
                f"The editor was made for a {self.architecture} with digest {self.base_digest}, "
                f"not for {info.source!r}, a {info.architecture} with digest {info.digest}.",
                "Use an editor that was trained or calibrated on this checkpoint.",
                "/editor",
            )
        if self.modules != info.modules:
            raise EditorMismatch(
                f"The editor edits {', '.join(self.modules)}, not {', '.join(info.modules)}.",
                "Register the model with the editor's modules.",
                "/editor",
            )

    @cached_property
    def _packed(self) -> bytes:
        tensors = {f"network:{name}": value for name, value in self.network.state_dict().items()}
        for kind, moments in (("key", self.network.key_moments), ("gradient", self.network.gradient_moments)):
            for name, m in moments.items():
                tensors |= {f"{kind}_mean:{name}": m.mean_U, f"{kind}_squares:{name}": m.squares_U}
        tensors |= {f"moment:{name}": moment.factor_UR for name, moment in self.moments.items()}
        tensors |= {f"kind:{name}": centroid.half() for name, centroid in self.kinds.centroids.items()}
        network = self.network
        header = {
            "architecture": self.architecture,
            "base_digest": self.base_digest,
            "shapes": {name: list(shape) for name, shape in network.shapes.items()},
            "order": list(network.shapes),
            "rank": network.rank,
            "blocks": network.block_count,
            "seed": network.seed,
            "counts": {name: m.count for name, m in network.key_moments.items()},
            "plan": asdict(self.plan),
            "moment_rest": {name: moment.rest for name, moment in self.moments.items()},
            "scales": dict(self.scales),
            "card": dict(self.card),
        }
        return pack("editor", header, tensors)

    def to_bytes(self) -> bytes:
        """Safetensors bytes with the card in the header."""
        return self._packed

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of `to_bytes`."""
        return digest(self._packed)

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_bytes(self._packed)

    @classmethod
    def load(cls, path: str | Path) -> Editor:
        """Read a file that `save` wrote.

        Raises:
            EditorMismatch: there is no such file, or it is not an editor.
        """
        try:
            return cls.from_bytes(Path(path).read_bytes())
        except (OSError, DeltaCorrupt) as error:
            raise EditorMismatch(
                f"No editor could be read from {str(path)!r}: {error}", "Check the path.", "/editor"
            ) from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Editor:
        """Read what `to_bytes` wrote.

        Raises:
            DeltaCorrupt: the bytes are something else.
        """
        header, tensors = unpack("editor", data)
        try:
            network = _network(header, tensors)
            plan = EditPlan(**_known(EditPlan, header["plan"]))
            refinement = RefinementPlan(**_known(RefinementPlan, header["plan"]["refinement"]))
            return cls(
                header["architecture"],
                header["base_digest"],
                network,
                replace(plan, refinement=refinement),
                {
                    name: SecondMoment(tensors[f"moment:{name}"], rest)
                    for name, rest in header["moment_rest"].items()
                },
                header["scales"],
                Kinds({name[5:]: t for name, t in tensors.items() if name.startswith("kind:")}),
                header["card"],
            )
        except (KeyError, TypeError, RuntimeError) as error:
            raise DeltaCorrupt(f"The editor is incomplete: {error}", "Restore it from a backup.") from error


def _known(plan: type, written: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan of today still has of one that was written."""
    names = {known.name for known in fields(plan)}
    return {name: value for name, value in written.items() if name in names}


def _network(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> HyperNetwork:
    shapes = {name: (header["shapes"][name][0], header["shapes"][name][1]) for name in header["order"]}
    network = HyperNetwork(shapes, rank=header["rank"], blocks=header["blocks"], seed=header["seed"])
    prefix = "network:"
    network.load_state_dict({n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)})
    for kind, moments in (("key", network.key_moments), ("gradient", network.gradient_moments)):
        for name in shapes:
            count = int(header["counts"][name])
            moments[name] = Moments(count, tensors[f"{kind}_mean:{name}"], tensors[f"{kind}_squares:{name}"])
    return network.eval().requires_grad_(False)
