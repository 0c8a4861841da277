"""Passwords from the keyboard, typed twice and not shown, or from standard input; and `aiogate hash-password`."""

from __future__ import annotations

import sys
from typing import Literal

import click

from aiogate.cli.printing import as_json, example, print_json

__all__ = ["hash_password", "read_password"]


def read_password(from_stdin: bool) -> str:
    """A password: the one line of standard input, or typed twice. Raises `click.UsageError`."""
    if not from_stdin:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask for a password: say --password-stdin")
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError("standard input is not UTF-8 text") from error
    # One line end is the shell's; a second one would be part of a password that nobody can type.
    password = text.removesuffix("\n").removesuffix("\r")
    if "\n" in password or "\r" in password:
        raise click.UsageError("standard input holds more than one line")
    if not password:
        raise click.UsageError("standard input is empty: a password is expected there")
    return password


@click.command(epilog=example("aiogate hash-password", 'printf %s "$PASSWORD" | aiogate hash-password --cost 12'))
@click.option(
    "--cost", type=click.IntRange(4, 16), default=10, show_default=True, help="bcrypt's; each step doubles the time."
)
@click.option(
    "--algorithm", type=click.Choice(["bcrypt", "argon2id"]), default="bcrypt", show_default=True, help="Of the hash."
)
@as_json
def hash_password(cost: int, algorithm: Literal["bcrypt", "argon2id"], as_json: bool) -> None:
    """Print the hash of a password, which is typed twice and not shown, or read from a pipe."""
    from aiogate.credentials.hashes import argon2_is_installed, hashed, mistake

    if algorithm == "argon2id" and not argon2_is_installed():
        raise click.ClickException("argon2id needs the extra `argon2`: pip install 'aiogate[argon2]'")
    password = read_password(from_stdin=not sys.stdin.isatty()).encode("utf-8", "surrogateescape")
    if wrong := mistake(password, algorithm):
        raise click.ClickException(wrong)
    found = hashed(password, algorithm, cost)
    if as_json:
        print_json({"hash": found})
    else:
        click.echo(found)
