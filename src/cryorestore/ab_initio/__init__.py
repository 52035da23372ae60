"""Poses that a half finds by itself: a map from nothing, full passes at growing band limit, and the two halves in one frame with a verdict."""
