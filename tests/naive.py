"""Slow, obvious twins of the kernels: one pixel at a time, plain Python, written from the definitions."""

from __future__ import annotations

import math

import numpy as np


def naive_transform(image, parameter, transformation):
    """T_t x by the Convention block of gpu.geometry; image [H, W, C] -> float64 [H, W, C]."""
    height, width, channels = image.shape
    out = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            x, y = j - (width - 1) / 2, i - (height - 1) / 2
            if transformation == "rotation":
                t = math.radians(parameter)
                sx, sy = x * math.cos(t) - y * math.sin(t), x * math.sin(t) + y * math.cos(t)
            else:
                sx, sy = x - parameter[0], y - parameter[1]
            row, column = sy + (height - 1) / 2, sx + (width - 1) / 2
            for c in range(channels):
                total = 0.0
                for m in (math.floor(row), math.floor(row) + 1):
                    for n in (math.floor(column), math.floor(column) + 1):
                        if 0 <= m < height and 0 <= n < width:
                            total += (1 - abs(row - m)) * (1 - abs(column - n)) * float(image[m, n, c])
                out[i, j, c] = total
    return out


def naive_preprocess(image, settings):
    """P of one image [H, W, C] (vignette and blur), as float64 [C, H, W]."""
    height, width, channels = image.shape
    masked = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            x, y = j - (width - 1) / 2, i - (height - 1) / 2
            if settings.vignette == "circle":
                kept = math.hypot(x, y) <= min(height, width) / 2 - settings.margin
            elif settings.vignette == "rectangle":
                kept = abs(x) <= width / 2 - settings.margin and abs(y) <= height / 2 - settings.margin
            else:
                kept = True
            if kept:
                masked[i, j] = image[i, j]
    reach = settings.blur_size // 2
    taps = [math.exp(-(k * k) / (2 * settings.blur_sigma**2)) for k in range(-reach, reach + 1)]
    out = np.zeros((channels, height, width))
    for i in range(height):
        for j in range(width):
            for u in range(-reach, reach + 1):
                for v in range(-reach, reach + 1):
                    if 0 <= i + u < height and 0 <= j + v < width:
                        weight = taps[u + reach] * taps[v + reach] / sum(taps) ** 2
                        out[:, i, j] += weight * masked[i + u, j + v]
    return out


def naive_gaussian(image, parameter, transformation, weights, sigma):
    """The vignetted image as a sum of two-dimensional normal densities, read at the moved points; [C, H, W]."""
    height, width, channels = image.shape
    out = np.zeros((channels, height, width))
    for i in range(height):
        for j in range(width):
            x, y = j - (width - 1) / 2, i - (height - 1) / 2
            if transformation == "rotation":
                t = math.radians(parameter)
                sx, sy = x * math.cos(t) - y * math.sin(t), x * math.sin(t) + y * math.cos(t)
            else:
                sx, sy = x - parameter[0], y - parameter[1]
            for k in range(height):
                for n in range(width):
                    distance = (sx - n + (width - 1) / 2) ** 2 + (sy - k + (height - 1) / 2) ** 2
                    density = math.exp(-distance / (2 * sigma**2)) / (2 * math.pi * sigma**2)
                    out[:, i, j] += density * weights[k, n] * image[k, n]
    return out
