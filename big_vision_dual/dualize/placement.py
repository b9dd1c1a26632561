"""Where the stacks live on a device mesh, so that a pod orthogonalizes each matrix once.

    gradients -all-reduce, cut-> momentum, matrix axis sharded -all-to-all-> whole matrices, stack axis sharded
              -polar: no communication-> dual -all-gather-> update

Momentum keeps its unpadded shape, so a checkpoint does not depend on the number of devices.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Placement:
    """Shards stacks over mesh axis `axis`; `axis=None` leaves everything where it is.

    mesh: None means the mesh of the context (`jax.set_mesh`). Its axis must be of type Auto.
    """

    axis: str | None = None
    mesh: jax.sharding.Mesh | None = None

    def gradient(self, stack_BxNxM: jax.Array) -> jax.Array:
        """Summed over all devices, then sharded as the momentum.

        Asked for shards at once, the compiler makes a ring of permutes of every product that yields a gradient, on v5e:
        37.8 ms a step instead of 21.9 (its own estimates; ViT-S/16 of depth 4, batch 1024, v5e-16).
        """
        return self.momentum(self.replicated(stack_BxNxM))

    def momentum(self, stack_BxNxM: jax.Array) -> jax.Array:
        """Sharded over the first of the axes n, m, B that divides evenly; else replicated."""
        if self.axis is None:
            return stack_BxNxM
        for dimension in (1, 2, 0):
            if stack_BxNxM.shape[dimension] % self._size() == 0:
                return self._constrain(stack_BxNxM, dimension)
        return self._constrain(stack_BxNxM, None)

    def whole_matrices(self, stack_BxNxM: jax.Array) -> jax.Array:
        """Stack axis sharded and padded with zero matrices to a multiple of the devices; a single matrix replicated."""
        if self.axis is None:
            return stack_BxNxM
        count = stack_BxNxM.shape[0]
        if count == 1:
            return self._constrain(stack_BxNxM, None)
        padded = jnp.pad(stack_BxNxM, ((0, -count % self._size()), (0, 0), (0, 0)))
        return self._constrain(padded, 0)

    def replicated(self, stack_BxNxM: jax.Array) -> jax.Array:
        return stack_BxNxM if self.axis is None else self._constrain(stack_BxNxM, None)

    def _size(self) -> int:
        mesh = self._mesh()
        if self.axis not in mesh.shape:
            raise ValueError(
                f"shard_axis is {self.axis!r}; the mesh has axes {list(mesh.shape)}. Pass mesh=, or call inside "
                "`with jax.set_mesh(mesh):` with a mesh that has this axis, or use shard_axis=None."
            )
        return mesh.shape[self.axis]

    def _mesh(self) -> Any:
        return self.mesh if self.mesh is not None else jax.sharding.get_abstract_mesh()

    def _constrain(self, x: jax.Array, dimension: int | None) -> jax.Array:
        spec = PartitionSpec(*(self.axis if d == dimension else None for d in range(x.ndim)))
        return jax.lax.with_sharding_constraint(x, spec if self.mesh is None else NamedSharding(self.mesh, spec))
