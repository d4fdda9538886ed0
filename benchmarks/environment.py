"""Frames per second of CarRacing environments, side by side.

    python -m benchmarks.environment --cpu-time
    python -m benchmarks.environment --profile     # the parts of a step

The benchmark is part of the package fast_car_racing; see its `--help`.
"""

from fast_car_racing.benchmark import main

if __name__ == "__main__":
    main()
