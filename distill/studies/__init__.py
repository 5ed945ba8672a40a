"""Studies: grids of rows x seeds x worlds (or folds), declared in TOML, summed up in one table."""
