"""Teaches the embedded face finder: what MediaPipe sees in portraits, and heads whose landmarks are exactly known."""
