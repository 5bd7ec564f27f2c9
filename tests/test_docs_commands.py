"""Every command in README and docs is accepted: options, values, configs, their keys."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from ldm.cli.zoomldm import COMMANDS
from ldm.config.objects import load_config
from ldm.support.bundled_configs import config_file
from ldm.support.typed import SCRIPTS
from tests.test_docs import PAGES, ROOT

SPANS = re.compile(r"^ {4}(?:exec )?(\S.*)$|`([^`\n]+)`", re.M)
COMMANDS_OF = {f"python {file}": name for name, file in SCRIPTS.items()}
PLACEHOLDERS = {"CONFIG", "RUN"}
HELP_ONLY = ("splits", "crops", "prepare", "doctor")
"""commands whose parser looks at files or cannot be called alone"""


def commands(text: str) -> list[list[str]]:
    """Command lines [name, argument ...] in code blocks and between backticks, but those with `...` and bare names."""
    found = []
    for block, span in SPANS.findall(text.replace("\\\n", " ")):
        line = (block or span).split("  #")[0].strip()
        for begin, name in COMMANDS_OF.items():
            line = line.replace(begin, f"zoomldm {name}") if line.startswith(begin) else line
        if line.startswith("zoomldm ") and "..." not in line and not re.search(r"zoomldm (--|[A-Z]|\w+$)", line):
            found.append(shlex.split(line)[1:])
    return found


def check(name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """UserError, SystemExit or AssertionError for a command line that `name` would refuse."""
    module = import_module(COMMANDS[name].module)
    if name in HELP_ONLY:
        with pytest.raises(SystemExit):
            module.main(["--help"])
        known = re.findall(r"--[\w-]+", capsys.readouterr().out)
        assert {item for item in arguments if item.startswith("--")} <= set(known)
    else:
        args = module.parse_args(arguments)
    if name in ("prepare", "doctor", "train") and "--config" in arguments:
        config = arguments[arguments.index("--config") + 1]
        overrides = [item for item in arguments if re.match(r"[\w.]+=", item)]
        if config not in PLACEHOLDERS:
            load_config([config_file(config, "data" if name == "prepare" else "zoomldm")], overrides)
    elif name == "train":
        assert args.resume or args.base


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_are_accepted(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, *arguments in commands(page.read_text()):
        try:
            check(name, arguments, capsys)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{name} {shlex.join(arguments)}: {error!r} {capsys.readouterr().err}")


def test_a_page_with_a_wrong_option_value_or_key_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    train = "    zoomldm train --config brca \\\n        data.chort=X\n"
    page = f"    zoomldm sample --seeds 3  # no\n{train}`zoomldm joint --seed x`"
    found = commands(page)
    assert [name for name, *_ in found] == ["sample", "train", "joint"]
    for name, *arguments in found:
        with pytest.raises((Exception, SystemExit)):
            check(name, arguments, capsys)
