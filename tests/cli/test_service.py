"""``segue service``: what is written, what is said, and that a real service manager does what it should."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_clients import supervised
from bridge_clients.cli import install, units
from bridge_clients.cli.main import main
from tests.cli.conftest import ROOT

ODD = "a b%h $HOME \\ 'q' \"Q\" ü"
SYSTEMD = Path("/lib/systemd/systemd")


@pytest.fixture
def config(sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder with a name that needs quoting, and no service manager."""
    folder = sandbox / ODD
    folder.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.setenv("PATH", str(sandbox / "bin"))
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(["service", *words]) == status
    return capsys.readouterr().out


def unquoted(line: str) -> list[str]:
    """The words of a line of a unit, as systemd.syntax(7) says that they are read."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    back = {"n": "\n", "t": "\t", "r": "\r"}
    return [re.sub(r"\\(.)", lambda m: back.get(m[1], m[1]), word).replace("%%", "%") for word in words]


def manager(folder: Path, answers: dict[str, str]) -> Path:
    """A systemctl that writes down what it is asked, and answers by the first word after --user."""
    (folder / "bin").mkdir(exist_ok=True)
    log = folder / "asked"
    cases = "\n".join(f"{word}) {answer};;" for word, answer in answers.items())
    script = folder / "bin" / "systemctl"
    script.write_text(f'#!/bin/sh\necho "$*" >> "{log}"\nshift\ncase "$1" in\n{cases}\nesac\n')
    script.chmod(0o755)
    return log


def test_the_unit_is_written_shown_and_removed(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    path = config / "systemd/user/segue.service"
    text = said(capsys, "install", "--print")
    assert not path.exists()
    told = said(capsys, "install")
    assert f"{path} is written." in told and "systemd does not run here. Nothing was started" in told
    assert path.read_text() == text
    assert "as it should be" in said(capsys, "install")
    path.write_text(text.replace("WatchdogSec=20", "WatchdogSec=9"))
    assert "segue service install renews it" in said(capsys, "status")
    assert "is renewed" in said(capsys, "install")
    assert str(path) in said(capsys, "status") and "renews" not in said(capsys, "status")
    assert "is removed. Takes, settings and models are untouched." in said(capsys, "remove")
    assert not path.exists()
    assert "nothing to remove" in said(capsys, "remove")
    assert "segue service install makes it one" in said(capsys, "status", status=5)


def test_the_unit_holds_what_was_promised(capsys: pytest.CaptureFixture[str], sandbox: Path) -> None:
    lines = said(capsys, "install", "--print").splitlines()
    for line in (
        "Type=notify", "WatchdogSec=20", "Restart=on-failure", "RestartSec=1", "StartLimitBurst=5",
        "LimitNOFILE=524288", "OOMPolicy=continue", "KillMode=mixed", "UMask=0077", "NoNewPrivileges=yes",
    ):  # fmt: skip
        assert line in lines
    (command,) = [line for line in lines if line.startswith("ExecStart=")]
    assert unquoted(command) == [":" + sys.executable, "-P", "-m", "daemon", "serve", "--foreground"]
    assert not [line for line in lines if line.startswith("RuntimeDirectory")]  # SEGUE_RUNTIME is set here


def test_without_a_runtime_folder_of_ones_own_systemd_makes_it(
    capsys: pytest.CaptureFixture[str], sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGUE_RUNTIME")
    lines = said(capsys, "install", "--print").splitlines()
    assert {"RuntimeDirectory=segue", "RuntimeDirectoryMode=0700"} < set(lines)


def test_odd_names_come_back_as_they_were() -> None:
    text = units.systemd_unit(units.Start([f"/{ODD}/python", "-c", ODD], {"SEGUE_STATE": f"/{ODD}"}))
    lines = text.splitlines()
    (command,) = [line for line in lines if line.startswith("ExecStart=")]
    assert unquoted(command) == [":/bin/sh", "-c", 'exec "$0" "$@"', f"/{ODD}/python", "-c", ODD]
    (variable,) = [line for line in lines if line.startswith("Environment=")]
    assert unquoted(variable) == [f"SEGUE_STATE=/{ODD}"]
    broken = units.systemd_unit(units.Start(["/x\nExecStop=y"], {}))
    assert not re.search(r"(?m)^ExecStop", broken)
    with pytest.raises(ValueError):
        units.systemd_unit(units.Start(["/x\0y"], {}))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = [tmp_path / ODD / "python", tmp_path / "a b%h $HOME ü" / "python"]
    for program in programs:
        program.parent.mkdir()
        shutil.copy("/bin/true", program)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    unit = tmp_path / supervised.UNIT_NAME

    def verify(start: units.Start) -> str:
        unit.write_text(units.systemd_unit(start))
        done = subprocess.run(
            ["systemd-analyze", "--user", "verify", "--man=no", str(unit)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        if "Failed to initialize manager" in done.stderr:
            pytest.skip(f"systemd-analyze does not work here: {done.stderr.strip()}")
        return done.stderr + f"status {done.returncode}"

    for program in programs:
        good = units.Start([str(program), ODD], {"SEGUE_STATE": str(tmp_path / ODD)})
        assert verify(good) == "status 0"
    assert "not executable" in verify(units.Start([str(programs[1]) + "x"], {}))  # it does look


def test_the_agent_is_a_property_list(tmp_path: Path) -> None:
    start = units.Start([f"/{ODD}/python", "-m", "daemon"], {"SEGUE_STATE": f"/{ODD} <&>"})
    agent = plistlib.loads(units.launchd_agent(start, tmp_path / "err").encode())
    assert agent["ProgramArguments"] == [f"/{ODD}/python", "-m", "daemon"]
    assert agent["EnvironmentVariables"] == {"SEGUE_STATE": f"/{ODD} <&>"}
    assert agent["KeepAlive"] == {"SuccessfulExit": False} and agent["RunAtLoad"] is True
    assert agent["Umask"] == 63 and agent["Label"] == supervised.AGENT_LABEL


def test_on_a_mac_the_agent_goes_to_the_users_own_folder(
    sandbox: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(sandbox))
    monkeypatch.setenv("PATH", "")
    mac = install.place("darwin")
    monkeypatch.setattr(install, "place", lambda platform="darwin": mac)
    assert "launchctl is not to be found" in said(capsys, "install")
    path = sandbox / "Library/LaunchAgents" / f"{supervised.AGENT_LABEL}.plist"
    assert plistlib.loads(path.read_bytes())["Label"] == supervised.AGENT_LABEL
    assert "is removed" in said(capsys, "remove") and not path.exists()


def test_another_terminal_does_not_make_a_unit_old(sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(sandbox))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for platform in ("darwin", "linux"):
        found = install.place(platform)
        found.path.parent.mkdir(parents=True)
        found.path.write_text(found.text)
        with monkeypatch.context() as other:
            other.setenv("SEGUE_MODELS", "/elsewhere")
            other.delenv("SEGUE_RUNTIME")
            assert install.place(platform).current
            assert install.place(platform).text != found.text
        found.path.write_text(found.text.replace("serve", "swerve"))
        assert not found.current


def test_other_systems_are_told_what_to_do_instead() -> None:
    with pytest.raises(install.SegueError, match="segue serve starts it by hand"):
        install.place("win32")


def test_systemd_is_asked_in_the_right_order(
    capsys: pytest.CaptureFixture[str], config: Path, sandbox: Path
) -> None:
    shown = "echo ActiveState=active; echo MainPID=77; echo NRestarts=2; echo UnitFileState=enabled"
    log = manager(sandbox, {"show": shown})
    assert "Segue runs now, and with every login." in said(capsys, "install")
    asked = [line.removeprefix("--user ") for line in log.read_text().splitlines()]
    assert [line for line in asked if not line.startswith("show")] == [
        "daemon-reload", "enable segue.service", "restart segue.service",
    ]  # fmt: skip
    told = said(capsys, "status")
    assert "active, process 77, started again 2 times" in told and "at login   yes" in told
    line = json.loads(said(capsys, "status", "--json"))
    assert (line["event"], line["pid"], line["enabled"], line["current"]) == ("service", 77, True, True)
    assert "is stopped and no longer starts with a login" in said(capsys, "remove")
    assert "disable --now segue.service" in log.read_text().splitlines()[-2]


def test_what_systemd_refuses_is_said(
    capsys: pytest.CaptureFixture[str], config: Path, sandbox: Path
) -> None:
    manager(sandbox, {"show": "exit 0", "enable": "echo the disk is made of cheese >&2; exit 1"})
    assert "enable segue.service said: the disk is made of cheese" in said(capsys, "install")


def test_a_folder_that_cannot_be_written_is_a_sentence(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    (config / "systemd").write_text("in the way")
    assert main(["service", "install"]) == 2
    assert "segue.service cannot be written" in capsys.readouterr().err


def test_a_client_asks_the_service_manager_only_for_its_own_folders(
    sandbox: Path, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    manager(sandbox, {})
    assert supervised.start_command("linux") is None
    assert main(["service", "install"]) == 0
    assert supervised.start_command("linux") == ["systemctl", "--user", "start", "segue.service"]
    monkeypatch.setenv("SEGUE_STATE", str(sandbox / "other"))
    assert supervised.start_command("linux") is None
    monkeypatch.delenv("SEGUE_STATE")
    assert supervised.start_command("linux") is None
    assert supervised.start_command("win32") is None


# ---- the real thing ----


@pytest.fixture
def systemd() -> Iterator[Path]:
    """A systemd of our own for one user, in a mount namespace in which the system says that it has one."""
    if not SYSTEMD.exists() or shutil.which("unshare") is None or os.getuid() != 0:
        pytest.skip("needs root, unshare and systemd's own program")
    folder = Path(tempfile.mkdtemp(prefix="segue-sd-", dir="/tmp"))
    (folder / "run").mkdir(mode=0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder / "run"), "XDG_CONFIG_HOME": str(folder / "c")}
    environment.pop("SEGUE_RUNTIME", None)
    script = f"mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec {SYSTEMD} --user"
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script], env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        by = time.monotonic() + 15
        while not (folder / "run/systemd/private").exists():
            if process.poll() is not None or time.monotonic() > by:
                pytest.skip("systemd does not start in this container")
            time.sleep(0.05)
        yield folder
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        shutil.rmtree(folder, ignore_errors=True)


def test_under_a_real_systemd_it_comes_back_and_a_hang_is_ended(systemd: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SEGUE_")},
        "XDG_RUNTIME_DIR": str(systemd / "run"),
        "XDG_CONFIG_HOME": str(systemd / "c"),
        "SEGUE_STATE": str(systemd / ODD),
        "SEGUE_TEST_ENGINE": "tests.daemon.engine:make",
        "PYTHONPATH": str(ROOT),
    }

    def segue(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "bridge_clients.cli", *words], env=environment, capture_output=True,
            text=True, check=False, timeout=90, cwd=systemd,
        )  # fmt: skip
        return done.stdout + done.stderr

    def systemctl(*words: str) -> str:
        done = subprocess.run(
            ["systemctl", "--user", *words], env=environment, capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip
        return done.stdout + done.stderr

    def main_pid() -> int:
        return int(json.loads(segue("service", "status", "--json")).get("pid") or 0)

    def another_than(pid: int, wait_s: float) -> int:
        by = time.monotonic() + wait_s
        while time.monotonic() < by:
            told = json.loads(segue("service", "status", "--json"))
            if told.get("active") == "active" and told.get("pid") not in (None, 0, pid):
                return int(told["pid"])
            time.sleep(0.1)
        raise AssertionError(systemctl("status", "segue.service"))

    told = segue("service", "install")
    assert "Segue runs now, and with every login." in told, told
    first = main_pid()
    assert (systemd / "run" / "segue" / "connection.json").is_file()
    assert (systemd / "run" / "segue").stat().st_mode & 0o777 == 0o700
    status = json.loads(segue("status", "--json"))
    assert (status["pid"], status["supervisor"]) == (first, "systemd")
    os.kill(first, signal.SIGKILL)
    # A host that asks before systemd has started it again does not start one beside it.
    assert "There are no takes yet" in segue("takes")
    second = another_than(first, 15)
    assert json.loads(segue("status", "--json"))["pid"] == second
    # a loop that hangs: the watchdog's 20 s, shortened for the test
    drop_in = systemd / "c/systemd/user/segue.service.d"
    drop_in.mkdir()
    (drop_in / "short.conf").write_text("[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n")
    systemctl("daemon-reload")
    systemctl("restart", "segue.service")
    third = another_than(second, 15)
    time.sleep(3)
    assert main_pid() == third  # it is fed while all is well
    os.kill(third, signal.SIGSTOP)
    fourth = another_than(third, 20)
    assert json.loads(segue("status", "--json"))["pid"] == fourth
    assert "has stopped" in segue("stop")
    time.sleep(2.5)
    assert main_pid() == 0  # a polite end is no failure: it is not started again
    assert "is removed" in segue("service", "remove")
    assert "not-found" in systemctl("show", "segue.service", "--property=LoadState")
