"""YAML to objects: merging, refusals and their messages; every config of the project builds."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import main
from ldm.config.objects import build, load_config
from ldm.errors import UserError
from ldm.training.memory import saved_bytes
from ldm.training.systems import open_run

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if "data" not in path.name)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_later_files_and_overrides_win(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "a: {x: 1, y: 2}\nb: 3\n")
    more = write(tmp_path, "more.yaml", "a: {y: 5}\n")
    config = load_config([base, more], ["a.x=7", "b=[1, 2]"])
    assert config == {"a": {"x": 7, "y": 5}, "b": [1, 2]}


def test_another_target_replaces_the_mapping_and_the_same_one_adds_to_it(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "net: {target: a.B, x: 1, in: {y: 2}}\n")
    assert load_config([base], ["net={target: a.C, z: 3}"]) == {"net": {"target": "a.C", "z": 3}}
    assert load_config([base], ["net={target: a.B, in: {z: 3}}"]).net == {
        "target": "a.B",
        "x": 1,
        "in": {"y": 2, "z": 3},
    }


def test_a_file_may_extend_another(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "a: {x: 1, y: 2}\n")
    assert load_config([write(tmp_path, "child.yaml", "extends: base.yaml\na: {y: 3}\n")]) == {"a": {"x": 1, "y": 3}}


def test_a_config_refers_to_its_own_values(tmp_path: Path) -> None:
    text = "a: 3\nb: {c: name, d: '${a}'}\ne: x-${b.c}-${a}\nf: ['${b.d}']\n"
    assert load_config([write(tmp_path, "a.yaml", text)]) == {
        "a": 3,
        "b": {"c": "name", "d": 3},
        "e": "x-name-3",
        "f": [3],
    }


ELSEWHERE = {
    "a resolver": "a: ${oc.env:SECRET}",
    "a resolver in pieces": "a: $\nc: ${a}{oc.env:SECRET}",
    "a resolver in more pieces": "a: '{oc.env:SECRET}'\nb: $\nc: ${b}${a}",
    "pieces that meet late": "a: $\nb: '${a}{oc.env:SECRET}'\nc: ${b}",
    "a resolver inside a reference": "a: oc.env\nb: ${${a}:SECRET}",
    "a key that is a resolver": "a: ${oc.select:b}\nb: 1",
    "an escape": "a: \\${oc.env:SECRET}",
    "a relative reference": "a: {b: 1, c: '${.b}'}",
    "a mapping": "a: {b: 1}\nc: ${a}",
    "a list": "a: [1]\nc: ${a}",
    "itself": "a: ${b}\nb: ${a}",
    "nothing": "a: ${b}",
    "a missing value": "a: ???",
    "text without end": "\n".join(["a0: xxxxxxxxxx", *(f"a{n + 1}: " + f"${{a{n}}}" * 10 for n in range(30))]),
    "an infinity": "a: .inf",
}


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("way", ["file", "override"])
def test_a_config_refers_to_nothing_else(name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "read")
    lines = ELSEWHERE[name].split("\n")
    if way == "override" and name in ("a relative reference", "a mapping"):
        return  # they open a file for writing
    if way == "file":
        config, overrides = write(tmp_path, "a.yaml", ELSEWHERE[name]), []
    else:
        pairs = [line.partition(": ") for line in lines]
        config = write(tmp_path, "a.yaml", "".join(f"{key}: 0\n" for key, _, _ in pairs))
        overrides = [f"{key}={value}" for key, _, value in pairs]
    with pytest.raises(UserError) as error:
        load_config([config], overrides)
    assert "read" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "extends", ["/etc/passwd", "../base.yaml", "link.yaml", "base.txt", "sub/../../base.yaml", "x"]
)
def test_extends_stays_in_the_folder_of_configs(extends: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("base.yaml", "base.txt"):
        write(tmp_path, name, "a: read\n")
    (folder / "link.yaml").symlink_to(tmp_path / "base.yaml")
    (folder / "sub").mkdir()
    with pytest.raises(UserError, match="extends is") as error:
        load_config([write(folder, "child.yaml", f"extends: {extends}\n")])
    assert "\n" not in str(error.value)
    (tmp_path / "configs/deep").mkdir(parents=True)
    write(tmp_path / "configs", "base.yaml", "a: 1\n")
    assert load_config([write(tmp_path / "configs/deep", "child.yaml", "extends: ../base.yaml\n")]) == {"a": 1}


def test_a_file_of_gigabytes_is_no_config(tmp_path: Path) -> None:
    with (tmp_path / "slide.yaml").open("wb") as file:
        file.truncate(10**10)
    with pytest.raises(UserError, match="10,000,000,000 bytes"):
        load_config([tmp_path / "slide.yaml"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["a.z=1"], r"no config file has a\.z; a has x"),
        (["q.z=1"], r"no config file has q\.z"),
        (["a.x"], "expected key=value"),
    ],
)
def test_wrong_overrides_are_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config([write(tmp_path, "base.yaml", "a: {x: 1}\n")], overrides)


def test_missing_and_malformed_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_config([tmp_path / "none.yaml"])
    with pytest.raises(UserError, match="not valid YAML"):
        load_config([write(tmp_path, "bad.yaml", "a: [1\n")])
    with pytest.raises(UserError, match="not a mapping"):
        load_config([write(tmp_path, "list.yaml", "- 1\n")])


def test_build_makes_nested_objects() -> None:
    found = build({"target": "torch.nn.Sequential", **{}}, "net")
    assert isinstance(found, nn.Sequential)
    optimizer = build({"target": "torch.optim.SGD", "lr": 0.5}, params=[torch.zeros(1, requires_grad=True)])
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target": "os.system", "command": "true"}, "target os.system is refused"),
        ({"target": "ldm.networks.nothing.Here"}, "does not exist"),
        (
            {"target": "torch.nn.Linear", "in_features": 1, "out_featuers": 2},
            r"has no out_featuers; did you mean out_features\? it takes in_features",
        ),
        ({"target": "torch.nn.Linear", "in_features": 1}, "needs out_features"),
        ({"lr": 1}, "needs a mapping with a target"),
    ],
)
def test_build_refuses_in_one_line(config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build(config, "model.part")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_config_says_how_to_run_it_and_builds(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path.read_text().startswith(f"# python main.py --base {path.relative_to(ROOT)}")
    if "LPIPS" in path.read_text():
        monkeypatch.setattr("torch.hub.load_state_dict_from_url", _refuse)
        with pytest.raises(UserError, match="could not be downloaded"):
            main.main(["--base", str(path), "--dry-run"])
        return
    assert main.main(["--base", str(path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "parameters" in printed
    assert "GiB" in printed


def _refuse(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_a_config_with_a_wrong_key_is_refused_before_any_work(tmp_path: Path) -> None:
    demo = ROOT / "configs/demo/zoomldm.yaml"
    with pytest.raises(UserError, match=r"training has no learning_rate; .*it takes optimizer, warmup"):
        main.main(
            ["--base", str(demo), str(write(tmp_path, "more.yaml", "training: {learning_rate: 1}\n")), "--dry-run"]
        )
    with pytest.raises(UserError, match=r"config: lacks run, seed, .* it takes system, run"):
        main.main(["--base", str(write(tmp_path, "short.yaml", "system: vq\nmodel: {}\n")), "--dry-run"])


@pytest.mark.parametrize("name", ["zoomldm_brca", "cdm_brca", "controlnet_sr"])
def test_a_run_fits_the_hardware_that_its_config_names(name: str) -> None:
    path = ROOT / "configs" / f"{name}.yaml"
    (gigabytes,) = re.findall(r"of (\d+) GB", path.read_text().partition("\n")[0])
    with torch.device("meta"):
        run = open_run(load_config([path], ["training.precision=bf16-mixed"]))
        assert sum(run.memory()) < 0.9 * int(gigabytes) * 10**9


def test_what_a_step_keeps_is_counted_once_and_without_the_weights() -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))
    x = torch.zeros(3, 8, device="meta")
    kept = 3 * 8 + 3 * 16  # the input; the ReLU's result, for its own backward pass and for the next layer's
    assert saved_bytes(network, lambda net: net(x), torch.float32) == 4 * kept
    assert saved_bytes(network, lambda net: net(x.bfloat16()), torch.bfloat16) == 2 * kept


def test_the_paper_s_model_has_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["--base", str(ROOT / "configs/zoomldm_brca.yaml"), "--dry-run"])
    printed = capsys.readouterr().out
    assert "400,920,579" in printed
    assert "38,656,000" in printed
