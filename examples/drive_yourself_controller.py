"""Your own controller on the real track: replace `act` and run this file.

    python -m examples.drive_yourself_controller
    python -m examples.drive_yourself_controller --observation latent --tracks 4

The environment is CarRacing-v3 with the observations that the world model uses: a 64×64 frame, or
[z, h] from V and M of --run-dir. `act` here follows the road by colour and reaches about ROAD_SCORE
points.
"""
