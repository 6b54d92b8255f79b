"""From a lower bound on a probability to a certified radius, and back. Everything is rounded to the safe side.

The formulas and proofs are in docs/guarantees.md: A (the papers'), B.1 (where the failure probability
of the error bound is subtracted), B.2 (one constant level for all inner tests).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import ndtr, ndtri

from .vocabulary import StatisticsError

SAFETY = 1e-12


def _finite_radius(radius: float) -> float | None:
    """A certified radius is a positive finite number; anything else is an abstention."""
    return radius * (1.0 - SAFETY) if math.isfinite(radius) and radius > 0.0 else None


def inner_threshold(error_bound: float, sigma_delta: float) -> float:
    """tau = Phi(E / sigma_delta), rounded up so that a passed test implies a strict inequality (B.3).

    Parameters
    ----------
    error_bound : float
        E >= 0, l2 norm in intensity.
    sigma_delta : float
        > 0, intensity.

    Returns
    -------
    float
        In (1/2, 1]; 1 means that no number of votes can pass.
    """
    if not (error_bound >= 0.0 and sigma_delta > 0.0):
        raise StatisticsError(f"need an error bound >= 0 and sigma_delta > 0, not {error_bound}, {sigma_delta}")
    return min(float(ndtr(error_bound / sigma_delta * (1.0 + SAFETY))) * (1.0 + SAFETY), 1.0)


def radius_received(p_lower: float, alpha_delta: float, rho_E: float, sigma_gamma: float) -> float | None:
    """``sigma_gamma Phi^-1(p_lower - alpha_delta - rho_E)``: the image in hand is the attacked one (B.1).

    The error event sits between the measured point and the shifted family, so rho_E belongs inside.
    With ``alpha_delta = rho_E = 0`` this is BaseSPT's radius (Fischer et al. 2020, Theorem 3.2).

    Returns
    -------
    float or None
        In the unit of ``sigma_gamma``; None where nothing is certified.
    """
    return _finite_radius(sigma_gamma * float(ndtri(_clip(p_lower - alpha_delta - rho_E))))


def radius_reference(p_lower: float, alpha_delta: float, rho_E: float, sigma_gamma: float) -> float | None:
    """``sigma_gamma (Phi^-1(p_lower - alpha_delta) - Phi^-1(1/2 + rho_E))``: the image in hand is clean (B.1)."""
    inside = float(ndtri(_clip(p_lower - alpha_delta)))
    return _finite_radius(sigma_gamma * (inside - float(ndtri(min(0.5 + rho_E + SAFETY, 1.0 - SAFETY)))))


def radius_l2(p_lower: float, sigma_delta: float, operator_norm: float) -> float | None:
    """``sigma_delta Phi^-1(p_lower) / |P|``: Cohen et al. 2019, Theorem 1, before the preprocessing P.

    A perturbation of l2 norm r in front of P is one of at most ``|P| r`` behind it, where the noise is.
    """
    if not operator_norm > 0.0:
        raise StatisticsError(f"operator_norm must be > 0, not {operator_norm}")
    return _finite_radius(sigma_delta * float(ndtri(_clip(p_lower))) / operator_norm)


def _clip(probability: float) -> float:
    """Inside (0, 1), moved down by the rounding of the arithmetic; NaN becomes 0, which certifies nothing."""
    return min(max(probability - SAFETY, 0.0), 1.0 - SAFETY) if probability == probability else 0.0


def required_p_lower(radius_of: Callable[[float], float | None], wanted: float) -> float | None:
    """The least ``p_lower`` whose radius is at least ``wanted``, by bisection; None if even 1 is too small."""
    if (radius_of(1.0) or 0.0) < wanted:
        return None
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if (radius_of(middle) or 0.0) >= wanted else (middle, high)
    return high
