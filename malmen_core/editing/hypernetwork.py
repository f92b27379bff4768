"""The hypernetwork: from a token's key and gradient to a value difference (paper, section 3.1).

MEND's architecture (Mitchell et al. 2022), as the paper uses it: normalised key and gradient are concatenated
and pass through low-rank residual blocks, which modules of one shape share; each module has its own scale and
shift in each block, its own step size and its own ridge λ. At its initial value the network is the identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from malmen_core.editing.normaliser import Moments

Shape = tuple[int, int]
MIN_RIDGE = 1e-6


class ResidualBlock(nn.Module):
    """``z + relu(z A · scale_m + shift_m) B`` with a low rank; the identity at first, since B is zero."""

    def __init__(self, features: int, rank: int, modules: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(features, rank, generator=generator) / features**0.5)
        self.up = nn.Parameter(torch.zeros(rank, features))
        self.scale = nn.Parameter(torch.ones(modules, rank))
        self.shift = nn.Parameter(torch.zeros(modules, rank))

    def forward(self, z: Tensor, module: int) -> Tensor:
        """One block for rows (T × features) of the module with this number."""
        hidden = torch.relu((z @ self.down) * self.scale[module] + self.shift[module])
        out: Tensor = z + hidden @ self.up
        return out


class SharedNetwork(nn.Module):
    """The residual blocks of all modules of one shape."""

    def __init__(
        self, features: int, rank: int, blocks: int, modules: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(features, rank, modules, generator) for _ in range(blocks))

    def forward(self, z: Tensor, module: int) -> Tensor:
        """Rows (T × features) through all blocks."""
        for block in self.blocks:
            z = block(z, module)
        return z


class HyperNetwork(nn.Module):
    """Predicts value differences `D` for each edited module, one row at a time.

    A row's prediction depends on that row alone, so rows may come in any grouping.
    """

    def __init__(
        self, shapes: Mapping[str, Shape], *, rank: int = 64, blocks: int = 2, seed: int = 0
    ) -> None:
        """Make an untrained network.

        Args:
            shapes: (U, V) by module name, in the editor's order.
            rank: width of a residual block's bottleneck.
            blocks: how many blocks; 0 for none.
            seed: for the blocks' first projection.
        """
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.shapes = dict(shapes)
        self.rank, self.block_count, self.seed = rank, blocks, seed
        self._number, members = _group(self.shapes)
        self.networks = nn.ModuleDict(
            {
                _key(shape): SharedNetwork(sum(shape), rank, blocks, len(names), generator)
                for shape, names in members.items()
            }
        )
        self.log_step = nn.Parameter(torch.full((len(self.shapes),), -3.0))
        self.log_ridge = nn.Parameter(torch.zeros(len(self.shapes)))
        self._index = {name: i for i, name in enumerate(self.shapes)}
        self.key_moments = {name: Moments.none(u) for name, (u, _) in self.shapes.items()}
        self.gradient_moments = {name: Moments.none(v) for name, (_, v) in self.shapes.items()}

    def step(self, name: str) -> Tensor:
        """Learned step size η > 0 of a module; a scalar."""
        return self.log_step[self._index[name]].exp()

    def ridge(self, name: str) -> Tensor:
        """Learned λ > 0 of a module; a scalar."""
        return self.log_ridge[self._index[name]].exp() + MIN_RIDGE

    def fit_normaliser(self, keys: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Add rows to what the normaliser has seen. Only fitting does this; predicting never does.

        Rows with a key of zero are of tokens that the module is not edited at, and are left out.
        """
        for name in self.shapes:
            own_T = keys[name].any(1)
            self.key_moments[name] = self.key_moments[name].merge(Moments.of(keys[name][own_T]))
            gradients_TV = gradients[name][own_T]
            self.gradient_moments[name] = self.gradient_moments[name].merge(Moments.of(gradients_TV))

    def factors(self, name: str, keys_TU: Tensor, gradients_TV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised key k (T × U), pseudo-key k̃ (T × U) and pseudo-gradient g̃ (T × V) of each token.

        The token's own shift is the outer product ``-η k̃' g̃``, as in MEND.
        """
        inputs = self.shapes[name][0]
        key = self.key_moments[name].normalise(keys_TU)
        gradient = self.gradient_moments[name].normalise(gradients_TV)
        network = self.networks[_key(self.shapes[name])]
        z = network(torch.cat([key, gradient], dim=1), self._number[name])
        return key, z[:, :inputs], z[:, inputs:]

    def forward(self, name: str, keys_TU: Tensor, gradients_TV: Tensor) -> Tensor:
        """Value differences: T × V.

        With pseudo-key k̃ and pseudo-gradient g̃ of a token, the token's own shift is the outer product
        ``-η k̃' g̃ / U``, and its value difference what that shift does to its (normalised) key k:
        ``d = -η (k̃·k / U) g̃``.
        """
        key, pseudo_key, pseudo_gradient = self.factors(name, keys_TU, gradients_TV)
        alignment_T = (pseudo_key * key).sum(1, keepdim=True) / self.shapes[name][0]
        out: Tensor = -self.step(name) * alignment_T * pseudo_gradient
        return out

    def direction(self, name: str, keys_TU: Tensor, gradients_TV: Tensor) -> Tensor:
        """The direction in which a row of `D` moves, by its key and gradient: T × V.

        The pseudo-gradient in the gradient's own scale, with the sign that lowers the loss, in the network's
        dtype. At its initial value the network gives ``-g``, which makes a round a Gauss-Newton step.
        """
        like = self.log_step
        _, _, pseudo_gradient = self.factors(name, keys_TU.to(like), gradients_TV.to(like))
        moments = self.gradient_moments[name]
        return -(pseudo_gradient * moments.deviation_U.to(like) + moments.mean_U.to(like))


def predict(
    network: HyperNetwork, keys: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`D` of all modules without gradients: T × V, the network's dtype."""
    with torch.no_grad():
        return {
            name: network(name, keys[name].to(network.log_step), gradients[name].to(network.log_step))
            for name in network.shapes
        }


def _group(shapes: Mapping[str, Shape]) -> tuple[dict[str, int], dict[Shape, list[str]]]:
    members: dict[Shape, list[str]] = {}
    for name, shape in shapes.items():
        members.setdefault(shape, []).append(name)
    number = {name: i for names in members.values() for i, name in enumerate(names)}
    return number, members


def _key(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
