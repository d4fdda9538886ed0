"""Importing this module replaces CarRacing-v3 by the fast environment.

For programs that import packages by name: `rl_zoo3 train --gym-packages fast_car_racing.replace`.
"""

from fast_car_racing import replace_car_racing

replace_car_racing()
