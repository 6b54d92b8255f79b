"""The guarantee: numbers in, numbers out. numpy, scipy and statsmodels only."""

__version__ = "0.1.0"
