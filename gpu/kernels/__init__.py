"""Thin pairs of loops, one for the CPU and one for CUDA, over the bodies in the rooms above."""
