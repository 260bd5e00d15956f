"""What the help shows: an example of every command that can be parsed, and the flags that most people set first."""

import shlex

import pytest

from aweigh.cli.help import EXAMPLES, HELP_ALL
from aweigh.cli.main import COMMANDS, app, run
from aweigh.cli.train import FIRST, Flags


def test_every_command_has_an_example() -> None:
    assert {command.split()[0] for command in EXAMPLES} == {name for name, _, _ in COMMANDS}


@pytest.mark.parametrize("command", EXAMPLES)
def test_the_example_stands_in_the_help_and_is_a_call_of_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    assert f"Example: {EXAMPLES[command]}" in " ".join(capsys.readouterr().out.split())
    program, *arguments = shlex.split(EXAMPLES[command])
    assert program == "aweigh" and EXAMPLES[command].startswith(f"aweigh {command}")
    app.parse_args(arguments, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("command", ["train", "config show"])
def test_the_first_flags_are_shown_and_all_on_demand(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    every = [name.replace("_", "-") for name in Flags.__dataclass_fields__]
    assert run([*command.split(), "--help"]) == 0
    short = capsys.readouterr().out.split()
    assert [f"--{name}" for name in every if f"--{name}" in short] == [
        f"--{name}" for name in every if name.replace("-", "_") in FIRST
    ]
    assert HELP_ALL in short
    assert run([*command.split(), HELP_ALL]) == 0
    shown = capsys.readouterr().out.split()
    assert all(f"--{name}" in shown for name in every)
