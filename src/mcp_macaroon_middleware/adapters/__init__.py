"""Adapters carry requests of a framework to the core and its answers back. Each framework has a folder of its own."""
