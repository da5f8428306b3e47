"""The offline trainer."""

import os

# OpenMP reads this when torch is loaded. Threads that spin while they wait take the processor from those they wait for
# as soon as anything else runs: beside two busy processes on two processors a step took 5.1 s, and 0.47 s with this.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # noqa: TID251  # a variable of OpenMP, not a setting
