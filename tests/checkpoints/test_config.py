"""xp.cfg: references work, resolvers never do."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from genmodel.checkpoints.config import parse_config, setting
from genmodel.errors import CheckpointError

PATH = Path("x.bin")


def test_references_resolve_and_resolvers_stay_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    called = []
    register = getattr(OmegaConf, "register_resolver", None) or OmegaConf.register_new_resolver
    register("segue_test_act", lambda *words: called.append(words), replace=True)
    text = r"""
sample_rate: 32000
encodec: {sample_rate: "${sample_rate}", nested: "${encodec.sample_rate}"}
relative: {a: 1, b: "${.a}"}
user: /home/${oc.env:SECRET}
default: ${oc.env:MISSING,1}
mixed: "${sample_rate} ${oc.env:SECRET}"
inner: "${a.${oc.env:SECRET}}"
code: "${segue_test_act: 1}"
decode: "${oc.decode:'[1]'}"
list: ["${oc.env:SECRET}", "${sample_rate}"]
hole: ???
"""
    cfg = parse_config(text, PATH)
    assert cfg.encodec.nested == 32000 and cfg.relative.b == 1 and cfg.list[1] == 32000
    assert cfg.user == "/home/${oc.env:SECRET}" and cfg.default == "${oc.env:MISSING,1}"
    assert cfg.mixed == "${sample_rate} ${oc.env:SECRET}"
    whole = str(OmegaConf.to_container(cfg, resolve=True))
    assert "hunter2" not in whole and not called
    assert cfg.decode == "${oc.decode:'[1]'}" and cfg.code == "${segue_test_act: 1}"


def test_settings_are_read_one_by_one() -> None:
    cfg = parse_config("a: {b: 3}\nbroken: ${nowhere.x}\nhole: ???\n", PATH)
    assert setting(cfg, "a.b", PATH) == 3 and setting(cfg, "a", PATH) == {"b": 3}
    assert setting(cfg, "a.c", PATH, default=7) == 7 and setting(cfg, "hole", PATH) is None
    with pytest.raises(CheckpointError, match="nowhere"):
        setting(cfg, "broken", PATH)
    with pytest.raises(CheckpointError, match=r"lacks a\.d"):
        setting(cfg, "a.d", PATH, required=True)


def test_floats_without_a_dot_are_floats() -> None:
    assert parse_config("eps: 1e-05", PATH).eps == 1e-5


def test_self_references_grow_nothing() -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 24)]
    with pytest.raises(CheckpointError, match="refers to itself"):
        parse_config("\n".join(lines), PATH)
