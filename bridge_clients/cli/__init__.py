"""The ``segue`` command: everything the daemon can do, from a terminal or a script.

May import what :mod:`bridge_clients` may; each sub-command lives in its own module, imported only when it is
asked for, so that ``segue ping`` answers at once. :func:`bridge_clients.cli.main.main` is the way in.
"""
