# %% [markdown]
# # Read a run
# What a run left in its workdir, as Python values: curves, the norms of single atoms, the table. No JAX is needed.
# Open this file with jupytext as a notebook, or run it: `python read_a_run.py WORKDIR`.

# %%
import sys

from big_vision_dual.lab.report import atom_heat, runs

workdir = sys.argv[1] if len(sys.argv) > 1 else "runs/mnist"
run = runs.read(workdir)
print(f"{run.label}: {run.status}, {run.step} of {run.total_steps} steps")
print("logged:", ", ".join(run.metrics[:8]), "...")

# %% [markdown]
# ## A curve
# Steps and values of one metric; `hours` has the wall-clock time of each logged step.

# %%
steps, losses = run.curve("training_loss")
print(f"training loss {losses[0]:.3f} at step {steps[0]}, {losses[-1]:.3f} at step {steps[-1]}")

# %% [markdown]
# ## Did every atom move as the table asks?
# `heats` gives what the page draws: log2 of the step over its target, layers against steps. 0 is "as asked".

# %%
step, size = atom_heat.heats(run)
print(step.title)
print(step.note)
for panel in step.panels:
    known = [abs(value) for row in panel.log2_RxT for value in row if value is not None]
    print(f"{panel.title:>20}: {len(panel.rows)} layers, at most 2^{max(known, default=0.0):.2f} away")

# %% [markdown]
# ## Which weights have grown?
# The size of each atom at the last logged step, in its own norm.

# %%
last = {
    f"{panel.title} {name}": row[-1]
    for panel in size.panels
    for name, row in zip(panel.rows, panel.log2_RxT, strict=True)
}
largest = sorted(((value, name) for name, value in last.items() if value is not None), reverse=True)[:5]
for value, name in largest:
    print(f"{name}: {2**value:.3g}")
