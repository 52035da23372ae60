"""Controls: what would show that a method invents, each with its score, its threshold, a verdict and a picture."""
