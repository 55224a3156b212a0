"""The core decides: plans, checks, decisions, records. It knows no framework and runs no component."""
