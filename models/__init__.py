"""Base classifiers: cards, weights, votes, training and calibration (torch); imports gpu and certification."""
