"""The paper's two networks, ours, and their weights."""
