"""``python -m actratio``."""

from actratio.cli import main

if __name__ == "__main__":
    main()
