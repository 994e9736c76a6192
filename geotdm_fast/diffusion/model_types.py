"""What the network predicts, with which variance, and under which loss; names and members of the official code."""

import enum


class ModelMeanType(enum.Enum):
    """What the network's output stands for."""

    PREVIOUS_X = enum.auto()  # the mean of x_{t-1}
    START_X = enum.auto()  # x_0
    EPSILON = enum.auto()  # the noise in x_t


class ModelVarType(enum.Enum):
    """The variance of p(x_{t-1} | x_t)."""

    FIXED_SMALL = enum.auto()  # the posterior's, optimal for a fixed x_0
    FIXED_LARGE = enum.auto()  # beta_t, optimal for x_0 ~ N(0, I); the posterior's at t = 0


class LossType(enum.Enum):
    """The training loss; both are the mean squared error when the variance is fixed."""

    MSE = enum.auto()
    RESCALED_MSE = enum.auto()
