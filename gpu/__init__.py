"""Array computing with one source for CPU and CUDA; imports numpy and numba only."""
