"""The study of transformers: activation ratio over depth."""
