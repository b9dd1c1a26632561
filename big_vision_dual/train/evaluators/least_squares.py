"""Ridge regression of features on classes, in float64 NumPy."""

from __future__ import annotations

import dataclasses

import numpy as np

BIAS_FEATURE = 100.0  # a constant feature so large that the bias is hardly regularized; Big Vision's value


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear classifier of whitened features. mean_D, std_D: of the training features; weights_ExC: E = D + 1."""

    mean_D: np.ndarray
    std_D: np.ndarray
    weights_ExC: np.ndarray

    def accuracy(self, features_NxD: np.ndarray, labels_N: np.ndarray) -> float:
        """Share of examples whose highest output is at their label."""
        outputs_NxC = _whiten(features_NxD, self.mean_D, self.std_D) @ self.weights_ExC
        return float(np.mean(np.argmax(outputs_NxC, axis=1) == labels_N))


def fit(features_NxD: np.ndarray, labels_N: np.ndarray, l2_reg: float) -> Probe:
    """The W that minimizes |X W - Y|^2 + l2_reg |W|^2, X whitened features and a constant, Y one-hot in {-1, 1}.

    W = (X'X + l2_reg I)^-1 X'Y = X' (XX' + l2_reg I)^-1 Y: the smaller system is solved.
    """
    mean_D, std_D = features_NxD.mean(axis=0), features_NxD.std(axis=0) + 1e-5
    x_NxE = _whiten(features_NxD, mean_D, std_D)
    y_NxC = 2.0 * np.eye(labels_N.max() + 1)[labels_N] - 1.0
    examples, features = x_NxE.shape
    if examples >= features:
        weights_ExC = np.linalg.solve(x_NxE.T @ x_NxE + l2_reg * np.eye(features), x_NxE.T @ y_NxC)
    else:
        weights_ExC = x_NxE.T @ np.linalg.solve(x_NxE @ x_NxE.T + l2_reg * np.eye(examples), y_NxC)
    return Probe(mean_D, std_D, weights_ExC)


def _whiten(x_NxD: np.ndarray, mean_D: np.ndarray, std_D: np.ndarray) -> np.ndarray:
    return np.pad((x_NxD - mean_D) / std_D, ((0, 0), (0, 1)), constant_values=BIAS_FEATURE)
