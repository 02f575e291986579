"""Write metrics.csv of the results folder that the profile in the working directory names."""

import sys
from pathlib import Path

from e2e_lib.errors import E2EError, command
from e2e_lib.files import write_json
from e2e_lib.runs.tables import write_metrics_table


@command
def main(arguments: list[str]) -> None:
    """The command line."""
    results = Path().resolve()
    try:
        write_metrics_table(results)
    except E2EError as error:
        failure = {"name": "table", "notebook": "", "error": str(error)}
        write_json(results / "failed" / "table.json", failure)
        raise


if __name__ == "__main__":
    sys.exit(main())
