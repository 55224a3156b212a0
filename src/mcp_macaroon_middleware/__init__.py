"""Authorization for MCP servers. Public names are loaded when first used (PEP 562)."""
