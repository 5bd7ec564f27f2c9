"""Grammars of the commands for R10: valid and invalid values of every option and key.

A line with an invalid value must end with status 2 and one line on stderr, any other with status 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_prep import crops, prepare, splits
from ldm.cli import draw as drawing
from ldm.cli import evaluate, explore, features, joint, mil, palette, sample, superres, train, view

ROOT = Path(__file__).parents[2]


class Values(NamedTuple):
    """Valid and invalid values of an option."""

    good: tuple[str, ...]
    bad: tuple[str, ...]


NONSENSE = ("x", "²", "1,5", "0x10", "nan", "--", "1 2")
COUNT = Values(("1", "2", "16"), ("0", "-1", "1.5", "1e3", "9" * 30, "inf", *NONSENSE))
NATURAL = Values(("0", "3"), ("-1", "0.5", "9" * 30, *NONSENSE))
SEED = Values(("0", "7", "4294967295"), ("-1", "4294967296", "1.5", *NONSENSE))
REAL = Values(("0", "1", "2.5"), ("-1", "inf", "-inf", "1e999", *NONSENSE))
SHARE = Values(("0", "0.25"), ("-0.1", "1.1", "inf", *NONSENSE))
OUT = Values(("new", "new/deeper"), ("file", "file/below", "n" * 300, "/proc/x/y", "a/" * 3000))
OUT_FILE = Values(("new.csv", "new/deeper.csv"), ("folder", "file/below", "n" * 300, "/proc/x/y"))
PRECISION = Values(("auto", "fp32"), ("bf17", "32", "", "FP32"))
MACHINES: dict[str, Values] = {
    "--devices": Values(("1",), ("0", "-1", "1.5", "10000", *NONSENSE)),
    "--nodes": Values(("1",), ("0", "2", "-1", *NONSENSE)),
    "--accelerator": Values(("auto", "cpu"), ("foo", "tpu", "CPU", "")),
}
DEVICE = Values(("cpu", "auto"), ("foo", "cuda:x", "meta", "", "cpu:1"))
MODEL = Values(("demo",), ("nowhere", "file", "folder", ""))
SCALE = Values(("20x", "5x"), ("6x", "", "20", "20X"))
SCALES = Values(("20x,5x", "10x,2.5x"), ("6x,5x", "20x,,5x", "", "20x;5x", "20x,20x"))

YAML_NONSENSE = ("foo", "[]", "{a: 1}", ".nan", "'1'", "²", "???", "${oc.env:HOME}", "[1", "1:2:x")
YAML_COUNT = Values(("1", "3", "64"), ("0", "-1", "1.5", "true", "null", "1e99", *YAML_NONSENSE))
YAML_NATURAL = Values(("0", "2"), ("-1", "0.5", "true", "null", *YAML_NONSENSE))
YAML_SHARE = Values(("0", "0.5", "1"), ("-0.1", "2", "true", "null", ".inf", *YAML_NONSENSE))
YAML_FRACTION = Values(("0", "0.5"), ("1", "2", "-1", "true", ".inf", *YAML_NONSENSE))
YAML_POSITIVE = Values(("0.5", "1e-3"), ("0", "-1", "true", ".inf", *YAML_NONSENSE))
YAML_SWITCH = Values(("true", "false"), ("2", "null", "0.5", *YAML_NONSENSE))
YAML_PATH = Values(("elsewhere", "a/b"), ("[]", "{a: 1}", "1.5", "true", "???", "''", "${oc.env:HOME}"))
TYPED_PATH = Values(("new", "1.5", "[a] b", "a: b"), ("", "a\x07b", "a\nb", "x" * 5000))
"""its text on the command line"""
SLIDE_FOLDERS = ("2.5", "[slides] b", "slides: b")
"""folders that hold a file; names that YAML would misread"""
YAML_SEED = Values(("0", "7"), ("-1", "4294967296", "1.5", "null", *YAML_NONSENSE))


def choice(*good: str) -> Values:
    return Values(good, ("foo", "[]", "1", "{a: 1}", "???"))


TRAINING = {
    "training.max_steps": YAML_COUNT,
    "training.warmup": YAML_NATURAL,
    "training.decay_from": Values(("0.5", "null"), YAML_FRACTION.bad),
    "training.ema": Values(YAML_FRACTION.good, ("null", *YAML_FRACTION.bad)),
    "training.accumulate": YAML_COUNT,
    "training.clip": Values(("1.0", "null"), YAML_POSITIVE.bad),
    "training.precision": choice("auto", "32-true"),
    "training.accelerator": choice("auto", "cpu"),
    "training.devices": Values(("1",), ("0", "-1", "1.5", "10000", "all", "null", *YAML_NONSENSE)),
    "training.nodes": Values(("1",), ("0", "2", "-1", "null", *YAML_NONSENSE)),
    "training.strategy": choice("auto", "ddp"),
    "training.validate_every": YAML_COUNT,
    "training.checkpoint_every": YAML_COUNT,
    "training.optimizer.lr": YAML_POSITIVE,
    "training.optimizer.weight_decay": Values(("0", "0.1"), ("-1", ".inf", "true", "null", *YAML_NONSENSE)),
    "training.optimizer.target": Values((), ("torch.nn.Linear", "os.system", "torch.optim.Nothing", "1", "[]")),
    "data.batch_size": YAML_COUNT,
    "data.workers": YAML_NATURAL,
    "data.validation_per_scale": YAML_COUNT,
    "data.cohort": YAML_PATH,
    "data": Values((), ("1", "null", "[]", "foo")),
    "training": Values((), ("1", "null", "[]", "foo")),
    "model": Values((), ("1", "null", "[]", "foo")),
    "ladder": Values((), ("1", "null", "histology", "{kind: foo}")),
    "ladder.scales": Values(("5",), ("0", "9", "-1", "4", "1.5", *YAML_NONSENSE)),
    "ladder.kind": choice("histology"),
    "tile_px": Values(("128",), ("0", "-128", "100", "1.5", "null", "100000", *YAML_NONSENSE)),
    "seed": YAML_SEED,
    "run": Values(("new", "new/deeper"), ("file", "file/below", "n" * 300, "[]", "1.5", "/proc/x/y", "???")),
    "system": Values((), ("foo", "1", "null", "[]")),
    "nothing": Values((), ("1",)),
    "training.nothing": Values((), ("1",)),
    "training.max_stpes": Values((), ("1",)),
    "data.batch_size.x": Values((), ("1",)),
    "data..x": Values((), ("1",)),
}
CONTEXT = {
    "training.p_uncond": YAML_SHARE,
    "training.times": choice("{target: ldm.diffusion.timestep_sampling.Uniform}"),
}
FACTOR = Values(("4", "2"), ("0", "3", "-2", "1.5", "null", *YAML_NONSENSE))
SYSTEMS: dict[str, dict[str, Values]] = {
    "zoomldm": {
        **CONTEXT,
        "training.keep": choice("last", "best"),
        "training.compile": YAML_SWITCH,
        "training.checkpointing": YAML_SWITCH,
        "data.scales": Values(("[5x]", "null", "[20x, 5x]"), ("[]", "[6x]", "5x", "[5x, 5x]", "1", "[1]")),
        "model.prediction": choice("v", "eps", "z_0"),
        "model.denoiser.multipliers": Values(("[1, 1, 2]",), ("[]", "[0]", "1", "[1.5]", "null", "[x]", "[-1]")),
        "model.denoiser.width": Values(("32", "64"), ("0", "-32", "1.5", "null", *YAML_NONSENSE)),
        "model.denoiser.heads": Values(("1", "4"), ("0", "7", "-1", "1.5", *YAML_NONSENSE)),
        "model.denoiser.attention": Values(("[4]", "[2, 4]", "[]"), ("[3]", "[8]", "4", "[x]", "null")),
        "model.denoiser.shortcuts": YAML_SWITCH,
        "model.denoiser": Values((), ("1", "null", "{target: ldm.networks.dit.DiT}", "{target: os.system}")),
        "model.summarizer.layers": YAML_COUNT,
        "model.summarizer.stretch": YAML_SWITCH,
        "model.summarizer.scales": Values(("5",), ("0", "4", "9", *YAML_NONSENSE)),
        "model.schedule.target": Values((), ("ldm.networks.unet.UNet", "foo", "1")),
        "init": Values(("null",), ("1", "[]", "nowhere.ckpt", "???")),
    },
    "cdm": {
        "cdm.labels": Values(("null",), ("nowhere.csv", "1", "[]", "???")),
        "model.cdm.layers": YAML_COUNT,
        "model.cdm.tokens": Values(("65",), ("64", "0", *YAML_NONSENSE)),
        "model.cdm.heads": Values(("1", "5"), ("0", "7", *YAML_NONSENSE)),
        "zoomldm": Values(("demo",), ("elsewhere", *YAML_PATH.bad)),
    },
    "vq": {
        "training.accumulate": Values(("1",), ("2", *YAML_COUNT.bad)),
        "training.smooth": Values(("0", "0.5"), ("-1", ".inf", "null", "true", *YAML_NONSENSE)),
        "training.revive_every": Values(("0",), YAML_NATURAL.bad),  # more needs a codebook
        "training.normalise_latents": YAML_SWITCH,
        "training.frozen": Values(("[]", "[encoder]"), ("[encodr]", "encoder", "[1]", "null")),
        "model.autoencoder.codes": Values(("64", "null"), ("0", "-1", "1.5", "true", "1e99", *YAML_NONSENSE)),
        "data.crop_px": Values(("16", "64"), ("0", "-64", "10", "1.5", "null", *YAML_NONSENSE)),
        "data.kind": Values(("images",), ("latents", "pairs", "1", "foo")),
    },
    "controlnet_sr": {**CONTEXT, "model.factor": FACTOR},
    "superres_baseline": {
        "training.times": CONTEXT["training.times"],
        "model.factor": FACTOR,
        "model.prediction": choice("v", "eps", "z_0"),
        "model.denoiser.in_channels": Values(("6",), ("3", "0", "-6", "1.5", "null", *YAML_NONSENSE)),
    },
}
PREPARATION = {
    "slides": Values(SLIDE_FOLDERS, TYPED_PATH.bad),
    "out": Values(TYPED_PATH.good, ("file", "file/below", "n" * 300, "/proc/x/y", *TYPED_PATH.bad)),
    "pattern": Values(("**/*", "*.svs"), TYPED_PATH.bad),
    "generate": Values(("null",), ("1", "yes", "[]", "{kind: foo}")),
    "generate.count": Values(("1", "12"), ("0", "-1", "1.5", "null", *YAML_NONSENSE)),
    "generate.size_px": Values(("1024", "4096"), ("0", "1000", "512", "1.5", *YAML_NONSENSE)),
    "ladder.scales": Values(("1", "5", "8"), ("0", "9", "-1", "1.5", *YAML_NONSENSE)),
    "ladder": Values((), ("1", "null", "histology", "{kind: foo}")),
    "tile_px": Values(("128", "256"), ("0", "100", "-16", "1.5", "true", "null", *YAML_NONSENSE)),
    "encoder": Values((), ("1", "null", "uni", "[]", "{nam: demo}")),
    "encoder.name": Values(("demo", "colours"), ("null", "1", "[]", "''")),
    "autoencoder": Values(("demo", "null"), TYPED_PATH.bad),
    "tissue_share": Values(("0", "0.5", "{20x: 0.5}"), ("2", "-1", "x", "null", "{6x: 0.5}", "{20x: 2}", "[]")),
    "partial": choice("pad", "skip"),
    "valid_share": YAML_SHARE,
    "regions_per_scale": Values(("1", "null"), ("0", "-1", "1.5", *YAML_NONSENSE)),
    "images": Values(("jpeg", "png", "null"), ("gif", "1", "[]")),
    "mpp": Values(("0.5", "null"), ("0", "-1", ".inf", "true", *YAML_NONSENSE)),
    "unreadable_share": YAML_SHARE,
    "seed": YAML_SEED,
    "batch_size": YAML_COUNT,
    "workers": YAML_NATURAL,
    "accelerator": choice("auto", "cpu"),
    "precision": Values(("auto", "fp32"), ("foo", "bf15", "")),
    "devices": Values(("1",), ("0", "10000", "1.5", "null", "foo", "[]")),
    "nodes": Values(("1",), ("0", "2", "1.5", "null", "foo")),
    "shard": Values(("0/1", "1/3", "null"), ("3/3", "1", "a/b", "-1/2", "²/3", "1/0", "0.5", "[]")),
    "nothing": Values((), ("1",)),
}


@dataclass(frozen=True)
class Grammar:
    """A command, the fixed start of its lines, and its options and keys."""

    main: Callable[[list[str]], object]
    start: tuple[str, ...]
    options: Mapping[str, Values]
    overrides: Mapping[str, Values]

    def contradict(self, given: Mapping[str, str]) -> bool:
        """Whether a line with these options and overrides is refused, valid as each value may be."""
        unguided = "--sampler" in self.options and given.get("--guidance", "1") == "1"
        return (
            {"--from", "--place"} <= given.keys()
            or (unguided and "--guidance-interval" in given)
            or any(f"--{key}" in given for key in given)
        )


def _command(main: Callable[..., object], start: Sequence[str], **options: Values) -> Grammar:
    named = {f"--{name.replace('_', '-')}": values for name, values in options.items()}
    return Grammar(main, tuple(start), named, {})


def commands() -> dict[str, Grammar]:
    """All of them; relative paths are of the folder that `world` makes."""
    fabric = {name.removeprefix("--"): values for name, values in MACHINES.items()}
    common: dict[str, Values] = {"out": OUT, "seed": SEED, "precision": PRECISION, "model": MODEL}
    measured = {**fabric, **common, "batch_size": COUNT, "count": Values(("2", "8"), ("1", *COUNT.bad))}
    interval = Values(("0.3,3", "0,1e9"), ("3,0.3", "1", "-1,2", "nan,1", "0,inf", "1,1", "a,b", "1,2,3", ""))
    sampling = {"guidance": REAL, "guidance_interval": interval, "steps": COUNT}
    sampling |= {"sampler": Values(("ddim", "dpmpp"), ("foo", ""))}
    where = {"size": Values(("256", "1024x512"), ("0", "-5", "1x2x3", "x", "²", "1e3", "10" * 20)), "scales": SCALES}
    found = {
        f"train {name}": Grammar(
            train.main, ("--base", str(ROOT / f"configs/demo/{name}.yaml")), {}, {**TRAINING, **keys}
        )
        for name, keys in SYSTEMS.items()
    }
    found["prepare"] = Grammar(
        prepare.main,
        ("--config", str(ROOT / "configs/demo/data.yaml")),
        {"--workers": NATURAL, "--mpp": Values(("0.5",), ("0", "x")), "--shard": Values(("0/2",), ("2/2", "x"))},
        PREPARATION,
    )
    found["sample_patches"] = _command(
        sample.main, (), **common, **sampling, count=Values(("1", "2"), COUNT.bad), scales=SCALE, device=DEVICE
    )
    found["sample_joint"] = _command(
        joint.main, (), **fabric, **common, label=Values((), ("tumour", "")),
        **where, steps=COUNT, inner=NATURAL, tolerance=REAL, guidance=REAL,
        guidance_interval=interval, batch_size=COUNT,
        place=Values(("0,0", "1,2"), ("²,1", "1", "1,2,3", "-1,0", "x", "999999,0")),
        layout=Values((), ("nowhere.geojson", "file", "folder", "picture.png")), palette=Values((), ("nowhere",)),
        rest=Values((), ("Tumor",)), mpp=Values((), ("0", "-1", "x", "nan", "0.5")),
        preset=Values(("paper", "default"), ("foo", "")), **{"lambda": REAL, "from": Values(("none",), ("nowhere",))},
    )  # fmt: skip
    found["palette"] = _command(
        palette.main, ("--cohort", "cohort", "--clusters", "2"), seed=SEED,
        prototypes=Values(("1", "4"), ("0", "65", "-1", "x", "1.5")),
        out=Values(("new.safetensors", "new/deeper.safetensors"), ("new", "file/below.safetensors", "n" * 300)),
    )  # fmt: skip
    found["superres"] = _command(
        superres.main, ("picture.png", "--method", "bicubic"), **common, scales=SCALES, steps=COUNT, guidance=REAL,
        guidance_interval=interval, batch_size=COUNT, device=DEVICE, truth=Values((), ("nowhere", "picture.png")),
        samples=Values(("1",), ("2", *COUNT.bad)),
    )  # fmt: skip
    found["extract_features"] = _command(
        features.main, ("cohort",), **fabric, **common, batch_size=COUNT, t=NATURAL,
        scales=Values(("20x", "20x,5x"), ("6x", "20x,,5x")), block=Values(("0", "2"), ("99", *NATURAL.bad)),
        source=Values(("encoder", "denoiser"), ("foo", "")),
    )  # fmt: skip
    found["train_mil"] = _command(
        mil.main, ("--features", "cohort", "--labels", "labels.csv"), out=OUT, seed=SEED, shuffles=NATURAL,
        repeats=COUNT, folds=Values(("5", "10,5"), ("2", "0", "²", "5,", "x", "-5", "1" * 5000)),
    )  # fmt: skip
    for name in ("patches", "large", "superres", "memorization"):
        more = sampling if name in ("patches", "memorization") else {}
        found[f"evaluate {name}"] = _command(
            evaluate.main, (name,), **measured, **more, space=Values(("demo",), ("/", "nothing-at-all"))
        )
    found["evaluate passport"] = _command(
        evaluate.main, ("passport", "--real", "real_images", "--generated", "made_images"), out=OUT, seed=SEED,
        batch_size=COUNT, device=DEVICE, count=Values(("4", "8"), ("1", *COUNT.bad)),
        space=Values(("demo", "colours"), ("/", "nothing-at-all")),
        train=Values((), ("nowhere", "folder", "made_images")),
    )  # fmt: skip
    found["splits"] = _command(
        splits.main, ("--cohort", "cohort"), seed=SEED, validation=SHARE, test=SHARE, out=OUT_FILE,
        by=Values(("patient", "slide"), ("foo", "")), table=Values((), ("nowhere.csv", "file")),
    )  # fmt: skip
    found["crops"] = _command(crops.main, ("picture.png",), out=OUT, seed=SEED, size=COUNT, count=COUNT)
    found["demo_world"] = _command(
        drawing.main, (), out=OUT, seed=SEED, count=COUNT, kind=Values(("satellite",), ("foo", "")),
        size=Values(("1024", "4096"), ("0", "512", "1025", "x", "1.5", "-1024")),
    )  # fmt: skip
    found["explore"] = _command(
        explore.main, ("--export", "region.tiff", "--region", "0,0,64x64"), model=MODEL, seed=SEED, threads=COUNT,
        region=Values(("-1,-9,32x8",), ("0,0", "0,0,0x5", "1.5,0,8x8", "0,0,8", "9" * 40, *NONSENSE)),
        precision=PRECISION, device=DEVICE,
    )  # fmt: skip
    found["view"] = _command(
        view.main, ("picture.png",), export=OUT, port=Values((), ("0", "80", "65536", "-1", "1.5", *NONSENSE))
    )
    return found
