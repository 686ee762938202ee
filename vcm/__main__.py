"""Run the command line as `python -m vcm`."""

from vcm.cli import main

if __name__ == "__main__":
    main()
