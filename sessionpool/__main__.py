"""`python -m sessionpool` is the command `sessionpool`."""

from sessionpool.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
