"""``doctor``: what is installed, what is missing, and which kernels this machine uses."""

from __future__ import annotations

import platform

import typer

from actratio import __version__
from actratio.cli.options import Json
from actratio.cli.terminal import out, print_json, print_sentences, print_table, waiting


def show_environment(as_json: Json = False) -> None:
    """Show what is installed, what is missing and which extra brings it, and the kernels and devices of this machine.

    The exit status is 1 if a package is missing that actratio always needs, or has a version that does not work.
    """
    from actratio.environment import inspect_environment
    from actratio.errors import pip_install

    with waiting("looking at this machine"):
        environment = inspect_environment()
    if as_json:
        content = environment.to_dict()
        rows, settings = content.pop("packages"), {"actratio": __version__, "python": platform.python_version()}
        print_json({"settings": settings, "rows": rows, "path": None, **content})
        raise typer.Exit(1 if environment.problems else 0)
    print_table(
        f"Packages of actratio {__version__}, Python {platform.python_version()}",
        ["package", "installed", "needed", "extra"],
        [
            [package.name, package.version or "no", package.needed, package.extra or ""]
            for package in environment.packages
        ],
        justify="left",
    )
    print_table("Devices", ["--device", "name"], [[*device] for device in environment.devices.items()], justify="left")
    print_table(
        "Kernels",
        ["work", "device", "compiled for", "threads"],
        [
            [
                kernel.work,
                kernel.device,
                ", ".join(kernel.compiled) or "nothing: plain PyTorch",
                str(kernel.threads or ""),
            ]
            for kernel in environment.kernels
        ],
        justify="left",
    )
    missing = environment.missing_extras
    for extra, names in missing.items():
        out.print(f"{pip_install(extra)} adds {', '.join(names)}", soft_wrap=True)
    print_sentences(environment.problems or ["Everything that actratio always needs is installed."])
    raise typer.Exit(1 if environment.problems else 0)
