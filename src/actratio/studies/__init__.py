"""One module a question: its settings, its runs and its table."""
