"""Modular duality for training vision models: norm tables, optax transforms and a Big Vision-style trainer."""
