"""`python -m aiogate` is `aiogate`."""

from aiogate.cli.main import main

if __name__ == "__main__":
    main()
