"""The simulated shop: its chance, world, visits, stock, reviews and the truth that was planted."""
