"""Measurements; their results are under ``results/`` with the command, version, machine and date that made them."""
