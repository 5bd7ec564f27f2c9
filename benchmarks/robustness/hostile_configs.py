"""Hostile configs: targets that run code, YAML that builds objects or never ends, values from elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fixtures import toy
from data_prep.preparation import prepare
from data_prep.preparation_config import load_prepare_config
from ldm.config.objects import build, load_config
from ldm.config.run_config import save_config
from ldm.encoders.tile_encoders import load_encoder
from ldm.pipeline import ZoomLDM

MARK = "executed"
TARGETS: dict[str, dict[str, Any]] = {
    "os.system": {"command": f"mkdir {MARK}"},
    "subprocess.run": {"args": ["mkdir", MARK]},
    "builtins.eval": {"source": f"__import__('os').mkdir('{MARK}')"},
    "pathlib.Path.home": {},
    "torch.os.system": {"command": f"mkdir {MARK}"},
    "torch.os.mkdir": {"path": MARK},
    "torch.serialization.os.mkdir": {"path": MARK},
    "torch.hub.load": {"repo_or_dir": "someone/repository", "model": "model", "trust_repo": True},
    "torch.hub.load_state_dict_from_url": {"url": "https://example.org/weights.pth"},
    "torch.hub.download_url_to_file": {"url": "https://example.org/x", "dst": "../escaped"},
    "torch.load": {"f": "weights.ckpt", "weights_only": False},
    "torch.save": {"obj": 1, "f": "../escaped"},
    "torch.jit.load": {"f": "weights.ckpt"},
    "torch.package.PackageImporter": {"file_or_buffer": "weights.ckpt"},
    "torch.utils.cpp_extension.load": {"name": "x", "sources": ["x.cpp"]},
    "torch.utils.cpp_extension.load_inline": {"name": "x", "cpp_sources": "int x;"},
    "torch.utils.collect_env.run": {"command": f"mkdir {MARK}"},
    "torch.utils.model_zoo.load_url": {"url": "https://example.org/weights.pth"},
    "torch.ops.load_library": {"path": "x.so"},
    "torch.multiprocessing.spawn": {"fn": "print"},
    "torch.distributed.launcher.elastic_launch": {"config": {}, "entrypoint": "mkdir"},
    "torch.nn.modules.module.partial": {"func": "print"},
    "torch.nn.modules.module.OrderedDict": {},
    "torch.nn.functional.importlib.import_module": {"name": "os"},
    "torch.optim.lr_scheduler.partial": {},
    "timm.create_model": {"model_name": "resnet18", "pretrained": True, "pretrained_cfg": {"url": "https://x.org/w"}},
    "timm.models.resnet18": {"pretrained": True, "pretrained_cfg": {"url": "https://example.org/weights.pth"}},
    "timm.models.load_checkpoint": {"model": {}, "checkpoint_path": "weights.ckpt"},
    "torchvision.datasets.utils.download_url": {"url": "https://example.org/x", "root": ".."},
    "taming.main.instantiate_from_config": {"config": {"target": "os.mkdir", "params": {"path": MARK}}},
    "taming.models.vqgan.VQModel": {"ckpt_path": "weights.ckpt"},
    "ldm.config.objects.find": {"name": "os.system", "where": ""},
    "ldm.config.objects.importlib.import_module": {"name": "os"},
    "ldm.support.files.write_sidecar": {"path": "../escaped"},
    "ldm.checkpoint.save_weights": {"path": "../escaped.safetensors", "tensors": {}},
    "ldm.training.checkpoints.write_sidecar": {"path": "../escaped"},
    "ldm.training.callbacks.os.system": {"command": f"mkdir {MARK}"},
    "ldm.networks.unet.UNet.__init__.__globals__": {},
    "ldm.networks..os.system": {"command": f"mkdir {MARK}"},
    "ldm.networks.": {},
    "data_prep.prepare.main": {"argv": []},
    "ldm.demo.world.generate": {"folder": "..", "count": 1, "seed": 0, "kind": "histology", "size_px": 64},
}
YAML = {
    "YAML that calls a function": f"a: !!python/object/apply:os.mkdir ['{MARK}']",
    "YAML that makes an object": "a: !!python/object/new:subprocess.Popen [[mkdir, executed]]",
    "YAML that names a function": "a: !!python/name:os.system",
    "YAML that imports a module": "a: !!python/module:antigravity",
    "YAML with a billion laughs": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)),
    "YAML that holds itself": "a: &a [*a]",
    "YAML nested without end": "a: " + "[" * 100_000,
    "YAML that is not text": "a: \udcff",
    "YAML with a null byte": "a: \x00",
    "value from the environment": "a: ${oc.env:HOME}",
    "value from the environment in a value": "b: oc.env\na: ${${b}:HOME}",
    "value decoded": "a: ${oc.decode:'[1]'}",
    "value that is itself": "a: ${b}\nb: ${a}",
    "value that is missing": "a: ???\nb: ${a}",
    "value with a broken reference": "a: ${",
    "config that extends itself": "extends: config.yaml",
    "config that extends a list": "extends: [a, b]",
    "config that extends a device": "extends: /dev/zero",
    "config that extends a password file": "extends: /etc/passwd",
}


def _target(name: str, arguments: dict[str, Any]) -> Callable[[Path], None]:
    return lambda folder: (build({"target": name, **arguments}), None)[1]


def _target_of_a_run(folder: Path) -> None:
    """In the place of a network."""
    run = toy.run_folder(folder / "run", "zoomldm")
    config = load_config([run / "config.yaml"])
    config.model.denoiser = {"target": "os.mkdir", "path": MARK}
    save_config(run, config)
    ZoomLDM.load(run)


def _yaml(text: str) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        (folder / "config.yaml").write_bytes(text.encode(errors="surrogateescape"))
        load_config([folder / "config.yaml"])

    return attack


def _override(text: str) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        (folder / "config.yaml").write_text("a: 1\n")
        load_config([folder / "config.yaml"], [text])

    return attack


def _width(value: Any) -> Callable[[Path], None]:
    """A network far larger than its weights."""

    def attack(folder: Path) -> None:
        run = toy.run_folder(folder / "run", "zoomldm")
        config = load_config([run / "config.yaml"])
        config.model.denoiser.width = value
        save_config(run, config)
        ZoomLDM.load(run)

    return attack


def _encoder(name: str, weights: str | None = None) -> Callable[[Path], None]:
    return lambda folder: (load_encoder(name, weights), None)[1]


def _nested(folder: Path) -> None:
    """A target among the arguments of one that is allowed."""
    build({"target": "torch.nn.Sequential", "args": {"target": "os.mkdir", "path": MARK}})


def _not_a_name(folder: Path) -> None:
    build({"target": ["torch.nn.Linear"]})


def _preparation(folder: Path) -> None:
    (folder / "slides").mkdir()
    text = "slides: slides\nout: out\nladder: {kind: os.system}\nencoder: {name: demo}\nautoencoder: null\n"
    (folder / "data.yaml").write_text(text)
    prepare(load_prepare_config([folder / "data.yaml"]))


ATTACKS: dict[str, Callable[[Path], None]] = {
    **{f"target {name}": _target(name, arguments) for name, arguments in TARGETS.items()},
    **{name: _yaml(text) for name, text in YAML.items()},
    "target in somebody's run": _target_of_a_run,
    "target among arguments": _nested,
    "target that is no name": _not_a_name,
    "override that calls a function": _override(f"a=!!python/object/apply:os.mkdir ['{MARK}']"),
    "override from the environment": _override("a=${oc.env:HOME}"),
    "override that is no YAML": _override("a=[1"),
    "network of 10^9 channels": _width(10**9),
    "network of 10^30 channels": _width(10**30),
    "network of -32 channels": _width(-32),
    "network of text channels": _width("32 * 10"),
    "encoder of a folder": _encoder("local-dir:/tmp"),
    "encoder from a URL": _encoder("uni", "https://example.org/weights.bin"),
    "preparation of no kind": _preparation,
}
