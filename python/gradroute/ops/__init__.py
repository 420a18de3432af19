"""The public functions: check -> geometry -> allocate -> kernel."""
