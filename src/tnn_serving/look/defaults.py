"""What comparing and profiling a network take where the caller gives nothing else."""

from __future__ import annotations

COMPARE_TOLERANCE = 1e-3
"""Largest difference, as a share of the blob's largest value, that counts as equal."""

PROFILE_RUNS = 20
"""Inferences that are averaged."""
