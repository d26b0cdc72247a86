"""`locald completion`: each script is read by its own shell, and a Tab brings the verb, the option, the choice."""

from collections.abc import Iterator

import pytest

from tests.integration.installed import Installed, run_as
from tests.integration.tmux import Tmux

pytestmark = pytest.mark.root
# What is typed before the Tab, and what the line then ends with.
COMPLETIONS = [("locald doc", "locald doctor"), ("locald run --read", "locald run --read-only")]
CHOICES = ("direct", "mapped", "auto")


@pytest.fixture
def terminal(installed: Installed) -> Iterator[Tmux]:
    """A shell at a terminal."""
    made = Tmux(installed, columns=120)
    try:
        yield made
    finally:
        made.close()


def press_tab(terminal: Tmux, typed: str, completed: str) -> None:
    """Type without Enter, press Tab, wait for the rest; then throw the line away."""
    terminal.type(typed)
    terminal.wait_for(f"{typed}$")
    terminal.key("Tab")
    terminal.wait_for(f"{completed}$")
    terminal.key("C-u")


def test_bash(terminal: Tmux) -> None:
    """As .bashrc has it."""
    assert terminal.run("source <(locald completion bash)") == (0, [])
    for typed, completed in COMPLETIONS:
        press_tab(terminal, typed, completed)


def test_zsh(terminal: Tmux) -> None:
    """As .zshrc has it, after compinit."""
    terminal.start("PS1='zsh%# ' exec zsh -f")
    terminal.wait_for("^zsh%")
    terminal.line(
        'autoload -Uz compinit && compinit -D -u && source <(locald completion zsh) && echo so""urced'
    )
    terminal.wait_for("^sourced$")
    for typed, completed in COMPLETIONS:
        press_tab(terminal, typed, completed)


def test_fish(installed: Installed) -> None:
    """As config.fish has it; fish says by itself what a Tab would offer."""
    for typed, completed in COMPLETIONS:
        offered = ask_fish(installed, typed)
        assert completed.split()[-1] in offered, offered
    assert set(CHOICES) <= set(ask_fish(installed, "locald run --mode "))


def ask_fish(installed: Installed, typed: str) -> list[str]:
    """Return the words that fish offers for a line."""
    script = f"{installed.bin}/locald completion fish | source; complete --do-complete '{typed}'"
    path = f"{installed.bin}:/usr/bin:/bin"
    said = run_as(installed.user, ["/usr/bin/fish", "--no-config", "-c", script], PATH=path)
    return [line.partition("\t")[0] for line in said.out.splitlines()]
