"""The hash chain, and the checks that nothing was changed behind it."""
