"""What a service manager reads: a systemd user unit and a launchd agent. Text in, text out; nothing is run.

Both start the daemon's own module, not the `segue` command around it, so that the process they watch is the
daemon itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from bridge_clients.supervised import AGENT_LABEL, quoted

ALREADY_RUNNING, BAD_CONFIGURATION = 3, 2  # exit statuses of the daemon that no restart would heal
_NOT_IN_A_PROGRAM = set("\"'\\") | set(map(chr, range(32)))  # systemd refuses them in the name of a program


@dataclasses.dataclass(frozen=True)
class Start:
    """How the daemon is started: words of the command, variables it needs beyond those of a login."""

    command: Sequence[str]
    environment: Mapping[str, str]


def systemd_unit(start: Start) -> str:
    """The user unit. Raises ValueError for what no unit can hold."""
    if any("\0" in word for word in (*start.command, *start.environment.values())):
        raise ValueError("a unit cannot hold a zero byte")
    own_runtime = "SEGUE_RUNTIME" in start.environment
    command = list(start.command)
    if set(command[0]) & _NOT_IN_A_PROGRAM:
        command = ["/bin/sh", "-c", 'exec "$0" "$@"', *command]
    # ':' before the program: a $ stays a $
    words = " ".join([quoted(":" + command[0]), *map(quoted, command[1:])])
    lines = [
        "[Unit]",
        "Description=Segue: continues the music that a DAW hands it",
        "StartLimitIntervalSec=60",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={words}",
        *(f"Environment={quoted(f'{name}={value}')}" for name, value in sorted(start.environment.items())),
        *([] if own_runtime else ["RuntimeDirectory=segue", "RuntimeDirectoryMode=0700"]),
        # clients keep their start lock there: the folder stays when the daemon ends
        *([] if own_runtime else ["RuntimeDirectoryPreserve=yes"]),
        "WatchdogSec=20",
        "Restart=on-failure",
        "RestartSec=1",
        f"RestartPreventExitStatus={BAD_CONFIGURATION} {ALREADY_RUNNING}",
        "TimeoutStopSec=60",
        "LimitNOFILE=524288",
        "OOMPolicy=continue",
        "KillMode=mixed",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def launchd_agent(start: Start, log: Path) -> str:
    """The agent's property list. `log`: where the daemon's stderr goes (the daemon keeps it small)."""
    import plistlib

    agent = {
        "Label": AGENT_LABEL,
        "ProgramArguments": list(start.command),
        "EnvironmentVariables": dict(sorted(start.environment.items())),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ProcessType": "Interactive",  # a background process gets the slow cores
        "LimitLoadToSessionType": "Aqua",
        "ExitTimeOut": 60,
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": 10240},
        "StandardErrorPath": str(log),
    }
    return plistlib.dumps(agent, sort_keys=False).decode("utf-8")
