"""Entry of the plugin. Docker runs every plugin whenever it lists them: metadata comes first."""

from __future__ import annotations

import json
import sys

from docker_livemig.version import SUMMARY, VERSION

METADATA = {
    "SchemaVersion": "0.1.0",
    "Vendor": "docker-livemig",
    "Version": VERSION,
    "ShortDescription": SUMMARY,
    "URL": "",
}


def main() -> int:
    """Run the command of sys.argv; return the exit code."""
    if sys.argv[1:2] == ["docker-cli-plugin-metadata"]:
        sys.stdout.write(json.dumps(METADATA) + "\n")
        return 0
    from docker_livemig import cli  # noqa: PLC0415  not before the metadata is told

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
