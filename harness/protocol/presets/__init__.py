"""The protocols that ship with the harness, as TOML."""
