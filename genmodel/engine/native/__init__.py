"""The whole frame step in C++ with int8 weights, for CPUs: precision "int8".

Weights are rounded per output channel, each row's activations by that row alone, products are exact
integers; keys and values are bfloat16, everything else float32. A row's bits depend neither on the rows
beside it nor on how many are fed at once. Compiled where a compiler is (``build``); without one it is absent
and says why.
"""
