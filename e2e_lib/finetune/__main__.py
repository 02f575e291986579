"""The command: reads the command line, fine-tunes, writes and prints the cards."""

import argparse
import sys
from dataclasses import fields
from typing import Any

import e2e_lib.finetune
from e2e_lib.errors import command
from e2e_lib.files import expanded
from e2e_lib.finetune.page import write_card_page
from e2e_lib.finetune.tune import FineTuning, finetune


@command
def main(arguments: list[str]) -> int:
    """Read the command line, fine-tune, print the cards."""
    parser = argparse.ArgumentParser(
        prog="python -m e2e_lib.finetune",
        description=e2e_lib.finetune.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sae", nargs="+", metavar="SAE")
    parser.add_argument("--output", required=True)
    for own in fields(FineTuning):
        kind: Any = getattr(own.type, "__origin__", own.type)  # of Annotated, what it annotates
        name = f"--{own.name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(name, action="store_true", dest=own.name)
        else:
            needed = own.name in ("model", "data")
            default = None if needed else own.default
            parser.add_argument(name, type=kind, required=needed, default=default, dest=own.name)
    given = vars(parser.parse_args(arguments))
    paths, output = given.pop("sae"), expanded(given.pop("output"))
    for card in finetune(paths, FineTuning(**given), output):
        name, before, after = card["asked"]["sae"], card["before"], card["after"]
        write_card_page(output / name, card)
        words = [
            f"{key} {before[key]:.4g} -> {after[key]:.4g}" for key in ("ce_increase", "kl", "l0")
        ]
        print(f"{name}: {', '.join(words)}, {card['stayed']:.0%} of latents stayed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
