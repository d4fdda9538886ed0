"""The search for a controller: CMA-ES in the dream, and the choice among its means."""
