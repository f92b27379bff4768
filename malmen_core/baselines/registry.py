"""Which baselines there are, by the name that commands take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from malmen_core.baselines.finetuning import FineTuning
from malmen_core.baselines.malmen_paper import PlainMalmen
from malmen_core.baselines.memit import PREFIX_OPENINGS, Memit
from malmen_core.baselines.mend import Mend, SummedShifts
from malmen_core.baselines.ultraedit import TrainingFree
from malmen_core.editing.editor import PAPER, Editor
from malmen_core.errors import EditorMismatch, UnknownSetting, UnsupportedArchitecture
from malmen_core.evaluation.methods import Baseline, Method
from malmen_core.models.base import BaseModel, inspect_source
from malmen_core.models.families import family_of
from malmen_core.models.tasks.causal import CausalLM
from malmen_core.settings import checked
from malmen_core.training.meta_gradient import MALMEN, Rule

BASELINES: Mapping[str, type[Baseline]] = {
    kind.name: kind for kind in (FineTuning, Mend, Memit, PlainMalmen, TrainingFree)
}
TRAINABLE = (Mend, PlainMalmen)
LAYERS = ("last", "count")
POSITIVE = frozenset({"step", "rate", "ridge", "bound", "steps", "epochs", "batch_facts", *LAYERS})
MOST = {"depth_share": 1, "prefixes": len(PREFIX_OPENINGS), "seed": 2**63 - 1}


def baseline(name: str, settings: Mapping[str, Any] | None = None) -> Baseline:
    """A baseline by name.

    Args:
        name: a key of `BASELINES`.
        settings: in place of its defaults.

    Raises:
        UnknownSetting: there is no such baseline or setting, or it cannot have this value.
    """
    kind = BASELINES.get(name)
    if kind is None:
        raise UnknownSetting(
            f"There is no baseline {name!r}.", f"Use one of: {', '.join(BASELINES)}.", "/baseline"
        )
    return kind(**checked(repr(name), kind(), settings or {}, "/settings", positive=POSITIVE, most=MOST))


def modules_for(chosen: Baseline, source: str, revision: str | None = None) -> tuple[str, ...]:
    """Names of the modules that a baseline edits in a checkpoint.

    Raises:
        ModelNotLoadable, UnsupportedArchitecture: the checkpoint cannot be used.
        UnknownSetting: the baseline is set to edit more layers than there are.
    """
    architecture = inspect_source(source, revision).architecture
    family = family_of(architecture)
    stack = family.layers[-1]  # of an encoder and a decoder, the one that writes the answer
    if not (family.task is CausalLM or isinstance(chosen, TRAINABLE)):
        raise UnsupportedArchitecture(
            f"The baseline {chosen.name!r} does not edit models of type {architecture!r}.",
            f"Compare on a causal language model; {_trainable()} edit others too.",
            "/model",
        )
    config = AutoConfig.from_pretrained(source, revision=revision)
    depth = getattr(config, stack.depth)
    # a default is for any model: of a small one, all layers are edited
    asked = {n: v for n, v in vars(chosen).items() if n in LAYERS and v != getattr(type(chosen), n)}
    checked(repr(chosen.name), chosen, asked, "/settings", most=dict.fromkeys(LAYERS, depth))
    return tuple(stack.projection.format(i) for i in chosen.layers(depth))


def rule_of(name: str | None) -> Rule:
    """What a network is trained under: MEND's rule for MEND, MALMEN's for everything else."""
    return SummedShifts() if name == Mend.name else MALMEN


def untrained(chosen: Baseline, base: BaseModel) -> Editor:
    """What training a baseline begins with.

    Raises:
        EditorMismatch: the baseline has nothing to train.
    """
    return _learner(chosen).editor(base)


def trained(chosen: Baseline, editor: Editor, base: BaseModel) -> Method:
    """A baseline that is trained, with what training made of it.

    Raises:
        EditorMismatch: see `check_own`.
    """
    check_own(chosen, editor, base)
    return _learner(chosen).trained(editor)


def check_own(chosen: Baseline, editor: Editor, base: BaseModel) -> None:
    """Check that an editor is a baseline's, and the base's: results go by the baseline's name.

    Args:
        chosen: the baseline.
        editor: trained for it, or what its training is to begin with.
        base: with the modules that the editor edits.

    Raises:
        EditorMismatch: the baseline has nothing to train, or the editor is of another plan or another model, or
            was trained under another rule.
    """
    _learner(chosen)
    rule = rule_of(chosen.name).name
    own = {
        "plan": editor.plan == PAPER,
        "rule": editor.card.get("rule", rule) == rule,  # untrained editors and older ones name none
    }
    if not all(own.values()):
        parts = ", ".join(part for part, same in own.items() if not same)
        raise EditorMismatch(
            f"The editor is not one of the baseline {chosen.name!r}: it differs in: {parts}.",
            f"Use one that `errata train --baseline {chosen.name}` made, or leave out the baseline.",
            "/editor",
        )
    editor.check_fits(base.info)


def _learner(chosen: Baseline) -> Mend | PlainMalmen:
    if not isinstance(chosen, TRAINABLE):
        raise EditorMismatch(
            f"The baseline {chosen.name!r} is not trained, so it takes no editor.",
            f"That is for {_trainable()}.",
            "/baseline",
        )
    return chosen


def _trainable() -> str:
    return " and ".join(kind.name for kind in TRAINABLE)
