"""A stateful model test of the whole breaker: Hypothesis chooses who does what next."""
