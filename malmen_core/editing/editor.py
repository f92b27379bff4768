"""An editor: all that an edit needs besides the base and the facts, as one file with a card."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from malmen_core.editing.covariance import SecondMoment
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.editing.normaliser import Moments
from malmen_core.editing.ridge import Regulariser
from malmen_core.errors import DeltaCorrupt, EditorMismatch
from malmen_core.models.base import ModelInfo
from malmen_core.models.tokenization import KeyPosition
from malmen_core.serialization import digest, pack, unpack
from malmen_core.settings import checked

PLAN_VERSION = 2
"""Of what an editor's plan means. An editor of another version cannot edit with this release."""


@dataclass(frozen=True)
class EditPlan:
    """How edits are made; chosen with the editor and fixed in its file.

    A file holds every member, and the version of what they mean. A member that a file lacks is off: 0.

    Attributes:
        where: at which tokens modules are edited: ``subject`` or, as in the paper, ``answer``.
        noise: ε of the normal equation.
        prior_weight: c, the preservation prior's weight in tokens; 0 for the paper's plain form.
        prior_growth: c is at least this times the number of rows that are solved together.
        preserved_weight: a, the weight of a key at which nothing may change, in tokens.
        neighbours: prompts of each template that are preserved; 0 for none.
        preserved_rank: rows that each group of preserved keys is compressed to.
        rounds: Gauss-Newton steps at most; 0 for the paper's single shot.
        margin: a goal is reached when each answer token beats every other by this many nats.
        lone_margin: likewise for a fact that is edited alone; for n facts, this over the cube root of n, if that
            is more than `margin`.
        beyond: a step goes for so many nats more than the margin, in log-odds of the whole answer.
        step: by how much a fact may change a module's output at its own key in a round (root mean square),
            relative to the typical magnitude of that output; more, as the square root, for a larger margin.
        damping: δ of a step.
        bound: largest magnitude of a row of `D`, likewise relative.
    """

    where: KeyPosition = "subject"
    noise: float = 0.1
    prior_weight: float = 10000.0
    prior_growth: float = 400.0
    preserved_weight: float = 100.0
    neighbours: int = 12
    preserved_rank: int = 16
    rounds: int = 10
    margin: float = 2.0
    lone_margin: float = 12.0
    beyond: float = 4.0
    step: float = 0.1
    damping: float = 0.01
    bound: float = 10.0

    def prior_of(self, rows: int) -> float:
        """The weight c for so many rows that are solved together, which would outweigh a constant one."""
        return max(self.prior_weight, self.prior_growth * rows)

    def margin_of(self, facts: int) -> float:
        """The margin that each of so many facts is edited to: few may be pushed further at little cost."""
        return max(self.margin, self.lone_margin / math.cbrt(facts))

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> EditPlan:
        """The default plan with some members replaced.

        Raises:
            UnknownSetting: there is no such member, or it cannot have this value.
        """
        return replace(cls(), **checked("An edit plan", cls(), settings, "/plan"))


PAPER = EditPlan("answer", 1.0, **{each.name: 0 for each in fields(EditPlan)[2:]})
"""The paper's form: answer tokens, ``M = λI``, one shot; what is off is 0."""


@dataclass(frozen=True)
class Editor:
    """A hypernetwork with its plan and prior, for one base model and one list of modules.

    Attributes:
        architecture: the base's ``model_type``.
        base_digest: digest of the base's checkpoint files.
        network: the hypernetwork; not to be trained further once it is here.
        plan: how edits are made.
        moments: C0 by module; empty for none.
        scales: root mean square of each module's output at edited tokens; the unit of a step.
        card: anything else worth knowing: data, steps, seed, device, validation figures.
    """

    architecture: str
    base_digest: str
    network: HyperNetwork
    plan: EditPlan
    moments: Mapping[str, SecondMoment]
    scales: Mapping[str, float]
    card: Mapping[str, Any]

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the edited modules, in order."""
        return tuple(self.network.shapes)

    def regularisers(
        self, device: torch.device, rows: int, preserved: Mapping[str, Tensor] | None = None
    ) -> dict[str, Regulariser]:
        """``M = λI + c·C0 + a·A'A`` by module, for so many rows and with the preserved keys `A`; on a device."""
        if preserved is not None and not any(len(keys_PU) for keys_PU in preserved.values()):
            preserved = None
        return {
            name: Regulariser(
                float(self.network.ridge(name).detach()),
                inputs,
                device,
                weight=self.plan.prior_of(rows),
                moment=self.moments.get(name),
                preserved_weight=self.plan.preserved_weight,
                preserved_PU=None if preserved is None else preserved[name],
            )
            for name, (inputs, _) in self.network.shapes.items()
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
                "Register the model with the editor's modules, or name none: then those are edited.",
                "/editor",
            )

    @cached_property
    def _packed(self) -> bytes:
        tensors = {f"network:{name}": value for name, value in self.network.state_dict().items()}
        for kind, moments in (("key", self.network.key_moments), ("gradient", self.network.gradient_moments)):
            for name, m in moments.items():
                tensors |= {f"{kind}_mean:{name}": m.mean_U, f"{kind}_squares:{name}": m.squares_U}
        tensors |= {f"moment:{name}": moment.factor_UR for name, moment in self.moments.items()}
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
            "plan": {**asdict(self.plan), "version": PLAN_VERSION},
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

    def compact(self) -> Editor:
        """The same with its network rounded to bfloat16: half as large as a file, and read as float32."""
        return replace(self, network=copy.deepcopy(self.network).bfloat16())

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
            return cls(
                header["architecture"],
                header["base_digest"],
                _network(header, tensors),
                _plan(header["plan"]),
                {
                    name: SecondMoment(tensors[f"moment:{name}"], rest)
                    for name, rest in header["moment_rest"].items()
                },
                header["scales"],
                header["card"],
            )
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise DeltaCorrupt(f"The editor is incomplete: {error}", "Restore it from a backup.") from error


def _plan(written: Mapping[str, Any]) -> EditPlan:
    """A plan as it was written; what it lacks is off.

    Raises:
        EditorMismatch: it is of another version.
    """
    version = written.get("version", 1)
    if version != PLAN_VERSION:
        raise EditorMismatch(
            f"The editor's plan is of version {version}, and this release edits by version {PLAN_VERSION}.",
            "Calibrate or train an editor with this release, and register the model with it.",
            "/editor",
        )
    return replace(PAPER, **{name: value for name, value in written.items() if name != "version"})


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
