"""Audacity: the selection goes on, and the takes land on new tracks, in one undo step.

Lives here: the script pipe (`pipe`, `pipe_ends`), Audacity behind it (`host`), the file that lands takes
(`project`), what is asked of the daemon (`asking`), the actions (`actions`), and the set-up (`installing`).
May import: `protocol` and the client; never torch, the daemon or the models. Interface: `segue audacity …`.
"""
