"""What a pod must reach: one declarative file for each GPU model. Needs no torch.

`model` is what a file says, `reading` its strict reader, `lint` holds it against physics, `diff`
tells two apart. `docs/acceptance/criteria.md` describes the format.
"""

from aimills_kernels.accept.criteria.model import Criteria, Outliers, Rule
from aimills_kernels.accept.criteria.reading import CriteriaError, choose, find, load, names

__all__ = ["Criteria", "CriteriaError", "Outliers", "Rule", "choose", "find", "load", "names"]
