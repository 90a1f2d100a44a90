"""Models on disk: AudioCraft's and Hugging Face's formats, the names of models, and how they get here.

``registry.py`` is the face (``load``, ``resolve``, ``list_models``, ``pull``); the other files each read one
format or do one step. Nothing here runs code from a file, and nothing but ``pull`` ever touches the network.
"""
