"""pocket: Segue's own small model. Weights, configuration, model card, the chroma it listens to, and its
recipe.

May import torch and `genmodel`; knows no socket and no job. The recipe (`genmodel.pocket.recipe`) is never
imported by the code that plays.
"""
