"""The whole frame step in C++, for CPUs: precisions "int8", "bfloat16" and "float32".

With int8, weights are rounded per output channel, each row's activations by that row alone, products are
exact integers. With the others weights are of that precision and everything else is float32. Either way a
row's bits depend neither on the rows beside it nor on how many are fed at once. Compiled where a compiler is
(``build``); without one it is absent and says why, and float32 and bfloat16 run in torch.
"""
