"""``python -m dagster_resil.cli``: the same as ``resil``."""

from dagster_resil.cli.entry import main

if __name__ == "__main__":
    main()
