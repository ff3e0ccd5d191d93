"""Training: devices, seeds, schedule, optimiser, loop, checkpoints. Used by search, finetune and baseline.

Nothing here relies on global random state, and a step is a pure function of the tensors, the seed and
the step's index; so work that is cut off anywhere continues bit for bit (on the CPU).
"""
