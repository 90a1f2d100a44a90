"""How pocket is made: compose, render, train_codec, tokenise, train_lm, evaluate, export.

Each module runs by itself (`python -m genmodel.pocket.recipe.<name> --help`); the package runs the whole
chain (`python -m genmodel.pocket.recipe --minutes 2 --out DIR`). All of it is deterministic from seeds but
for the order of floating-point sums, works on CPU and CUDA, and goes on from its last checkpoint.
"""
