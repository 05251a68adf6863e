"""A pod that isn't there: journals as its ranks would write them, with faults on request.

For tests of the judge, and for people who learn to run an acceptance. `models` says what a healthy
GPU measures and how it scatters, `schedule` what each profile runs, `faults` what can be wrong,
`node` lets the ranks work. Every journal says that it is simulated. Needs no torch.
"""

from aimills_kernels.accept.simulate.faults import FAULTS
from aimills_kernels.accept.simulate.models import MODELS, Layout, layout
from aimills_kernels.accept.simulate.node import entries_of, simulate, write

__all__ = ["FAULTS", "MODELS", "Layout", "entries_of", "layout", "simulate", "write"]
