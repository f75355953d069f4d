"""Made-up tables of the study of training, with known truths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from actratio.studies.training.conditions import (
    CENTRED,
    CONTROL,
    FROZEN_HIDDEN,
    FROZEN_OUTPUT,
    factorial_runs,
)
from actratio.studies.training.schedule import FIXED_WIDTH, decay_steps, short_steps
from actratio.studies.training.tidying import COLUMNS, DECAY, FACTORIAL, MECHANISM, START
from actratio.studies.training.untrained import PLAIN, RAISED

SETTINGS: dict[str, Any] = {
    "study": "training",
    "dataset": "made-up",
    "fingerprint": "0" * 64,
    "features": 784,
    "classes": 10,
    "widths": [32, 128, 512],
    "seeds": 5,
    "epochs": 100,
    "examples": 20_000,
    "networks": 200,
    "device": "cpu",
}
TOKENS = 2000

Curve = Callable[[np.ndarray], np.ndarray]


def run_rows(
    part: str,
    condition: str,
    width: int,
    steps: list[int],
    ratio: Curve,
    *,
    seeds: int = 5,
    loss: Curve = lambda t: 2.3 * (1 + t) ** -0.5,
    noise: float = 0.0,
    dead: float = 0.0,
) -> pd.DataFrame:
    """Rows of one condition, with noise that differs between seeds and steps."""
    rng = np.random.default_rng([width, *f"{part} {condition}".encode()])
    t = np.asarray(steps, dtype=float)
    rows = []
    for seed in range(seeds):
        for layer in range(2):
            ratios = np.clip(ratio(t) * np.exp(noise * rng.standard_normal(len(t))), 1e-6, 1)
            for split in ("train", "val"):
                rows.append(
                    pd.DataFrame(
                        {
                            "part": part, "condition": condition, "width": width, "layer": layer, "seed": seed,
                            "step": steps, "split": split, "tokens": TOKENS, "activation_ratio": ratios,
                            "active_mean": ratios * width, "dead": np.round(dead * width * t / t[-1]),
                            "train_loss": loss(t), "val_loss": loss(t), "shift": -t / t[-1], "skewness": 0.1,
                        }
                    )
                )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def start_rows(*, ratio: float = 0.5, raised: float = 0.54, networks: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    rows = []
    for width in SETTINGS["widths"]:
        drawn = 0.4 / np.sqrt(width) * rng.standard_normal(networks)
        for arm, mean in ((PLAIN, ratio), (RAISED, raised)):
            for layer in range(2):
                ratios = mean + drawn - drawn.mean()
                rows.append(
                    pd.DataFrame(
                        {
                            "part": START, "condition": arm, "width": width, "layer": layer, "seed": range(networks),
                            "step": 0, "split": "val", "tokens": TOKENS, "activation_ratio": ratios,
                            "active_mean": ratios * width,
                        }
                    )
                )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def power_ratio(width: int) -> Curve:
    """A power law to a floor; α of the final law is about 0.5."""
    floor = 0.3 * (width / 32) ** -0.5
    return lambda t: floor + (0.5 - floor) * (1 + t) ** -0.4


def exponential_ratio(width: int) -> Curve:
    floor = 0.3 * (width / 32) ** -0.5
    return lambda t: floor + (0.5 - floor) * np.exp(-t / 60)


def decay_rows(
    ratio_of: Callable[[int], Curve] = power_ratio, *, noise: float = 0.01, dead: float = 0.2
) -> pd.DataFrame:
    steps = decay_steps(SETTINGS["epochs"], SETTINGS["examples"])
    return pd.concat(
        [
            run_rows(DECAY, str(width), width, steps, ratio_of(width), noise=noise, dead=dead)
            for width in SETTINGS["widths"]
        ],
        ignore_index=True,
    )


def factorial_rows(effects: tuple[float, ...], *, never: tuple[int, ...] = (), noise: float = 0.01) -> pd.DataFrame:
    """Rows of the factorial, where log A changes by ``effects`` at every step; runs in ``never`` don't reach the loss."""
    steps = short_steps(SETTINGS["epochs"], SETTINGS["examples"])
    rows = []
    for number, run in enumerate(factorial_runs()):
        shift = float(np.dot(effects, run.levels)) / 2
        loss = 1.0 if number in never else 0.0

        def falls(t: np.ndarray, floor: float = loss) -> np.ndarray:
            return floor + 2.3 * (1 + t) ** -0.5

        def ratio(t: np.ndarray, shift: float = shift) -> np.ndarray:
            return np.full_like(t, 0.25 * np.exp(shift))

        rows.append(run_rows(FACTORIAL, run.name, FIXED_WIDTH, steps, ratio, seeds=3, loss=falls, noise=noise))
    return pd.concat(rows, ignore_index=True)


def mechanism_rows(*, centred: float = 0.49, control: float = 0.2, frozen: float = 0.5) -> pd.DataFrame:
    """Rows of the arms, whose ratio goes from 0.5 to the given one."""
    steps = short_steps(SETTINGS["epochs"], SETTINGS["examples"])
    ends = {CONTROL: control, FROZEN_HIDDEN: frozen, FROZEN_OUTPUT: 0.3, CENTRED: centred}

    def curve(end: float) -> Curve:
        return lambda t: 0.5 + (end - 0.5) * t / t[-1]

    return pd.concat(
        [
            run_rows(MECHANISM, arm, FIXED_WIDTH, steps, curve(end), noise=0.0 if arm == FROZEN_HIDDEN else 0.01)
            for arm, end in ends.items()
        ],
        ignore_index=True,
    )


def complete(*frames: pd.DataFrame) -> pd.DataFrame:
    """One table with all columns of the study."""
    return pd.concat(frames, ignore_index=True).reindex(columns=list(COLUMNS))


def parts_left_out(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The table of a study that stopped early: units that are missing, and units alone."""
    for part, rows in frame.groupby("part"):
        by = "width" if part == START else "condition"
        units = [unit.index for _, unit in rows.groupby(by)]
        others = frame[frame["part"] != part] if part == DECAY else frame[~frame["part"].isin([part, DECAY])]
        for unit in units[:1] if part == FACTORIAL else units:
            yield pd.concat([others, rows.drop(unit)], ignore_index=True)
        yield rows.loc[units[0]].reset_index(drop=True)
