"""``python -m actratio.cli``."""

from actratio.cli import main

if __name__ == "__main__":
    main()
