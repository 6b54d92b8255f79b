"""From a lower bound on a probability to a certified radius, and back; all rounded to the safe side.

The formulas and proofs are in docs/guarantees.md: A (the papers'), B.1 (where the failure probability
of the error bound is subtracted), B.2 (one constant level for all inner tests).

None stands for "nothing is certified". A radius r that is returned is strictly below the exact one, so
a statement about every parameter of norm at most r is true of the closed ball.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import ndtr, ndtri

from .vocabulary import StatisticsError

SAFETY = 1e-12
"""Slack, a thousand times the error of Phi, of its inverse and of the sums below."""


def _check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (value > 0.0 and math.isfinite(value)):
            raise StatisticsError(f"{name} must be finite and > 0, not {value}")


def _check_losses(**losses: float) -> None:
    for name, value in losses.items():
        if not 0.0 <= value <= 1.0:
            raise StatisticsError(f"{name} must be in [0, 1], not {value}")


def _quantile(probability: float) -> float:
    """Phi^-1, rounded down; NaN where the probability is NaN or not above 0."""
    if not 0.0 < probability <= 1.0:
        return math.nan
    return float(ndtri(min(probability, 1.0 - SAFETY) - SAFETY))


def _certified(radius: float) -> float | None:
    """A positive finite number, a little smaller; anything else, NaN included, certifies nothing."""
    return radius * (1.0 - SAFETY) if 0.0 < radius < math.inf else None


def inner_threshold(error_bound: float, sigma_delta: float) -> float:
    """tau = Phi(E / sigma_delta), rounded up so that a passed test implies a strict inequality (B.3).

    Parameters
    ----------
    error_bound : float
        E in [0, inf], l2 norm in intensity.
    sigma_delta : float
        > 0, intensity.

    Returns
    -------
    float
        In (1/2, 1]; 1 means that no number of votes can pass.

    Raises
    ------
    StatisticsError
        If an argument is outside its range.
    """
    return min(float(ndtr(_in_deviations(error_bound, sigma_delta))) * (1.0 + SAFETY), 1.0)


def radius_received(p_lower: float, alpha_delta: float, rho_E: float, sigma_gamma: float) -> float | None:
    """``sigma_gamma Phi^-1(p_lower - alpha_delta - rho_E)``: the image in hand is the attacked one (B.1).

    The error event sits between the measured point and the shifted family, so rho_E belongs inside.

    Parameters
    ----------
    p_lower : float
        Lower bound on the probability that a draw passes; outside (0, 1] nothing is certified.
    alpha_delta, rho_E : float
        Level of the inner tests, and probability that the error exceeds E; in [0, 1].
    sigma_gamma : float
        > 0, degrees or pixels.

    Returns
    -------
    float or None
        In the unit of ``sigma_gamma``.

    Raises
    ------
    StatisticsError
        If a loss or sigma_gamma is outside its range.
    """
    _check_losses(alpha_delta=alpha_delta, rho_E=rho_E)
    _check_positive(sigma_gamma=sigma_gamma)
    return _certified(sigma_gamma * _quantile(p_lower - alpha_delta - rho_E))


def radius_reference(p_lower: float, alpha_delta: float, rho_E: float, sigma_gamma: float) -> float | None:
    """``sigma_gamma (Phi^-1(p_lower - alpha_delta) - Phi^-1(1/2 + rho_E))``: the image is clean (B.1).

    Parameters, result and errors as for :func:`radius_received`.
    """
    _check_losses(alpha_delta=alpha_delta, rho_E=rho_E)
    _check_positive(sigma_gamma=sigma_gamma)
    # Phi^-1(1/2 + rho) rounded up is minus Phi^-1(1/2 - rho) rounded down
    return _certified(sigma_gamma * (_quantile(p_lower - alpha_delta) + _quantile(0.5 - rho_E)))


def radius_joint_received(
    p_lower: float, error_bound: float, sigma_delta: float, rho_E: float, sigma_gamma: float
) -> float | None:
    """``sigma_gamma Phi^-1(Phi(Phi^-1(p_lower) - E / sigma_delta) - rho_E)``: one vote a draw (B.4).

    Parameters
    ----------
    p_lower : float
        Lower bound on the probability that a vote, over parameter and pixel noise, is for the class; outside
        (0, 1] nothing is certified.
    error_bound : float
        E in [0, inf], l2 norm in intensity.
    sigma_delta, sigma_gamma : float
        > 0; intensity, and degrees or pixels.
    rho_E : float
        Probability that the error exceeds E, in [0, 1].

    Returns
    -------
    float or None
        In the unit of ``sigma_gamma``.

    Raises
    ------
    StatisticsError
        If an argument is outside its range.
    """
    _check_losses(rho_E=rho_E)
    _check_positive(sigma_gamma=sigma_gamma)
    before = _quantile(p_lower) - _in_deviations(error_bound, sigma_delta)
    # Phi(nan) is nan, which certifies nothing
    return _certified(sigma_gamma * _quantile(float(ndtr(before)) * (1.0 - SAFETY) - rho_E))


def radius_joint_reference(
    p_lower: float, error_bound: float, sigma_delta: float, rho_E: float, sigma_gamma: float
) -> float | None:
    """``sigma_gamma (Phi^-1(p_lower) - E / sigma_delta - Phi^-1(1/2 + rho_E))``: one vote a draw, clean image (B.4).

    Parameters, result and errors as for :func:`radius_joint_received`.
    """
    _check_losses(rho_E=rho_E)
    _check_positive(sigma_gamma=sigma_gamma)
    loss = _in_deviations(error_bound, sigma_delta)
    return _certified(sigma_gamma * (_quantile(p_lower) - loss + _quantile(0.5 - rho_E)))


def _in_deviations(error_bound: float, sigma_delta: float) -> float:
    """E / sigma_delta, rounded up."""
    _check_positive(sigma_delta=sigma_delta)
    if not error_bound >= 0.0:
        raise StatisticsError(f"error_bound must be >= 0, not {error_bound}")
    return error_bound / sigma_delta * (1.0 + SAFETY)


def radius_heuristic(p_lower: float, sigma_gamma: float) -> float | None:
    """``sigma_gamma Phi^-1(p_lower)``: interpolation ignored (Fischer et al. 2020, Theorem 3.2, BaseSPT)."""
    return radius_received(p_lower, 0.0, 0.0, sigma_gamma)


def radius_l2(
    p_lower: float,
    sigma_delta: float,
    operator_norm: float,
    *,
    lattice_loss: float = 0.0,
    total_variation: float = 0.0,
) -> float | None:
    """``(sigma_delta Phi^-1(p_lower - tv) - lattice_loss) / |P|``: Cohen et al. 2019, Theorem 1, before P.

    A perturbation of l2 norm r in front of P is one of at most ``|P| r`` behind it, where the noise is; rounding to
    the lattice on which the noise lives can add ``lattice_loss`` (docs/guarantees.md, D.6).

    Parameters
    ----------
    p_lower : float
        Lower bound on the probability of the class; outside (0, 1] nothing is certified.
    sigma_delta : float
        > 0, intensity.
    operator_norm : float
        Upper bound of the spectral norm of P, > 0.
    lattice_loss : float
        Upper bound, >= 0 and finite, intensity.
    total_variation : float
        Upper bound of the distance between the noise that was drawn and exact Gaussian noise, in [0, 1].

    Returns
    -------
    float or None
        In intensity.

    Raises
    ------
    StatisticsError
        If an argument other than p_lower is outside its range.
    """
    _check_positive(sigma_delta=sigma_delta, operator_norm=operator_norm)
    _check_losses(total_variation=total_variation)
    if not (lattice_loss >= 0.0 and math.isfinite(lattice_loss)):
        raise StatisticsError(f"lattice_loss must be finite and >= 0, not {lattice_loss}")
    behind = sigma_delta * _quantile(p_lower - total_variation) - lattice_loss * (1.0 + SAFETY)
    return _certified(behind / operator_norm)


def required_p_lower(radius_of: Callable[[float], float | None], wanted: float) -> float | None:
    """The least ``p_lower`` whose radius is at least ``wanted``, by bisection; None if even 1 is too small.

    Parameters
    ----------
    radius_of : callable
        Radius as a function of ``p_lower``, not decreasing.
    wanted : float
        > 0.
    """
    _check_positive(wanted=wanted)
    if (radius_of(1.0) or 0.0) < wanted:
        return None
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if (radius_of(middle) or 0.0) >= wanted else (middle, high)
    return high
