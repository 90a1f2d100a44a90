"""The frame step with all of its state on the device, so that it can be captured once and replayed.

``tables`` holds what each session needs, as tensors with one row a slot; ``frame`` is the whole step over
them (embedding, layers, guidance, noise, choice, the tokens written back) with static shapes and without a
word from the host; ``graphs`` captures it on CUDA; ``stepper`` is the stepper that runs it. On a CPU the same
function runs as it is written.
"""
