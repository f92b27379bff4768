"""Meta-training: teach a hypernetwork first guesses whose single-shot edits generalise and stay local.

Each step edits a batch of facts on the immutable base, of a size drawn anew, in a single shot, and moves the
hypernetwork along the decoupled meta-gradient.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from malmen_core.editing.editor import Editor
from malmen_core.editing.gauss_newton import Progress
from malmen_core.editing.hypernetwork import HyperNetwork
from malmen_core.editing.preserved import preserved_keys
from malmen_core.errors import CheckpointMismatch, NotFiniteError
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import mixed_precision
from malmen_core.models.overlay import weights_digest
from malmen_core.training.checkpoint import RunFolder, TrainingState, storage
from malmen_core.training.kept import KeptFacts
from malmen_core.training.meta_gradient import MALMEN, EditInputs, Rule
from malmen_core.training.meta_loss import LossWeights, MetaBatch, MetaLossResult, meta_loss
from malmen_core.training.sampling import Curriculum, facts_digest

STARTING_STEPS = (0.1, 0.3, 1.0, 3.0, 10.0)
STARTING_FACTS = 32
SCALARS = ("log_step", "log_ridge")
CHANGEABLE = ("learning_rate", "scalar_rate", "loss")
"""What a run may go on with other values of, besides the steps: a schedule, which its card records."""


@dataclass(frozen=True)
class TrainingPlan:
    """How a hypernetwork is trained.

    Attributes:
        steps: at most this many.
        seed: of the split, the draws and the network's first projections.
        smallest_batch: fewest facts that a step edits at once.
        largest_batch: most facts that a step edits at once.
        learning_rate: of the network.
        scalar_rate: of the step sizes and of λ, which are a few numbers on a logarithmic scale.
        clip: largest gradient norm, of the network and of the scalars apart.
        loss: weights of the meta loss's parts.
        normaliser_facts: facts that the normaliser is fitted on before the first step.
        validation_facts: facts held out, by subject; a fifth of all at most.
        validate_every: steps between validations.
        patience: validations without a better loss after which training stops.
        checkpoint_every: steps between checkpoints.
        batch_tokens: padded tokens of a language-model batch.
        mixed: multiply in bfloat16 in the base's passes, which is faster where the device does so by itself.
            The network, all sums and the equation keep their precision; validations are rounded likewise.
    """

    steps: int = 1000
    seed: int = 0
    smallest_batch: int = 1
    largest_batch: int = 64
    learning_rate: float = 3e-4
    scalar_rate: float = 3e-2
    clip: float = 1.0
    loss: LossWeights = field(default_factory=LossWeights)
    normaliser_facts: int = 256
    validation_facts: int = 128
    validate_every: int = 50
    patience: int = 8
    checkpoint_every: int = 25
    batch_tokens: int = 768
    mixed: bool = False


Watch = Callable[[Mapping[str, Any]], None]


def train(
    base: BaseModel,
    start: Editor | None,
    facts: Sequence[Fact],
    plan: TrainingPlan,
    *,
    rule: Rule = MALMEN,
    folder: RunFolder | None = None,
    data: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Editor:
    """Train a new hypernetwork for an editor's plan, prior and scales.

    Args:
        base: the immutable base.
        start: an editor for that base; a trained one is learned on from. None to resume the run in `folder`.
        facts: to train and validate on.
        plan: how; on resuming only `steps` and `CHANGEABLE` may differ, and neither the base's dtype nor its kind
            of device.
        rule: what the network is trained for: MALMEN, or a baseline that learns.
        folder: where checkpoints and metrics go; None for nowhere.
        data: about the facts' origin, for the card.
        progress: told ``("training", step, steps)``; may raise to stop.
        watch: told each line of metrics.

    Returns:
        The start with the network of the best validation loss (its own, if no step was better), and a card.

    Raises:
        EditorMismatch: the start was made for another base.
        CheckpointMismatch: the folder holds another run, or none.
        FactError: too few facts to split, or one that cannot be encoded.
        NotFiniteError: the gradient is infinite or NaN; the last checkpoint is good.
    """
    curriculum = Curriculum.split(facts, plan.validation_facts, plan.seed)
    with storage(folder) as place, mixed_precision(plan.mixed):
        state = None
        if start is None:
            if folder is None:
                raise CheckpointMismatch(
                    "A run can only be resumed from its folder.", "Name the folder.", "/checkpoint"
                )
            begun, state = folder.read()
            begun.check_fits(base.info)
            inputs = Inputs(base, begun, curriculum, plan, place)
        else:
            start.check_fits(base.info)
            if folder is not None:
                folder.clear()
            inputs = Inputs(base, start, curriculum, plan, place)
            begun = prepare_start(base, start, inputs, plan, rule)
            if folder is not None:
                folder.begin(begun)
        run = {
            "facts": facts_digest(facts),
            "base": base.info.digest,
            "start": begun.digest,
            "dtype": str(base.dtype).removeprefix("torch."),
            "device": base.device.type,
            "plan": {name: value for name, value in asdict(plan).items() if name != "steps"},
            **({} if rule == MALMEN else {"rule": rule.name}),
        }
        trainer = Trainer(base, begun, inputs, plan, run, rule)
        if state is not None:
            trainer.restore(state)
        return _run(trainer, folder, data or {}, progress, watch)


class Inputs:
    """What steps and validations need of the facts, computed once for each."""

    def __init__(
        self, base: BaseModel, start: Editor, curriculum: Curriculum, plan: TrainingPlan, folder: Path
    ) -> None:
        self.base, self.start, self.curriculum, self.loss = base, start, curriculum, plan.loss
        parts = {"training": curriculum.training, "validation": curriculum.validation}
        self._kept = {
            part: KeptFacts(base, facts, start.plan.where, folder / part, plan.batch_tokens)
            for part, facts in parts.items()
        }

    def training(self, position: int, count: int) -> tuple[MetaBatch, EditInputs]:
        """Of the facts that are drawn from a position on."""
        return self._of("training", self.curriculum.training, self.curriculum.draw(position, count))

    def validation(self) -> tuple[MetaBatch, EditInputs]:
        """Of all facts that are held out."""
        facts = self.curriculum.validation
        return self._of("validation", facts, range(len(facts)))

    def _of(self, part: str, facts: Sequence[Fact], numbers: Sequence[int]) -> tuple[MetaBatch, EditInputs]:
        meta_batch, seen = self._kept[part].prepare(numbers, self.loss)
        plan = self.start.plan
        if plan.preserved_weight == 0:
            return meta_batch, EditInputs(seen)
        chosen = [facts[number] for number in numbers]
        own = preserved_keys(self.base, chosen, plan.neighbours, plan.preserved_rank)
        return meta_batch, EditInputs(seen, own.keys)


def prepare_start(
    base: BaseModel, start: Editor, inputs: Inputs, plan: TrainingPlan, rule: Rule = MALMEN
) -> Editor:
    """The editor at step 0: normaliser fitted on the first facts, step sizes chosen by the meta loss.

    The step sizes tried are multiples of each module's scale, one multiple for all. A trained editor has both.
    """
    if start.card.get("kind") == "trained":
        return start
    old = start.network
    network = HyperNetwork(old.shapes, rank=old.rank, blocks=old.block_count, seed=plan.seed)
    network = network.to(old.log_step.dtype)
    network.log_ridge.data.copy_(old.log_ridge.data)
    _, first = inputs.training(0, min(plan.normaliser_facts, len(inputs.curriculum.training)))
    network.fit_normaliser(first.captured.keys, first.captured.gradients)
    meta_batch, few = inputs.training(0, min(STARTING_FACTS, len(inputs.curriculum.training)))
    scales = torch.tensor([start.scales[name] for name in network.shapes])
    losses = []
    for multiple in STARTING_STEPS:
        network.log_step.data.copy_((multiple * scales).log())
        weights = rule.weights(base, network.to(base.device), start, few)
        losses.append(meta_loss(base, weights, meta_batch, batch_tokens=plan.batch_tokens).loss)
    best = STARTING_STEPS[losses.index(min(losses))]
    network.log_step.data.copy_((best * scales).log())
    return replace(start, network=network.cpu().eval().requires_grad_(False))


class Trainer:
    """A hypernetwork in training, one step at a time.

    Attributes:
        start: the editor at step 0.
        network: the network as it stands; the normaliser does not change any more.
        step: steps taken.
        best: figures of the best validation so far.
        stale: validations since.
    """

    def __init__(
        self,
        base: BaseModel,
        start: Editor,
        inputs: Inputs,
        plan: TrainingPlan,
        run: Mapping[str, Any],
        rule: Rule = MALMEN,
    ) -> None:
        self.base, self.start, self.inputs, self.plan, self.run = base, start, inputs, plan, run
        self.rule = rule
        self.network = copy.deepcopy(start.network).to(base.device).requires_grad_(True)
        named = dict(self.network.named_parameters())
        rates = {False: plan.learning_rate, True: plan.scalar_rate}
        groups = [
            {"params": [p for n, p in named.items() if (n in SCALARS) == scalar], "lr": rate}
            for scalar, rate in rates.items()
        ]
        self.optimiser = torch.optim.Adam([group for group in groups if group["params"]])
        self.step = self.position = self.stale = 0
        self.best: Mapping[str, Any] = {}
        self.best_network = self._copy()

    def advance(self) -> dict[str, Any]:
        """Take one step; returns its metrics.

        Raises:
            NotFiniteError: the gradient is not finite; the network is as it was.
        """
        plan = self.plan
        count = self.inputs.curriculum.batch_size(self.step, plan.smallest_batch, plan.largest_batch)
        meta_batch, inputs = self.inputs.training(self.position, count)
        self.optimiser.zero_grad()
        outcome = self.rule.learn(
            self.base, self.network, self.start, inputs, meta_batch, batch_tokens=plan.batch_tokens
        )
        norms = [
            float(nn.utils.clip_grad_norm_(group["params"], plan.clip))
            for group in self.optimiser.param_groups
        ]
        if not all(math.isfinite(norm) for norm in norms):
            raise NotFiniteError(
                f"The meta-gradient of step {self.step + 1} is not finite.",
                "Resume with smaller learning rates.",
            )
        self.optimiser.step()
        self.step += 1
        self.position += count
        return {"step": self.step, "facts": count, **_figures(outcome), "gradient_norms": norms}

    def validate(self) -> dict[str, Any]:
        """Measure a single-shot edit of all held-out facts; remember the network if it is the best."""
        meta_batch, inputs = self.inputs.validation()
        weights = self.rule.weights(self.base, self.network, self.start, inputs)
        outcome = meta_loss(self.base, weights, meta_batch, batch_tokens=self.plan.batch_tokens)
        figures = {"step": self.step, **_figures(outcome)}
        if not self.best or figures["loss"] < self.best["loss"]:
            self.best, self.stale = figures, 0
            self.best_network = self._copy()
        else:
            self.stale += 1
        return figures

    @property
    def finished(self) -> bool:
        """Whether the steps are taken or validation has stopped improving."""
        return self.step >= self.plan.steps or self.stale >= self.plan.patience

    def state(self) -> TrainingState:
        """Everything that later steps depend on."""
        tensors = {f"network:{name}": value for name, value in self._copy().items()}
        tensors |= {f"best:{name}": value for name, value in self.best_network.items()}
        for number, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam:{number}:{name}": torch.as_tensor(value) for name, value in moments.items()}
        return TrainingState(self.run, self.step, self.position, self.best, self.stale, tensors)

    def restore(self, state: TrainingState) -> None:
        """Go on from a checkpoint of this run.

        Raises:
            CheckpointMismatch: the checkpoint is of another run; says what differs.
        """
        tied = ("facts", "base", "start", "dtype", "device", "rule")
        parts = [name for name in tied if state.run.get(name) != self.run.get(name)]
        before, now = state.run["plan"], self.run["plan"]
        changed = {name: now.get(name) for name in {**before, **now} if before.get(name) != now.get(name)}
        parts += [name for name in changed if name not in CHANGEABLE]
        if parts:
            raise CheckpointMismatch(
                f"The checkpoint is of a run with other {', '.join(parts)}.",
                "Resume with the same facts, options and kind of device. The steps, rates and weights of the loss "
                "may change.",
                "/checkpoint",
            )
        changes = [*state.run.get("changes", []), *([{"step": state.step, **changed}] if changed else [])]
        self.run = {**self.run, **({"changes": changes} if changes else {})}
        self.network.load_state_dict(_part("network:", state.tensors))
        self.best_network = _part("best:", state.tensors)
        optimiser = self.optimiser.state_dict()
        optimiser["state"] = {}
        for name, value in _part("adam:", state.tensors).items():
            number, moment = name.split(":")
            optimiser["state"].setdefault(int(number), {})[moment] = value
        self.optimiser.load_state_dict(optimiser)
        self.step, self.position = state.step, state.position
        if "loss" not in changed:  # of other weights, losses cannot be compared
            self.best, self.stale = state.best, state.stale

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}


def _run(
    trainer: Trainer,
    folder: RunFolder | None,
    data: Mapping[str, Any],
    progress: Progress | None,
    watch: Watch | None,
) -> Editor:
    plan = trainer.plan
    began = time.monotonic()

    def tell(kind: str, figures: Mapping[str, Any]) -> None:
        line = {"kind": kind, **figures, "seconds": round(time.monotonic() - began, 3)}
        if folder is not None:
            folder.log(line)
        if watch is not None:
            watch(line)

    if not trainer.best:
        tell("validation", trainer.validate())
    while not trainer.finished:
        tell("step", trainer.advance())
        validated = trainer.step % plan.validate_every == 0
        if validated:
            tell("validation", trainer.validate())
        if folder is not None and (trainer.finished or trainer.step % plan.checkpoint_every == 0):
            folder.save(trainer.state())
        if progress is not None:
            progress("training", trainer.step, plan.steps)
    if trainer.step % plan.validate_every:
        # not part of the checkpoint, so that a run with more steps comes by the same states
        tell("validation", trainer.validate())
    return _finish(trainer, data)


def _finish(trainer: Trainer, data: Mapping[str, Any]) -> Editor:
    network = copy.deepcopy(trainer.start.network)
    network.load_state_dict(trainer.best_network)
    plan, base = trainer.plan, trainer.base
    card = {
        "kind": "trained",
        "rule": trainer.rule.name,
        "source": base.info.title,
        "dtype": str(base.dtype).removeprefix("torch."),
        "device": base.device.type,
        "seed": plan.seed,
        "steps": trainer.step,
        "data": {**data, "facts_digest": trainer.run["facts"]},
        "training_facts": len(trainer.inputs.curriculum.training),
        "validation_facts": len(trainer.inputs.curriculum.validation),
        "validation": dict(trainer.best),
        "plan": asdict(plan),
        **({"changes": changes} if (changes := trainer.run.get("changes")) else {}),
        "start": {"digest": trainer.start.digest, "card": dict(trainer.start.card)},
        "network_digest": weights_digest(dict(sorted(trainer.best_network.items()))),
    }
    return replace(trainer.start, network=network.eval().requires_grad_(False), card=card)


def _figures(outcome: MetaLossResult) -> dict[str, Any]:
    return {"loss": outcome.loss, **asdict(outcome)}


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
