"""A Flower app that knows nothing of fl-sim but its synthetic faces."""
