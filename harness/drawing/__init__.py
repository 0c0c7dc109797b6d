"""Pictures and charts, with one palette."""
