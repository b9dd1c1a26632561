"""The library: `norms` (the algebra), `tables` (target norms as values), `dualize` (optax transforms), `trees` (names).

Norms and tables need the standard library only, the rest JAX, optax and NumPy.
"""
