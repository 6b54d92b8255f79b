"""Base classifiers: cards, weights, votes, training and calibration (torch); imports gpu and certification."""

import os

# torch and numba each have a pool of OpenMP threads, and both want every core in turn. A pool that spins while
# it waits takes the cores from the other one, which costs votes a factor of five on a busy machine of two cores.
# OpenMP reads this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
