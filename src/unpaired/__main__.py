"""`python -m unpaired`: the program, where it is not on the path, as for torchrun."""

from unpaired.cli import main

if __name__ == "__main__":
    main()
