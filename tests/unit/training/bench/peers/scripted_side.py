"""A side of the benchmark that answers what its command line says, without any model."""

import json
import sys


def main() -> None:
    script = json.loads(sys.argv[1])
    if "stops_at_start" in script:
        raise RuntimeError(script["stops_at_start"])
    if script.get("exits_silently"):
        sys.exit(3)
    ready = {"versions": {"side": "1"}, "num_parameters": script.get("num_parameters", 7)}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    for index, _ in enumerate(sys.stdin):
        if index == script.get("stops_at_step"):
            raise NotImplementedError("no backward here")
        # Every step takes a second more than the one before, times what the side is slower.
        answer = {
            "seconds": 1.0 * (index + 1) * script.get("slower", 1),
            "processor_seconds": 0.5 * (index + 1) * script.get("slower", 1) ** 2,
            "loss": 1.0,
            "num_supervised": script.get("num_supervised", 100.0),
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
